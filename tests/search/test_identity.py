"""What makes a task another one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from autocompress import Metric, Task
from autocompress.search.identity import Identity, task_identity
from tests.conftest import tiny_data, tiny_model


class Samples:
    """Samples made by a function of their index."""

    def __init__(self, make: Callable[[int], Any], count: int = 64) -> None:
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._make(index)


def made_with(**changes: Any) -> Task:
    task = Task(model=tiny_model, train=tiny_data(64, 1), validation=tiny_data(32, 2), test=tiny_data(32, 3))
    return replace(task, **changes)


def with_dropout(share: float) -> nn.Module:
    return nn.Sequential(*tiny_model().children(), nn.Dropout(share))


def one_bit_off() -> TensorDataset:
    data = tiny_data(64, 1)
    data.tensors[0][37, 5] = torch.nextafter(data.tensors[0][37, 5], torch.tensor(9.0))
    return data


def one_weight_off() -> nn.Module:
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters())[3, 3] += 1e-6
    return model


def loss_times(factor: float) -> Callable[[Any, Any], Tensor]:
    return lambda outputs, targets: factor * functional.cross_entropy(outputs, targets)


def test_equal_tasks_have_one_identity() -> None:
    assert task_identity(made_with()) == task_identity(made_with())
    assert task_identity(made_with()).private == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"train": one_bit_off()},
        {"train": tiny_data(63, 1)},
        {"validation": tiny_data(32, 4)},
        {"calibration": tiny_data(8, 4)},
        {"unlabelled": Samples(lambda index: torch.full((8,), float(index)))},
        {"model": one_weight_off},
        {"teachers": (tiny_model,)},
        {"students": {"small": tiny_model}},
        {"model": lambda: with_dropout(0.1)},
        {"loss": functional.mse_loss},
        {"loss": loss_times(2.0)},
        {"collate": torch.utils.data.default_collate},
        {"metrics": (Metric("f1", lambda outputs, targets: 0.0, is_share=True),)},
        {"example_inputs": torch.zeros(1, 8)},
    ],
)
def test_whatever_training_can_see_counts(changes: dict[str, Any]) -> None:
    assert task_identity(made_with(**changes)).digest != task_identity(made_with()).digest


def test_settings_without_tensors_and_closures_count() -> None:
    shares = [task_identity(made_with(model=lambda share=share: with_dropout(share))).digest for share in (0.1, 0.2)]
    factors = [task_identity(made_with(loss=loss_times(factor))).digest for factor in (1.0, 2.0)]
    assert len({*shares, *factors}) == 4


def test_the_test_data_do_not_count() -> None:
    assert task_identity(made_with(test=tiny_data(32, 9))) == task_identity(made_with())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (Samples(lambda index: (torch.randn(8), 0)), "samples differ each time they are read"),
        (Samples(lambda index: (object(), 0)), "samples hold a object"),
    ],
)
def test_data_that_cannot_be_told_are_shared_with_nobody(data: Samples, reason: str) -> None:
    first, second = (task_identity(made_with(train=data)) for _ in range(2))
    assert first.private == second.private == reason
    assert first.digest != second.digest


def test_reading_has_a_time_bound() -> None:
    found = task_identity(made_with(), seconds=0)
    assert found.private == "the data take longer than 0 s to read"


def test_half_precision_samples_count_by_their_bits() -> None:
    def data(value: float) -> Samples:
        return Samples(lambda index: (torch.full((8,), value, dtype=torch.bfloat16), index))

    identities = [task_identity(made_with(train=data(value))) for value in (1.0, 1.0078125)]
    assert identities[0].private == "" and identities[0] != identities[1]


def test_another_process_finds_the_same_identity() -> None:
    code = "from tests.search.test_identity import *; print(task_identity(made_with()).digest)"
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=200
    )
    assert Identity(ended.stdout.strip()) == task_identity(made_with())
