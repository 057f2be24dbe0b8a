"""A training that is halted and goes on elsewhere gives the model that it would have given."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from autocompress import Recovery, Target, Task
from autocompress.checkpoint import Checkpoint
from autocompress.measure.lock import DeviceLock
from autocompress.training import Halted, TaskLoss, train
from tests.conftest import tiny_data, tiny_model

CPU = torch.device("cpu")
RECOVERY = Recovery(epochs=9, learning_rate=0.03, batch_size=16)


class Noisy:
    """Augments by each of the generators that a data set may draw from."""

    def __init__(self) -> None:
        self.data = tiny_data(64, 1)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        features, label = self.data[index]
        return features + 0.1 * (random.random() + np.random.rand() + torch.rand(())), label


@pytest.fixture
def noisy() -> Task:
    return Task(model=tiny_model, train=Noisy(), validation=tiny_data(32, 2), test=tiny_data(32, 3))


@pytest.fixture
def lock(tmp_path: Path) -> DeviceLock:
    return DeviceLock(Target("cpu"), tmp_path)


def model() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(8), tiny_model()[0], nn.Dropout(0.3), *tiny_model()[1:])  # type: ignore[index]


def elsewhere(checkpoint: Checkpoint) -> Checkpoint:
    """As it is read back from a file, in a process that drew other random numbers."""
    torch.rand(3), random.random(), np.random.rand()
    return Checkpoint(load(save(dict(checkpoint.tensors))), json.loads(json.dumps(checkpoint.state)))


def trained(task: Task, lock: DeviceLock, halts: tuple[int, ...] = (), loss: Any = None) -> dict[str, Tensor]:
    """Weights after a training that is halted after these epochs and goes on with a new model each time."""
    random.seed(0), np.random.seed(0)
    checkpoint = None
    for until in (*halts, None):
        fresh, losses = model(), [TaskLoss(loss or task.loss)]
        try:
            done = train(fresh, losses, task, RECOVERY, device=CPU, lock=lock, start=checkpoint, until=until)
        except Halted as halted:
            assert halted.checkpoint.epochs == until
            checkpoint = elsewhere(halted.checkpoint)
    return done.state_dict()


@pytest.mark.parametrize("halts", [(3,), (1, 3), (8,), (3, 3)])
def test_a_halted_training_gives_the_same_bits(halts: tuple[int, ...], noisy: Task, lock: DeviceLock) -> None:
    torch.testing.assert_close(trained(noisy, lock, halts), trained(noisy, lock), rtol=0, atol=0)


def test_what_was_noticed_of_a_stall_goes_along(
    task: Task, lock: DeviceLock, capsys: pytest.CaptureFixture[str]
) -> None:
    def flat(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * 0 + 1

    expected = trained(task, lock, loss=flat)
    told = capsys.readouterr().out
    assert "the learning rate goes down in one more epoch" in told
    torch.testing.assert_close(trained(task, lock, (4,), flat), expected, rtol=0, atol=0)
    assert capsys.readouterr().out == told


def test_a_checkpoint_is_no_view_of_what_is_trained_on(task: Task, lock: DeviceLock) -> None:
    fresh = model()
    with pytest.raises(Halted) as found:
        train(fresh, [TaskLoss(task.loss)], task, RECOVERY, device=CPU, lock=lock, until=2)
    kept = {name: tensor.clone() for name, tensor in found.value.checkpoint.tensors.items()}
    train(fresh, [TaskLoss(task.loss)], task, RECOVERY, device=CPU, lock=lock, start=found.value.checkpoint)
    torch.testing.assert_close(dict(found.value.checkpoint.tensors), kept, rtol=0, atol=0)
    assert found.value.checkpoint.epochs == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_training_on_a_gpu_goes_on_too(task: Task, lock: DeviceLock) -> None:
    """Sums may differ in their last bits from run to run there."""
    cuda = torch.device("cuda:0")
    expected = train(model(), [TaskLoss(task.loss)], task, RECOVERY, device=cuda, lock=lock)
    with pytest.raises(Halted) as found:
        train(model(), [TaskLoss(task.loss)], task, RECOVERY, device=cuda, lock=lock, until=3)
    assert {tensor.device.type for tensor in found.value.checkpoint.tensors.values()} == {"cpu"}
    start = elsewhere(found.value.checkpoint)
    done = train(model(), [TaskLoss(task.loss)], task, RECOVERY, device=cuda, lock=lock, start=start)
    torch.testing.assert_close(done.state_dict(), expected.state_dict(), rtol=1e-3, atol=1e-4)


class Scarce(TaskLoss):
    """Runs out of memory once after so many steps."""

    def __init__(self, task: Task, after: int) -> None:
        super().__init__(task.loss)
        self.left = after

    def forward(self, inputs: Any, outputs: Any, targets: Any) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise torch.OutOfMemoryError("too small")
        return super().forward(inputs, outputs, targets)


def test_a_batch_that_was_halved_stays_so(task: Task, lock: DeviceLock, capsys: pytest.CaptureFixture[str]) -> None:
    half = RECOVERY.model_copy(update={"batch_size": 8})
    expected = train(model(), [TaskLoss(task.loss)], task, half, device=CPU, lock=lock)
    with pytest.raises(Halted) as found:
        train(model(), [Scarce(task, 6)], task, RECOVERY, device=CPU, lock=lock, until=3)
    done = train(
        model(), [TaskLoss(task.loss)], task, RECOVERY, device=CPU, lock=lock, start=elsewhere(found.value.checkpoint)
    )
    torch.testing.assert_close(done.state_dict(), expected.state_dict(), rtol=0, atol=0)
