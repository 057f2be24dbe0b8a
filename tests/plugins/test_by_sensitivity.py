"""Shares, ranks and bits that a solver chooses from what each layer does to the outputs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from autocompress_factorization import SpatialSvdConv, SvdLinear, Tucker2Conv
from autocompress_factorization.ranks import Ladder, solved_ranks
from autocompress_pruning import StructuredBatchNormScale, StructuredMagnitude, StructuredTaylor
from autocompress_pruning.group_shares import group_macs, group_weights, solved_shares
from autocompress_pruning.replay import replay
from autocompress_pruning.trace import find_groups, removals
from autocompress_quantization.mixed_precision import BITS, allot
from torch import nn
from torch.utils.data import TensorDataset

from autocompress import Method, Plan, Task, sensitivity
from autocompress.compress import fill
from autocompress.effect import output_error, outputs
from autocompress.measure.cost import model_cost
from autocompress.sensitivity import Profile
from autocompress.task import weights_digest
from autocompress.testing_families import FAMILIES
from autocompress.testing_tasks import images


def decide(method: Method, task: Task, **params: Any) -> Plan:
    plan: Plan = method.decide(task.trained_model(), fill(method.name, method.search_space(task), params), task)
    assert json.loads(json.dumps(plan)) == plan
    return plan


def made(method: Method, task: Task, **params: Any) -> nn.Module:
    return method.reshape(task.trained_model(), decide(method, task, **params)).eval()


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


CASES: list[tuple[Method, dict[str, Any], str]] = [
    (StructuredMagnitude(), {"scope": "sensitivity"}, "residual"),
    (StructuredMagnitude(), {"scope": "sensitivity_macs"}, "grouped"),
    (StructuredTaylor(), {"scope": "sensitivity", "steps": 2}, "encoder"),
    (StructuredBatchNormScale(), {"scope": "sensitivity_macs"}, "residual"),
    (SvdLinear(), {"allocation": "sensitivity"}, "encoder"),
    (Tucker2Conv(), {"allocation": "sensitivity"}, "residual"),
    (SpatialSvdConv(), {"allocation": "sensitivity"}, "images"),
]


@pytest.mark.parametrize(("method", "params", "family"), CASES, ids=lambda value: str(getattr(value, "name", value)))
def test_one_model_and_data_give_one_plan(
    method: Method, params: dict[str, Any], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured twice, with nothing kept; the model is left as it was, and the plan works."""
    task, plans = FAMILIES[family](), []
    for _ in range(2):
        monkeypatch.setattr(sensitivity._PROFILES, "_made", {})
        plans.append(decide(method, task, **params))
    assert plans[0] == plans[1]
    model = task.trained_model()
    before = weights_digest(model)
    method.decide(model, fill(method.name, method.search_space(task), params), task)
    assert weights_digest(model) == before
    smaller = method.reshape(model, plans[0])
    assert parameters(smaller) < parameters(task.trained_model())
    expected = outputs(task.trained_model(), task.inputs(4))
    assert [tensor.shape for tensor in outputs(smaller, task.inputs(4))] == [tensor.shape for tensor in expected]


def test_a_profile_serves_every_ratio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sensitivity._PROFILES, "_made", {})
    task, sizes = images(), []
    for ratio in (0.3, 0.5, 0.7):
        for round_to in (1, 8):
            model = made(StructuredMagnitude(), task, scope="sensitivity", ratio=ratio, round_to=round_to)
        sizes.append(parameters(model))
    assert sizes == sorted(sizes, reverse=True)
    assert capsys.readouterr().out.count("sensitivity of") == 1
    made(StructuredMagnitude(), task, scope="sensitivity", norm="l1")
    assert capsys.readouterr().out.count("sensitivity of") == 1, "other channels go: measured anew"


