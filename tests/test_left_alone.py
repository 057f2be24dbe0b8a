"""Weights that a step left as they were are told by what compresses, where the method does not know them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Recipe, Step, Target, Task
from autocompress.compress import compress, resolve
from autocompress.plugins import registry


class Unusual(nn.Module):
    """Layers and parameters of kinds that few methods know, a linear layer, and one whose weight is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mixing = nn.Parameter(torch.randn(16, 16)), nn.Parameter(torch.randn(16, 16))
        self.pair = nn.Bilinear(16, 16, 16)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.head = nn.Linear(16, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.table @ self.mixing
        logits: Tensor = self.head(self.computed(self.pair(x, x)))
        return logits


def told_by(method: str) -> dict[str, str]:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(32, 16), torch.zeros(32, dtype=torch.long))
    task = Task(model=Unusual, train=data, validation=data, test=data)
    recipe = resolve(Recipe(steps=(Step(method=method),)), registry(), task)
    (*_, change) = compress(task, recipe, registry=registry(), target=Target("cpu")).changes
    return change.skipped


def test_weights_that_a_step_does_not_know_are_told_by_module() -> None:
    for method in ("int8_dynamic", "svd_linear"):
        told = told_by(method)
        assert told["(model)"] == f"its mixing, table are of no kind that {method} works on"
        assert told["pair.weight"] == f"it is of no kind that {method} works on"
        assert "head.weight" not in told


def test_what_a_method_tells_itself_is_told_in_its_words() -> None:
    assert told_by("int8_dynamic")["computed.weight"] == "a parametrization computes it"


def test_a_method_that_changes_everything_leaves_nothing() -> None:
    assert told_by("half_precision") == {}
