"""Hidden units taken out of LSTM and GRU layers, and what becomes of those who read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from autocompress_pruning import RecurrentUnits
from autocompress_pruning.narrowing import Narrowing
from autocompress_pruning.replay import decode
from autocompress_pruning.scattered import ScatteredRecurrent
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import TensorDataset

from autocompress import NotApplicable, Target, Task
from autocompress.effect import output_error, outputs
from autocompress.testing_families import variable_length

CPU = Target("cpu")
METHOD = RecurrentUnits()
FEATURES, HIDDEN = 5, 8
KINDS = pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
DEPTHS = pytest.mark.parametrize("layers", [1, 2, 3])
SIDES = pytest.mark.parametrize("bidirectional", [False, True])


class Net(nn.Module):
    """Sequences (B, T, features) through a recurrent net, and its mean over time through a head."""

    def __init__(self, rnn: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = head if head is not None else nn.Identity()

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0].mean(dim=1))


class Residual(Net):
    def forward(self, x: Tensor) -> Any:
        wide = nn.functional.pad(x, (0, HIDDEN - FEATURES))
        return self.head(wide + self.rnn(x)[0])


class Flat(Net):
    """Reads all time steps at once: each unit is a column in every step."""

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0].flatten(1))


class Normed(Net):
    def forward(self, x: Tensor) -> Any:
        return self.head(nn.functional.layer_norm(self.rnn(x)[0], (HIDDEN,)))


class TwoReaders(Net):
    """A linear layer reads the outputs, and a mean over all units reads them too."""

    def forward(self, x: Tensor) -> Any:
        output = self.rnn(x)[0][:, -1]
        return self.head(output), output.mean(dim=-1)


class Stack(nn.Module):
    """Two recurrent nets of their own, with more features beside the outputs of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(FEATURES, HIDDEN), nn.GRU(HIDDEN + FEATURES, HIDDEN)
        self.head = nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        between = torch.cat([x, self.first(x)[0]], dim=-1)
        logits: Tensor = self.head(self.second(between)[1][-1])
        return logits


def make_task(model: nn.Module, *shape: int) -> Task:
    inputs = torch.randn(*(shape or (8, 6, FEATURES)), generator=torch.Generator().manual_seed(0))
    data = TensorDataset(inputs, torch.zeros(len(inputs), dtype=torch.long))
    return Task(model=model, train=data, validation=data, test=data)


def dead(rnn: Any, ratio: float = 0.5) -> Any:
    """The net with that share of units, others in each layer and direction, whose incoming weights are zero."""
    generator = torch.Generator().manual_seed(1)
    parts = [name.removeprefix("weight_hh") for name, _ in rnn.named_parameters() if name.startswith("weight_hh")]
    with torch.no_grad():
        for part in parts:
            units = torch.randperm(rnn.hidden_size, generator=generator)[: round(rnn.hidden_size * ratio)]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                rows = rnn.get_parameter(f"{name}{part}").view(-1, rnn.hidden_size, *_columns(rnn, f"{name}{part}"))
                rows[:, units] = 0
            rnn.get_parameter(f"weight_hh{part}")[:, units] = 0
    return rnn


def _columns(rnn: nn.Module, name: str) -> Sequence[int]:
    return rnn.get_parameter(name).shape[1:]


def pruned(task: Task, ratio: float = 0.5) -> tuple[nn.Module, list[Narrowing]]:
    plan = METHOD.decide(task.trained_model(), {"ratio": ratio}, task)
    return METHOD.reshape(task.trained_model(), json.loads(json.dumps(plan))), plan["narrowings"]


def error(model: nn.Module, task: Task, inputs: Any = None) -> float:
    inputs = task.inputs(8) if inputs is None else inputs
    return output_error(outputs(model, inputs), outputs(task.trained_model(), inputs))