def useless_middle() -> Task:
    """Images (B, 3, 8, 8) -> (B, 5): the second of three convolutions adds next to nothing to a shortcut."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, padding=1)
            self.wide, self.back = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 1)
            self.inner, self.out = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 1)
            self.head = nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x).relu()
            x = x + 1e-3 * self.back(self.wide(x).relu())
            x = x + self.out(self.inner(x).relu())
            logits: torch.Tensor = self.head(x.mean(dim=(2, 3)))
            return logits

    torch.manual_seed(0)
    data = TensorDataset(torch.randn(64, 3, 8, 8), torch.zeros(64, dtype=torch.long))
    return Task(model=Net(), train=data, validation=data, test=data)


def test_what_matters_least_goes_first() -> None:
    """`wide` and `inner` are alike but for what becomes of them."""
    task = useless_middle()
    even = made(StructuredMagnitude(), task, ratio=0.3, round_to=1)
    solved = made(StructuredMagnitude(), task, ratio=0.3, round_to=1, scope="sensitivity")
    assert solved.get_parameter("wide.weight").shape[0] <= 4
    expected = outputs(task.trained_model(), task.inputs(64))
    errors = [output_error(outputs(model, task.inputs(64)), expected) for model in (even, solved)]
    assert errors[1] < errors[0] / 2
    assert parameters(solved) < 1.1 * parameters(even)


def test_groups_weigh_what_goes_with_them() -> None:
    """Against the model that has lost half of one group; multiply-adds against the count of what runs."""
    task = useless_middle()
    model, inputs = task.trained_model(), task.inputs(2)
    (group,) = [group for group in find_groups(model, inputs) if group.root == "wide"]
    weights, macs = group_weights(model, [group]), group_macs(model, [group], inputs)
    assert weights == {"wide": 32 * (16 * 9 + 1 + 16)}
    assert macs == {"wide": 32 * (16 * 9 + 1 + 16) * 2 * 64}
    whole = model_cost(model, inputs).macs
    halved = replay(model, removals([group], {"wide": list(range(16))}))
    less = model_cost(halved, inputs).macs
    assert whole is not None and less is not None
    assert whole - less == (macs["wide"] - 32 * 2 * 64) / 2, "biases are no multiply-adds"


def test_shares_leave_as_much_as_the_ratio_everywhere() -> None:
    task = useless_middle()
    model = task.trained_model()
    groups = find_groups(model, task.inputs(2))
    costs = group_weights(model, groups)
    flat = Profile((0.5,), {group.root: (float(index),) for index, group in enumerate(groups)}, 1)
    for ratio in (0.1, 0.5, 0.9):
        shares = solved_shares(groups, flat, costs, ratio, 1)
        left = sum(costs[root] * (1 - share) for root, share in shares.items())
        assert (
            left <= sum(round(costs[group.root] * (1 - round(ratio * group.size) / group.size)) for group in groups) + 3
        )
        assert max(shares.values()) <= 0.95


def test_ranks_leave_no_more_weights_than_the_energy_everywhere() -> None:
    ladders = {
        name: Ladder(4096, [torch.arange(64.0, 0, -1)], lambda ranks: [(128, ranks)] if isinstance(ranks, int) else [])
        for name in ("vital", "idle")
    }
    errors = {"vital": (0.9, 0.8, 0.5, 0.2, 0.1, 0.05), "idle": (1e-6,) * 6}
    found = solved_ranks(ladders, 0.5, Profile((0.2, 0.4, 0.6, 0.8, 0.9, 0.97), errors, 1))
    even = ladders["vital"].ranks(0.5)
    vital, idle = found["vital"], found["idle"]
    assert isinstance(even, int) and isinstance(idle, int)
    assert vital is None, "it stays whole"
    assert idle < even and 4096 + 128 * idle <= 2 * 128 * even


def test_factors_by_sensitivity_beat_the_same_energy_everywhere() -> None:
    """On inputs that were not looked at; at no more weights."""
    wins = []
    for method, family in ((SvdLinear(), "encoder"), (SvdLinear(), "vit"), (Tucker2Conv(), "residual")):
        task = FAMILIES[family]()
        expected = outputs(task.trained_model(), task.inputs(64))
        even, solved = (made(method, task, energy=0.6, allocation=kind) for kind in ("energy", "sensitivity"))
        assert parameters(solved) <= parameters(even)
        errors = [output_error(outputs(model, task.inputs(64)), expected) for model in (solved, even)]
        wins.append(errors[0] <= errors[1])
    assert wins == [True, True, True]


def test_bits_never_exceed_the_average() -> None:
    sizes, generator = [300, 17, 4096, 120], torch.Generator().manual_seed(0)
    damage = [sorted(torch.rand(len(BITS), generator=generator).tolist(), reverse=True) for _ in sizes]
    for average in (2.0, 2.7, 4.0, 6.5, 8.0):
        bits = allot(sizes, damage, average)
        assert sum(b * size for b, size in zip(bits, sizes, strict=True)) <= average * sum(sizes)
    assert allot(sizes, damage, 8.0) == [8, 8, 8, 8]
