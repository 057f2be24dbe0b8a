"""Columns and rows taken out of embedding tables."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from autocompress_pruning import EmbeddingColumns, EmbeddingRows
from autocompress_pruning.embedding_rows import SharedRows, count_rows
from autocompress_pruning.scattered import ScatteredEmbedding
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Method, NotApplicable, Target, Task
from autocompress.compress import check_order
from autocompress.effect import output_error, outputs
from autocompress.errors import InvalidInput
from autocompress.plugins import registry
from autocompress.testing_families import gru4rec, recommender

CPU = Target("cpu")
ROWS, WIDTH = 40, 8
COLUMNS, SHARE = EmbeddingColumns(), EmbeddingRows()


class Tokens(nn.Module):
    """Tokens (B, T) to logits (B, 3): embedded, averaged and read by a linear layer, behind a norm if there is one."""

    def __init__(self, norm: bool = False, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(ROWS, WIDTH, **options)
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.embedding(tokens).mean(dim=1)))
        return logits


class Tied(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, ROWS)
        self.head.weight = self.embedding.weight


class ScoresAll(Tokens):
    """Scores of all rows by the table itself."""

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.embedding(tokens).mean(dim=1) @ self.embedding.weight.T
        return scores


def make_task(model: nn.Module, highest: int = ROWS) -> Task:
    """Tokens (64, 5), all below `highest`."""
    tokens = torch.randint(highest, (64, 5), generator=torch.Generator().manual_seed(0))
    data = TensorDataset(tokens, torch.zeros(64, dtype=torch.long))
    return Task(model=model, train=data, validation=data, test=data)


def reshaped(method: Method, task: Task, **params: Any) -> nn.Module:
    plan = method.decide(task.trained_model(), params, task)
    return method.reshape(task.trained_model(), json.loads(json.dumps(plan)))


def error(model: nn.Module, task: Task) -> float:
    return output_error(outputs(model, task.inputs(16)), outputs(task.trained_model(), task.inputs(16)))


def without_columns(model: Tokens) -> Tokens:
    with torch.no_grad():
        model.embedding.weight[:, [1, 2, 5, 7]] = 0
    return model


def test_columns_go_from_the_table_and_its_reader() -> None:
    task = make_task(without_columns(Tokens()))
    model = reshaped(COLUMNS, task, ratio=0.5)
    assert model.get_parameter("embedding.weight").shape == (ROWS, 4)
    assert model.get_parameter("head.weight").shape == (3, 4)
    assert error(model, task) < 1e-6
    expected = task.trained_model().get_parameter("head.weight")[:, [0, 3, 4, 6]]
    assert torch.equal(model.get_parameter("head.weight"), expected)


def test_behind_a_norm_zeros_stand_in_the_columns_places() -> None:
    task = make_task(without_columns(Tokens(norm=True)))
    model = reshaped(COLUMNS, task, ratio=0.5)
    assert isinstance(model.get_submodule("embedding"), ScatteredEmbedding)
    assert model.get_parameter("embedding.table.weight").shape == (ROWS, 4)
    assert model.get_parameter("head.weight").shape == (3, WIDTH)
    assert error(model, task) < 1e-6


def test_a_perceptron_over_two_tables_loses_the_columns_of_both() -> None:
    model = reshaped(COLUMNS, recommender(), ratio=0.5)
    assert model.get_parameter("users.weight").shape == (64, 8)
    assert model.get_parameter("items.weight").shape == (128, 8)
    assert model.get_parameter("mlp.0.weight").shape == (32, 16)


def test_a_recurrent_net_reads_fewer_columns() -> None:
    model = reshaped(COLUMNS, gru4rec(), ratio=0.5)
    assert model.get_parameter("rnn.weight_ih_l0").shape == (72, 12)
    assert model.get_submodule("rnn").input_size == 12


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(5, 3)), "tables, but this model has none to remove$"),
        (Tied(), "; embedding shares weights with another layer"),
        (Tokens(max_norm=1.0), "; embedding has a `max_norm`"),
        (
            ScoresAll(),
            "; embedding cannot be replaced: AttributeError: 'ScatteredEmbedding'",
        ),
    ],
    ids=["none", "tied", "max_norm", "read directly"],
)
def test_tables_that_keep_their_columns(model: nn.Module, reason: str) -> None:
    task = make_task(model)
    inputs = torch.zeros(4, 5) if isinstance(model, nn.Sequential) else None
    with pytest.raises(NotApplicable, match=reason):
        COLUMNS.check(Task(**{**vars(task), "example_inputs": inputs}), CPU)


def test_a_table_that_saves_hardly_more_than_its_plan_takes_stays() -> None:
    class Biased(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Embedding(16, 4)

        def forward(self, tokens: Tensor) -> Tensor:
            logits: Tensor = super().forward(tokens) + self.bias(tokens % 16).mean()
            return logits

    plan = COLUMNS.decide(Biased(), {"ratio": 0.5}, make_task(Biased()))
    assert [narrowing["layer"] for narrowing in plan["narrowings"]] == ["embedding"]
    assert plan["left"]["bias"].startswith("would save 128 bytes, hardly more than the ")


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(ROWS, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.bag(tokens))
        return logits


@pytest.mark.parametrize("method", [COLUMNS, SHARE], ids=lambda method: method.name)
def test_bags_are_said_not_to_be_handled(method: Method) -> None:
    with pytest.raises(NotApplicable, match="; bag is an nn.EmbeddingBag, which is not handled$"):
        method.check(make_task(Bag()), CPU)


def test_shared_rows_are_not_thrown_away_for_a_student() -> None:
    with pytest.raises(InvalidInput, match="cannot follow 'embedding_rows', which leaves rows that share one"):
        check_order([SHARE, registry().get("own_student")])


def test_rows_that_are_never_seen_share_their_mean() -> None:
    task = make_task(Tokens(), highest=10)
    model = reshaped(SHARE, task, min_count=1)
    old = task.trained_model().get_parameter("embedding.weight")
    table = model.get_submodule("embedding")
    assert isinstance(table, SharedRows) and table.table.weight.shape == (11, WIDTH)
    assert torch.equal(table.table.weight[:10], old[:10])
    torch.testing.assert_close(table(torch.tensor([10, 39])), old[10:].mean(dim=0).expand(2, -1))
    assert error(model, task) == 0
    assert model.state_dict().keys() == {"embedding.table.weight", "head.weight", "head.bias"}


def test_rows_are_counted_over_the_training_data() -> None:
    task = make_task(Tokens(), highest=10)
    counts = count_rows(task.trained_model(), task)["embedding"]
    tokens = torch.stack([task.train[row][0] for row in range(64)])
    assert torch.equal(counts, torch.bincount(tokens.flatten(), minlength=ROWS))
    both = count_rows(recommender().trained_model(), recommender())
    assert {name: int(count.sum()) for name, count in both.items()} == {"users": 256, "items": 256}


def test_hardly_seen_rows_go_too() -> None:
    task = make_task(Tokens())
    counts = count_rows(task.trained_model(), task)["embedding"]
    kept = int((counts >= 7).sum())
    assert 10 < kept < 35
    assert reshaped(SHARE, task, min_count=7).get_parameter("embedding.table.weight").shape == (kept + 1, WIDTH)


def test_the_padding_row_stays_and_is_not_trained() -> None:
    task = make_task(Tokens(padding_idx=20), highest=10)
    table = reshaped(SHARE, task, min_count=1).get_submodule("embedding")
    assert isinstance(table, SharedRows) and table.table.padding_idx == 10
    assert torch.equal(table(torch.tensor(20)), torch.zeros(WIDTH))
    table(torch.tensor([20, 20, 1])).sum().backward()
    gradient = table.table.weight.grad
    assert gradient is not None and gradient.abs().sum(dim=1).nonzero().flatten().tolist() == [1]


def test_the_map_takes_a_bit_a_row() -> None:
    plan = SHARE.decide(recommender().trained_model(), {"min_count": 2}, recommender())
    assert {name: len(bits) for name, bits in plan["tables"].items()} == {"users": 12, "items": 24}  # base64


@pytest.mark.parametrize(
    ("model", "highest", "reason"),
    [
        (Tokens(), ROWS, "; embedding has 0 of 40 rows that are seen less than 2 times"),
        (Tied(), 10, "; embedding shares its weight with another layer"),
        (
            ScoresAll(),
            10,
            "; embedding cannot be replaced: AttributeError: 'SharedRows'",
        ),
    ],
    ids=["all in use", "tied", "read directly"],
)
def test_tables_that_keep_their_rows(model: nn.Module, highest: int, reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        SHARE.check(make_task(model, highest), CPU)
