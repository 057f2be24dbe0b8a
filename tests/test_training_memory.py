"""What a training takes of its device's memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress import Recovery, Target, Task
from autocompress.measure.lock import DeviceLock
from autocompress.training import TaskLoss, train
from autocompress.training_memory import HEADROOM, TrainingMemory, fitted, training_memory
from tests.conftest import tiny_data, tiny_model

FLOAT, LABEL = 4, 8
FEATURES, HIDDEN, CLASSES = 8, 16, 3
WEIGHTS = FLOAT * (FEATURES * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES)


def test_weights_count_four_times_and_samples_by_what_the_backward_pass_needs(task: Task) -> None:
    """Of a sample: its features and label, what the hidden layer gives, and the logarithms of the probabilities."""
    memory = training_memory(tiny_model(), task)
    assert memory.sample_bytes == FLOAT * (FEATURES + HIDDEN + CLASSES) + LABEL
    assert 4 * WEIGHTS <= memory.fixed_bytes < 4 * WEIGHTS + 64
    assert memory.at(10) == memory.fixed_bytes + 10 * memory.sample_bytes


def test_frozen_weights_and_teachers_count_once(task: Task) -> None:
    frozen = tiny_model().requires_grad_(False)
    frozen.get_submodule("2").requires_grad_(True)
    last = FLOAT * (HIDDEN * CLASSES + CLASSES)
    memory = training_memory(frozen, task, [tiny_model()])
    assert memory.fixed_bytes - training_memory(frozen, task).fixed_bytes == WEIGHTS
    assert WEIGHTS + 3 * last <= training_memory(frozen, task).fixed_bytes < WEIGHTS + 3 * last + 64


def test_a_look_changes_nothing(task: Task) -> None:
    model = nn.Sequential(nn.BatchNorm1d(8), tiny_model(), nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    training_memory(model, replace(task, train=tiny_data(3, 1)))
    assert torch.equal(torch.rand(3), expected)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_the_longest_sample_counts_since_others_are_padded_to_it(task: Task) -> None:
    """Wherever it stands in the data."""
    short, long = (torch.zeros(length, 8) for length in (3, 200))

    def needed(*samples: torch.Tensor) -> int:
        data = [(sample, torch.tensor(0)) for sample in samples]
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        model(long[None])
        whole = replace(task, train=data, collate=padded)
        return training_memory(model, whole).sample_bytes

    assert needed(short, long) == needed(long, short) == needed(*[short] * 99, long, long) > 200 * 16 * FLOAT


def padded(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*samples, strict=True)
    return nn.utils.rnn.pad_sequence(list(inputs), batch_first=True), torch.stack(targets)


@pytest.mark.parametrize(("free", "size"), [(10_000, 64), (6_000, 32), (1_500, 4), (1, 1)])
def test_the_batch_is_halved_until_it_fits(free: int, size: int, capsys: pytest.CaptureFixture[str]) -> None:
    memory = TrainingMemory(fixed_bytes=500, sample_bytes=100)
    recovery = Recovery(epochs=2, learning_rate=0.01, batch_size=64)
    found = fitted(recovery, memory, free)
    assert found == recovery.model_copy(update={"batch_size": size})
    assert size == 1 or memory.at(size) <= HEADROOM * free
    assert size == 64 or memory.at(2 * size) > HEADROOM * free
    told = capsys.readouterr().out
    assert bool(told) == (size != 64)
    if told:
        assert told.startswith("batch size 64 would take about 6.9e-06 GB of the ") and told.endswith(
            f"that are free: {size} in its place\n"
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_takes_about_what_was_told(task: Task, tmp_path: Path) -> None:
    device, target = torch.device("cuda:0"), Target("cuda:0")
    wide = nn.Sequential(nn.Linear(8, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 3)).to(device)
    task = replace(task, train=tiny_data(8192, 1))
    told = training_memory(wide, task, dtype=torch.bfloat16).at(8192)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    recovery = Recovery(epochs=1, batch_size=8192)
    train(wide, [TaskLoss(task.loss)], task, recovery, device=device, lock=DeviceLock(target, tmp_path))
    taken = torch.cuda.max_memory_allocated(device) - before + sum(p.nbytes for p in wide.parameters())
    assert HEADROOM * taken < told < 1.5 * taken
