"""Batch norm's running statistics after a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Recipe, Recovery, Step, Target, Task
from autocompress.batch_norm import SAMPLES, recalibrate
from autocompress.compress import compress, resolve
from autocompress.measure.lock import DeviceLock
from autocompress.plugins import registry
from tests.conftest import tiny_data, tiny_model

CPU = torch.device("cpu")


@pytest.fixture
def lock(tmp_path: Path) -> DeviceLock:
    return DeviceLock(Target("cpu"), tmp_path)


class FrozenNorm(nn.BatchNorm1d):
    """As detectors keep them: in eval mode, whatever is asked of it."""

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(False)
        return self


def normed(norm: type[nn.BatchNorm1d] = nn.BatchNorm1d, **options: Any) -> nn.Sequential:
    """Dropout, whose randomness the statistics must not see, and statistics of another model."""
    model = nn.Sequential(nn.Dropout(0.5), norm(8, **options), tiny_model())
    for mean in model.buffers():
        mean.fill_(7)
    return model.eval()


def mean_of(model: nn.Sequential) -> Tensor:
    mean = model[1].running_mean
    assert isinstance(mean, Tensor)
    return mean


def test_the_statistics_are_those_of_the_training_data(task: Task, lock: DeviceLock) -> None:
    data = tiny_data(128, 5)
    model = normed(momentum=0.3)
    assert recalibrate(model, replace(task, train=data), device=CPU, lock=lock) == 1
    torch.testing.assert_close(mean_of(model), data.tensors[0].mean(dim=0))
    assert model[1].momentum == 0.3
    assert not any(module.training for module in model.modules())


def test_without_training_data_calibration_data_serve(task: Task, lock: DeviceLock) -> None:
    data, model = tiny_data(128, 5), normed()
    less = Task(model=task.model, validation=task.validation, test=task.test)
    assert recalibrate(model, less, device=CPU, lock=lock) == 0
    assert (mean_of(model) == 7).all()
    assert recalibrate(model, replace(less, calibration=data), device=CPU, lock=lock) == 1
    torch.testing.assert_close(mean_of(model), data.tensors[0].mean(dim=0))


def test_samples_are_bounded_and_drawn_at_random(task: Task, lock: DeviceLock) -> None:
    seen: list[int] = []

    class Noting(TensorDataset):
        def __getitem__(self, rows: Any) -> Any:
            seen.extend(rows)
            return super().__getitem__(rows)  # type: ignore[no-untyped-call]

    data = Noting(*tiny_data(2 * SAMPLES, 5).tensors)
    recalibrate(normed(), replace(task, train=data), device=CPU, lock=lock)
    assert len(set(seen)) == SAMPLES and max(seen) > 1.9 * SAMPLES


@pytest.mark.parametrize("model", [normed(FrozenNorm), normed(track_running_stats=False), nn.Sequential(tiny_model())])
def test_what_has_no_statistics_or_frozen_ones_stays(
    model: nn.Sequential, task: Task, lock: DeviceLock, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert recalibrate(model, task, device=CPU, lock=lock) == 0
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert capsys.readouterr().out == ""


def with_norm() -> nn.Module:
    """8 features -> 3 classes, with channels that may go."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_model_that_lost_channels_is_recalibrated(epochs: int, task: Task) -> None:
    task = replace(task, model=with_norm)
    steps = (Step(method="structured_magnitude", params={"ratio": 0.5}),)
    pruned = compressed(task, Recipe(steps=steps, recovery=Recovery(epochs=epochs)))
    assert isinstance(pruned, nn.Sequential)
    inputs, _ = task.train[:]
    torch.testing.assert_close(mean_of(pruned), pruned[0](inputs).mean(dim=0))


def test_a_model_with_its_own_structure_keeps_its_statistics(task: Task) -> None:
    task = replace(task, model=with_norm)
    kept = compressed(task, Recipe(steps=(Step(method="int8_weight_only"),)))
    assert isinstance(kept, nn.Sequential)
    assert torch.equal(mean_of(kept), torch.zeros(32))


def compressed(task: Task, recipe: Recipe) -> nn.Module:
    plugins = registry()
    return compress(task, resolve(recipe, plugins, task), registry=plugins, target=Target("cpu")).model
