"""Training with few levels: the values, the gradients, and what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from autocompress_quantization import BinaryWeights, Int8QAT, TernaryWeights
from autocompress_quantization.fake_quantization import QuantizationAware
from torch import nn
from torch.utils.data import DataLoader

from autocompress import Recipe, Recovery, Step, Target, Task
from autocompress.artifact import load_model, write_model
from autocompress.compress import Compressed, compress, resolve
from autocompress.effect import byte_count
from autocompress.leaves import leaves
from autocompress.metric import top1_accuracy
from autocompress.plugins import registry
from autocompress.tensors import call
from autocompress.testing_families import FAMILIES
from autocompress.testing_tasks import features
from tests.plugins.large import large

CPU = Target("cpu")
AWARE = [
    (BinaryWeights(), {"keep_ends": False}),
    (TernaryWeights(), {"keep_ends": False}),
    *((Int8QAT(), {"bits": bits, "group_size": 32}) for bits in (8, 4, 2)),
]
EVERY_AWARE = pytest.mark.parametrize(("method", "params"), AWARE, ids=lambda value: getattr(value, "name", ""))


def trained(method: QuantizationAware, params: dict[str, Any], task: Task, epochs: int) -> tuple[Compressed, Recipe]:
    step = Step(method=method.name, params=params)
    recovery = Recovery(epochs=epochs, learning_rate=1e-3, batch_size=64)
    recipe = resolve(Recipe(steps=(step,), recovery=recovery), registry(), task)
    return compress(task, recipe, registry=registry(), target=CPU), recipe


def accuracy(model: nn.Module, task: Task) -> float:
    inputs, targets = next(iter(DataLoader(task.validation, batch_size=128)))  # type: ignore[arg-type]
    with torch.no_grad():
        return float(top1_accuracy(model.eval()(inputs), targets))


def test_binary_is_the_sign_by_the_channels_mean_magnitude() -> None:
    """Rastegari et al. 2016, equation 6."""
    task = features()
    plan = BinaryWeights().decide(task.trained_model(), {"keep_ends": False}, task)
    weight = task.trained_model().get_parameter("0.weight")
    made: Any = BinaryWeights().reshape(task.trained_model(), plan)
    scale = weight.abs().mean(dim=1, keepdim=True).bfloat16().float()
    assert torch.equal(made[0].weight, weight.sign() * scale)


def test_ternary_is_nearly_the_papers() -> None:
    """Li et al. 2016: values beyond 0.7 of the mean magnitude; here the nearest of the three, as good or better."""
    task = features()
    plan = TernaryWeights().decide(task.trained_model(), {"keep_ends": False}, task)
    weight = task.trained_model().get_parameter("0.weight").detach()
    made: Any = TernaryWeights().reshape(task.trained_model(), plan)
    magnitude = weight.abs()
    large = magnitude > 0.7 * magnitude.mean(dim=1, keepdim=True)
    scale = (magnitude * large).sum(dim=1, keepdim=True) / large.sum(dim=1, keepdim=True)
    paper = weight.sign() * large * scale
    assert [len(row.unique()) for row in made[0].weight] == [3] * len(weight)
    assert (made[0].weight - weight).norm() <= 1.005 * (paper - weight).norm()
    assert ((made[0].weight == 0) != (paper == 0)).float().mean() < 0.15


def test_gradients_go_straight_through_up_to_one() -> None:
    model: Any = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    with torch.no_grad():
        model[0].weight[0, :8] = 1.5
    grid = {"weights": {"0.weight": [2, 0, 0]}}
    made: Any = BinaryWeights().reshape(model, grid)
    rounded = made[0].weight
    (rounded * torch.arange(16.0)).sum().backward()
    gradient = made[0].parametrizations.weight.original.grad
    assert gradient[0].tolist() == [0.0] * 8 + [float(k) for k in range(8, 16)]
    assert torch.equal(gradient[1], torch.arange(16.0))


@EVERY_AWARE
@pytest.mark.parametrize("family", ["residual", "encoder", "gpt", "lstm"])
def test_what_ships_computes_what_was_trained(method: QuantizationAware, params: dict[str, Any], family: str) -> None:
    task = FAMILIES[family]()
    plan = method.decide(task.trained_model(), params, task)
    model = method.reshape(task.trained_model(), plan).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    inputs, targets = next(iter(DataLoader(task.train, batch_size=32)))  # type: ignore[arg-type]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    task.loss(call(model, inputs), targets).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    changed = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    assert any(name.endswith(".original") for name in changed)
    expected = {name: _weight(model, name).detach().clone() for name in plan["weights"]}
    final = method.finalize(model.eval(), plan, task, CPU)
    assert not any(hasattr(module, "parametrizations") for module in final.modules())
    for name, weight in expected.items():
        assert torch.equal(final.get_parameter(name), weight), name


def _weight(model: nn.Module, name: str) -> torch.Tensor:
    layer, _, attribute = name.rpartition(".")
    weight: torch.Tensor = getattr(model.get_submodule(layer), attribute)
    return weight


def test_tied_weights_stay_tied() -> None:
    task = FAMILIES["gpt"]()
    method = Int8QAT()
    plan = method.decide(task.trained_model(), {"bits": 4, "group_size": 32}, task)
    model = method.reshape(task.trained_model(), plan)
    assert len(list(model.parameters())) == len(list(task.trained_model().parameters()))
    final = method.finalize(model, plan, task, CPU)
    assert final.get_parameter("lm_head.weight") is final.get_parameter("transformer.wte.weight")


@pytest.mark.parametrize(
    ("method", "share", "levels"),
    [(BinaryWeights(), 1 / 16, 2), (TernaryWeights(), 1 / 11, 3)],
    ids=["binary", "ternary"],
)
def test_bytes_on_disk_and_accuracy(method: QuantizationAware, share: float, levels: int, tmp_path: Path) -> None:
    task = large()
    compressed, recipe = trained(method, {}, task, epochs=4)
    write_model(tmp_path, compressed, recipe, CPU, registry())
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < share * byte_count(leaves(task.trained_model()))
    assert max(len(row.unique()) for row in compressed.model.get_parameter("2.weight")) == levels
    loaded = load_model(tmp_path, task.model, registry(), CPU)
    assert torch.equal(loaded.get_parameter("2.weight"), compressed.model.get_parameter("2.weight"))
    assert accuracy(loaded, task) > accuracy(task.trained_model(), task) - 0.1 > 0.5


def test_first_and_last_layers_are_kept_and_told() -> None:
    task = large()
    method = BinaryWeights()
    plan = method.decide(task.trained_model(), {"keep_ends": True}, task)
    assert list(plan["weights"]) == ["2.weight", "4.weight"]
    told = dict.fromkeys(("0.weight", "6.weight"), "it is of the first or last layer")
    assert method.skipped(task.trained_model(), plan) == told
    assert len(method.decide(task.trained_model(), {"keep_ends": False}, task)["weights"]) == 4


def test_without_inner_layers_the_ends_cannot_be_kept() -> None:
    space: Any = BinaryWeights().search_space(FAMILIES["gru"]())
    assert space["keep_ends"].options == (False,)
    space = BinaryWeights().search_space(large())
    assert space["keep_ends"].options == (True, False) and space["keep_ends"].default is True


def test_training_with_two_bits_beats_rounding_to_them() -> None:
    task = FAMILIES["residual"]()
    params = {"bits": 2, "group_size": 128}
    rounded, learned = (trained(Int8QAT(), params, task, epochs)[0].model for epochs in (0, 8))
    assert _loss(learned, task) < 0.7 * _loss(rounded, task)
    assert accuracy(learned, task) > accuracy(task.trained_model(), task) - 0.05


def _loss(model: nn.Module, task: Task) -> float:
    inputs, targets = next(iter(DataLoader(task.train, batch_size=256)))  # type: ignore[arg-type]
    with torch.no_grad():
        return float(task.loss(model.eval()(inputs), targets))
