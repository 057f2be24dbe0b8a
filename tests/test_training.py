"""The recovery."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress import Loss, Recovery, Target, Task
from autocompress.data import batches
from autocompress.errors import InvalidInput
from autocompress.measure.lock import DeviceLock
from autocompress.method import Schedule
from autocompress.stall import Stall
from autocompress.training import TaskLoss, mixed_precision, train
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


@pytest.mark.parametrize(
    ("model", "samples", "reason"),
    [
        (
            tiny_model().requires_grad_(False),
            8,
            "may change, but all are frozen: unfreeze some",
        ),
        (nn.Sequential(nn.Softmax(dim=1)), 8, "a model with parameters that it may change, but it has none: use"),
        (nn.Sequential(nn.Embedding(9, 3, sparse=True)), 8, "no sparse gradients, but 0 gives them: set its `sparse`"),
        (nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3)), 1, "batch norms needs two samples or more"),
    ],
    ids=["frozen", "no parameters", "sparse", "one sample"],
)
def test_what_cannot_be_trained_is_told(
    model: nn.Module, samples: int, reason: str, task: Task, lock: DeviceLock
) -> None:
    task = replace(task, train=tiny_data(samples, 1))
    with pytest.raises(InvalidInput, match=reason):
        train(model, [TaskLoss(task.loss)], task, Recovery(epochs=1), device=CPU, lock=lock)


def test_a_single_sample_is_enough_without_batch_norm(task: Task, lock: DeviceLock) -> None:
    model = nn.Sequential(*tiny_model().children())
    recovery = Recovery(epochs=2, learning_rate=0.1)
    train(model, [TaskLoss(task.loss)], replace(task, train=tiny_data(1, 1)), recovery, device=CPU, lock=lock)
    assert not torch.equal(next(model.parameters()), next(tiny_model().parameters()))


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
    train(model, [TaskLoss(task.loss)], task, recovery, device=CPU, lock=lock, schedules=lambda: [note])
    assert heard == [(0.0, False), (0.25, True), (0.5, True), (0.75, True), (1.0, True)]


def test_the_schedule_is_run_through_in_one_epoch_when_the_loss_stalls(
    task: Task, lock: DeviceLock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without gradients AdamW multiplies weights by 1 - rate / 100, which tells the rates."""
    flat = TaskLoss(lambda outputs, targets: outputs.sum() * 0 + 1)
    recovery = Recovery(epochs=10, learning_rate=1.0, batch_size=32)  # two steps an epoch
    trained = train(tiny_model(), [flat], task, recovery, device=CPU, lock=lock)
    rates = one_cycle(steps=20)
    used = rates[:14] + [rates[14], rates[17]]  # the rate peaks in epoch 3; 4, 5 and 6, from 0, are no better
    shrunk = math.prod(1 - rate / 100 for rate in used)
    torch.testing.assert_close(next(trained.parameters()), next(tiny_model().parameters()) * shrunk)
    *_, said, last = capsys.readouterr().out.splitlines()
    assert said == (
        "the loss fell by less than 0.5% in 3 epochs: the learning rate goes down in one more epoch, which saves 2"
    )
    assert last == "epoch 8/10: loss 1.0000"


def one_cycle(steps: int) -> list[float]:
    adam = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 1.0, total_steps=steps + 1)
    rates = []
    for _ in range(steps):
        rates.append(float(schedule.get_last_lr()[0]))
        adam.step()
        schedule.step()
    return rates