@KINDS
@DEPTHS
@SIDES
def test_units_without_weights_go_without_a_trace(
    kind: type[nn.LSTM | nn.GRU], layers: int, bidirectional: bool
) -> None:
    torch.manual_seed(0)
    rnn = dead(kind(FEATURES, HIDDEN, layers, batch_first=True, bidirectional=bidirectional))
    task = make_task(Net(rnn, nn.Linear(HIDDEN * (1 + bidirectional), 3)))
    model, (narrowing,) = pruned(task)
    assert error(model, task) < 1e-6
    small = model.get_submodule("rnn")
    assert type(small) is kind and small.hidden_size == HIDDEN // 2
    assert small.get_parameter("weight_hh_l0").shape[1] == HIDDEN // 2
    assert narrowing["readers"].keys() == {"head"}
    assert model.get_parameter("head.weight").shape == (3, HIDDEN // 2 * (1 + bidirectional))


@KINDS
@DEPTHS
@SIDES
def test_without_a_reader_zeros_stand_in_the_units_places(
    kind: type[nn.LSTM | nn.GRU], layers: int, bidirectional: bool
) -> None:
    torch.manual_seed(0)
    task = make_task(dead(kind(FEATURES, HIDDEN, layers, batch_first=True, bidirectional=bidirectional)))
    model, (narrowing,) = pruned(task)
    assert isinstance(model, ScatteredRecurrent) and not narrowing["readers"]
    assert error(model, task) < 1e-6  # outputs and last states
    assert sum(p.numel() for p in model.parameters()) < 0.6 * sum(p.numel() for p in task.trained_model().parameters())


def scattered(rnn: Any) -> tuple[ScatteredRecurrent, list[list[int]]]:
    """The net with half of its units, and which these are."""
    kept = [decode(part) for part in pruned(make_task(rnn))[1][0]["kept"]]
    return METHOD.scatter(METHOD.shrink(rnn, kept), rnn, kept), kept


def test_states_that_are_given_are_read_at_the_units_places() -> None:
    torch.manual_seed(0)
    rnn = dead(nn.LSTM(FEATURES, HIDDEN, 2, batch_first=True, bidirectional=True))
    small, kept = scattered(rnn)
    x, state = torch.randn(3, 6, FEATURES), torch.zeros(4, 3, HIDDEN)
    for part, units in enumerate(kept):  # those that are gone would forget what they were given
        state[part][:, units] = torch.randn(3, len(units))
    with torch.no_grad():
        actual, expected = small(x, (state, state * 0.5)), rnn(x, (state, state * 0.5))
    assert not torch.allclose(expected[0], rnn(x)[0], atol=1e-2)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_packed_sequences_are_packed_still() -> None:
    torch.manual_seed(0)
    rnn = dead(nn.GRU(FEATURES, HIDDEN, 2, batch_first=True))
    wide, _ = scattered(rnn)
    packed = pack_padded_sequence(torch.randn(3, 6, FEATURES), torch.tensor([2, 6, 4]), True, enforce_sorted=False)
    with torch.no_grad():
        (actual, state), (expected, last) = wide(packed), rnn(packed)
    assert isinstance(actual, PackedSequence)
    torch.testing.assert_close(pad_packed_sequence(actual), pad_packed_sequence(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-6)


def test_a_reader_of_packed_sequences_is_found() -> None:
    plan = METHOD.decide(variable_length().trained_model(), {"ratio": 0.5}, variable_length())
    assert [narrowing["readers"].keys() for narrowing in plan["narrowings"]] == [{"head"}]


def test_a_reader_of_all_steps_loses_a_column_in_every_step() -> None:
    torch.manual_seed(0)
    task = make_task(Flat(dead(nn.LSTM(FEATURES, HIDDEN, batch_first=True)), nn.Linear(6 * HIDDEN, 3)))
    model, _ = pruned(task)
    assert model.get_parameter("head.weight").shape == (3, 6 * HIDDEN // 2)
    assert error(model, task) < 1e-6


def test_a_recurrent_reader_loses_the_columns_among_its_inputs() -> None:
    torch.manual_seed(0)
    stack = Stack()
    dead(stack.first), dead(stack.second)
    task = make_task(stack)
    model, narrowings = pruned(task)
    assert [list(narrowing["readers"]) for narrowing in narrowings] == [["second"], ["head"]]
    assert model.get_parameter("second.weight_ih_l0").shape == (3 * HIDDEN // 2, FEATURES + HIDDEN // 2)
    assert error(model, task) < 1e-6


@pytest.mark.parametrize("reader", [Residual, Normed, TwoReaders])
def test_where_the_readers_are_not_clear_the_width_stays(reader: type[Net]) -> None:
    torch.manual_seed(0)
    task = make_task(reader(dead(nn.GRU(FEATURES, HIDDEN, batch_first=True)), nn.Linear(HIDDEN, 3)))
    model, (narrowing,) = pruned(task)
    assert not narrowing["readers"]
    assert model.get_parameter("head.weight").shape == (3, HIDDEN)
    assert model.get_parameter("rnn.net.weight_hh_l0").shape == (3 * HIDDEN // 2, HIDDEN // 2)
    assert error(model, task) < 1e-6


def test_a_tied_reader_keeps_its_weight() -> None:
    torch.manual_seed(0)
    model = Net(dead(nn.GRU(FEATURES, HIDDEN, batch_first=True)), nn.Linear(HIDDEN, 3))
    model.tied = nn.Linear(HIDDEN, 3)
    model.tied.weight = model.head.weight  # type: ignore[assignment]
    narrow, (narrowing,) = pruned(make_task(model))
    assert not narrowing["readers"]
    assert narrow.get_parameter("head.weight") is narrow.get_parameter("tied.weight")


def test_frozen_weights_stay_frozen() -> None:
    model = Net(nn.GRU(FEATURES, HIDDEN, batch_first=True).requires_grad_(False), nn.Linear(HIDDEN, 3))
    narrow, _ = pruned(make_task(model))
    assert {name for name, parameter in narrow.named_parameters() if parameter.requires_grad} == {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize(("ratio", "left"), [(0.1, 7), (0.5, 4), (0.9, 1)])
def test_ratio(ratio: float, left: int) -> None:
    model, _ = pruned(make_task(Net(nn.LSTM(FEATURES, HIDDEN, 2, batch_first=True), nn.Linear(HIDDEN, 3))), ratio)
    assert model.get_submodule("rnn").hidden_size == left


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(6 * FEATURES, 3)), "layers, but this model has none to remove$"),
        (Net(nn.LSTM(FEATURES, HIDDEN, proj_size=3, batch_first=True)), "; rnn projects its hidden units to 3 outputs"),
        (Net(nn.RNN(FEATURES, HIDDEN, batch_first=True)), "; rnn is an nn.RNN, which is not handled$"),
        (Net(nn.GRU(FEATURES, 1, batch_first=True)), "; rnn has 1 columns, too few to remove 50%"),
    ],
    ids=["none", "projected", "plain", "one unit"],
)
def test_not_applicable(model: nn.Module, reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        METHOD.check(make_task(model), CPU)
