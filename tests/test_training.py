"""The recovery."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress import Loss, Recovery, Target, Task
from autocompress.data import batches
from autocompress.measure.lock import DeviceLock
from autocompress.training import TaskLoss, train
from tests.conftest import tiny_data, tiny_model

CPU = torch.device("cpu")


@pytest.fixture
def lock(tmp_path: Path) -> DeviceLock:
    return DeviceLock(Target("cpu"), tmp_path)


def with_dropout() -> nn.Module:
    return nn.Sequential(tiny_model(), nn.Dropout(0.3))


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(8), tiny_model())


def loss_of(model: nn.Module, task: Task) -> float:
    inputs, targets = next(iter(batches(task.train, len(task.train))))
    with torch.no_grad():
        return float(task.loss(model(inputs), targets))


def test_training_lowers_the_loss_and_says_so(task: Task, lock: DeviceLock, capsys: pytest.CaptureFixture[str]) -> None:
    recovery = Recovery(epochs=10, learning_rate=0.03, batch_size=16)
    trained = train(tiny_model(), [TaskLoss(task.loss)], task, recovery, device=CPU, lock=lock)
    assert loss_of(trained, task) < 0.7 * loss_of(tiny_model(), task)
    assert not trained.training
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"epoch {epoch}/10" for epoch in range(1, 11)]
    assert float(lines[-1].split()[-1]) < float(lines[0].split()[-1])


@pytest.mark.parametrize("model", [tiny_model, with_dropout])
def test_training_depends_on_the_seed_alone(model: Any, task: Task, lock: DeviceLock) -> None:
    def weights(seed: int, state: int) -> Tensor:
        fresh = model()
        torch.manual_seed(state)
        recovery = Recovery(epochs=2, batch_size=16)
        trained = train(fresh, [TaskLoss(task.loss)], task, recovery, device=CPU, seed=seed, lock=lock)
        return torch.cat([parameter.detach().flatten() for parameter in trained.parameters()])

    assert torch.equal(weights(3, state=1), weights(3, state=2))
    assert not torch.equal(weights(3, state=1), weights(4, state=1))


@pytest.mark.parametrize("batch_size", [16, 64])
def test_a_last_batch_of_one_does_not_break_batch_norm(batch_size: int, task: Task, lock: DeviceLock) -> None:
    task = replace(task, model=with_batch_norm, train=tiny_data(65, 1))
    recovery = Recovery(epochs=2, batch_size=batch_size)
    trained = train(task.trained_model(), [TaskLoss(task.loss)], task, recovery, device=CPU, lock=lock)
    assert loss_of(trained, task) < loss_of(task.trained_model(), task)


def test_losses_are_summed_and_their_own_modules_stay_as_they_are(
    task: Task, lock: DeviceLock, capsys: pytest.CaptureFixture[str]
) -> None:
    class Teacher(Loss):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = with_dropout()
            self.seen: list[tuple[bool, float]] = []

        def forward(self, inputs: Any, outputs: Any, targets: Any) -> Tensor:
            loss = nn.functional.mse_loss(outputs, self.teacher(inputs))
            self.seen.append((self.teacher.training, loss.item()))
            return loss

    teacher = Teacher()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = nn.Sequential(nn.Linear(8, 3))
    zero = TaskLoss(lambda outputs, targets: outputs.sum() * 0 + 1)
    train(student, [teacher, zero], task, Recovery(epochs=1), device=CPU, lock=lock)
    assert capsys.readouterr().out == f"epoch 1/1: loss {1 + teacher.seen[0][1]:.4f}\n"
    assert not teacher.seen[0][0]
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)


def test_frozen_parameters_stay_frozen(task: Task, lock: DeviceLock) -> None:
    model = nn.Sequential(*tiny_model().children())
    frozen = next(model.parameters()).requires_grad_(False)
    before = frozen.clone()
    train(model, [TaskLoss(task.loss)], task, Recovery(epochs=1, learning_rate=0.1), device=CPU, lock=lock)
    assert torch.equal(frozen, before)
    assert not torch.equal(next(model[2].parameters()), list(tiny_model().parameters())[2])


def test_every_epoch_has_an_order_of_its_own(task: Task, lock: DeviceLock) -> None:
    seen: list[Tensor] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets)
        return outputs.sum()

    train(tiny_model(), [TaskLoss(loss)], task, Recovery(epochs=2), device=CPU, lock=lock)
    first, second = seen
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


def test_schedules_hear_how_far_the_training_is(task: Task, lock: DeviceLock) -> None:
    """Before each step and at the end, with the gradients of the step before still there."""
    model = tiny_model()
    heard: list[tuple[float, bool]] = []

    def note(done: float) -> None:
        heard.append((done, model.get_parameter("0.weight").grad is not None))

    recovery = Recovery(epochs=2, batch_size=32)
    train(model, [TaskLoss(task.loss)], task, recovery, device=CPU, lock=lock, schedules=[note])
    assert heard == [(0.0, False), (0.25, True), (0.5, True), (0.75, True), (1.0, True)]