def test_what_follows_the_training_has_all_of_it(
    task: Task, lock: DeviceLock, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = TaskLoss(lambda outputs, targets: outputs.sum() * 0 + 1)
    recovery = Recovery(epochs=10)
    train(tiny_model(), [flat], task, recovery, device=CPU, lock=lock, schedules=lambda: [lambda done: None])
    assert len(capsys.readouterr().out.splitlines()) == 10


@pytest.mark.parametrize(
    ("losses", "ends"),
    [
        ([1.0] * 10, 6),
        ([9, 9, 9, 1, 0.998, 0.996, 0.9949, 0.992, 0.99, 0.98], None),  # 0.5 % in three epochs are worth it
        ([9, 9, 9, 1, 0.998, 0.996, 0.9951, 0.992, 0.99, 0.98], 6),
        ([1, 1, 1, 3, 2, 2, 2, 2, 2, 2], 7),  # what the warm-up reached is no measure
        ([0, 0, 0, -1, -1, -1, -1.006, -1.006, -1.006, -1.02], None),  # a loss below zero
        ([float("nan")] * 10, 6),
    ],
)
def test_a_stall_is_three_flat_epochs_after_the_warm_up(losses: list[float], ends: int | None) -> None:
    stall = Stall(10)
    assert next((epoch for epoch, loss in enumerate(losses) if stall.after(epoch, loss)), None) == ends


def test_a_short_training_has_nothing_to_end_early() -> None:
    for epochs in range(1, 9):
        stall = Stall(epochs)
        assert not any(stall.after(epoch, 1.0) for epoch in range(epochs))


class Full(Loss):
    """The task's loss on a device whose memory is too small for batches of more than `most` samples."""

    def __init__(self, task: Task, most: int) -> None:
        super().__init__()
        self.task, self.most, self.attached = task, most, 0
        self.steps = 0

    def attach(self, model: nn.Module) -> None:
        self.attached += 1

    def detach(self) -> None:
        self.attached -= 1

    def forward(self, inputs: Any, outputs: Any, targets: Any) -> Tensor:
        self.steps += 1
        if len(targets) > self.most and self.steps > 2:  # not at once: the weights have changed by then
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.task.loss(outputs, targets)


def test_out_of_memory_halves_the_batch_and_starts_again(
    task: Task, lock: DeviceLock, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the very training with half the batch, batch norm's statistics and the schedules' state included."""
    heard: list[list[float]] = []

    def schedules() -> list[Schedule]:
        heard.append([])
        return [heard[-1].append]

    full = Full(task, most=8)
    model = nn.Sequential(with_batch_norm(), nn.Dropout(0.3))
    twin = copy.deepcopy(model)
    recovery = Recovery(epochs=2, batch_size=16)
    trained = train(model, [full], task, recovery, device=CPU, lock=lock, schedules=schedules)
    told = capsys.readouterr().out.splitlines()
    half = Recovery(epochs=2, batch_size=8)
    expected = train(twin, [TaskLoss(task.loss)], task, half, device=CPU, lock=lock)
    assert told == [
        "out of memory at batch size 16: once more from the start at 8",
        *capsys.readouterr().out.splitlines(),
    ]
    torch.testing.assert_close(trained.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert [len(moments) for moments in heard] == [3, 17] and full.attached == 0


@pytest.mark.parametrize("batch_size", [16, 1])
def test_out_of_memory_again_fails(batch_size: int, task: Task, lock: DeviceLock) -> None:
    full = Full(task, most=0)
    with pytest.raises(torch.OutOfMemoryError):
        train(tiny_model(), [full], task, Recovery(epochs=1, batch_size=batch_size), device=CPU, lock=lock)
    assert full.attached == 0


def test_a_cpu_trains_in_the_models_own_precision(task: Task, lock: DeviceLock) -> None:
    assert mixed_precision(CPU) is None
    assert dtype_of_outputs(task, CPU, lock) == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_in_mixed_precision(task: Task, lock: DeviceLock) -> None:
    cuda = torch.device("cuda:0")
    assert dtype_of_outputs(task, cuda, lock) == {mixed_precision(cuda)}
    recovery = Recovery(epochs=10, learning_rate=0.03, batch_size=16)
    trained = train(tiny_model(), [TaskLoss(task.loss)], task, recovery, device=cuda, lock=lock).cpu()
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    assert loss_of(trained, task) < 0.7 * loss_of(tiny_model(), task)


def dtype_of_outputs(task: Task, device: torch.device, lock: DeviceLock) -> set[torch.dtype]:
    seen: set[torch.dtype] = set()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.add(outputs.dtype)
        return task.loss(outputs, targets)

    train(tiny_model(), [TaskLoss(loss)], task, Recovery(epochs=1), device=device, lock=lock)
    return seen
