"""What the user brings, and what is told when it is not usable."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autocompress import Metric, NotApplicable, Task
from autocompress.errors import InvalidInput
from tests.conftest import tiny_data, tiny_model


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Stream(IterableDataset[Any]):
    """Has no length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([])


def raising() -> nn.Module:
    raise FileNotFoundError("weights.pt\nis not there")


def test_a_usable_task_passes(task: Task) -> None:
    task.check()


def test_a_task_needs_no_training_data(task: Task) -> None:
    less = Task(model=tiny_model, validation=task.validation, test=task.test, unlabelled=[torch.zeros(8)])
    less.check()
    assert task.has_training and not less.has_training
    with pytest.raises(NotApplicable, match="there are no calibration data, nor training data in their place"):
        next(less.calibration_inputs(4))
    calibrated = replace(less, calibration=tiny_data(8, 1))
    assert len(next(calibrated.calibration_inputs(4))) == 4
    assert len({task.fingerprint, less.fingerprint, calibrated.fingerprint}) == 3


EMPTY = TensorDataset(torch.empty(0, 8), torch.empty(0))
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no training data": ({"train": EMPTY}, "train data must have samples, but it is empty"),
    "no validation data": ({"validation": EMPTY}, "validation data must have samples, but it is empty"),
    "no test data": ({"test": EMPTY}, "test data must have samples, but it is empty"),
    "a stream": ({"train": Stream()}, "train data must have a length and indices, but got Stream"),
    "unlabelled data without a length": (
        {"unlabelled": Stream()},
        "unlabelled data must have a length and indices, but got Stream",
    ),
    "unlabelled data of another shape": (
        {"unlabelled": [torch.zeros(5)]},
        "unlabelled data must give inputs that make a batch for the model, .*shapes cannot be multiplied",
    ),
    "a loader of calibration data": (
        {"calibration": DataLoader(tiny_data(8, 1))},
        "calibration data must be a data set, but got a DataLoader",
    ),
    "no calibration data": ({"calibration": EMPTY}, "calibration data must have samples, but it is empty"),
    "samples that are no pairs": (
        {"validation": TensorDataset(torch.ones(4, 8))},
        r"validation data must give \(inputs,",
    ),
    "samples that make no batch": ({"validation": [(object(), 0)]}, r"validation data must give .* pass `collate`"),
    "no metric": ({"metrics": ()}, "a task has at least one metric, but `metrics` is empty"),
    "metrics of one name": (
        {"metrics": (Metric("f1", min), Metric("f1", max))},
        r"different names, but got \['f1', 'f1'\]",
    ),
    "a model that cannot be copied": (
        {"model": Locked()},
        "must be copyable, but: TypeError: .*; pass a zero-argument factory",
    ),
    "a factory that raises": ({"model": raising}, "factory must give a model, but: FileNotFoundError: weights.pt$"),
    "a factory of something else": ({"model": dict}, "factory must give an nn.Module, but got dict"),
    "a model of other inputs": (
        {"model": lambda: nn.Linear(5, 3)},
        "the model must take a batch of the train data, but: RuntimeError: .*shapes cannot be multiplied",
    ),
    "a metric that raises": (
        {"metrics": (Metric("f1", lambda outputs, targets: 1 / 0),)},
        "metric 'f1' must give a number for outputs and targets, but: ZeroDivisionError",
    ),
    "a metric of many numbers": (
        {"metrics": (Metric("f1", lambda outputs, targets: outputs),)},
        "metric 'f1' must give a number for outputs and targets, but: ValueError: only one element",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_task_with(change: dict[str, Any], message: str, task: Task) -> None:
    with pytest.raises(InvalidInput, match=message):
        replace(task, **change).check()


def write_nothing(path: Path) -> None:
    pass


def write_garbage(path: Path) -> None:
    path.write_bytes(b"not a tensor")


def write_another_model(path: Path) -> None:
    save(nn.Linear(2, 2), path)


def save(model: nn.Module, path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("write", [write_nothing, write_garbage, write_another_model])
def test_weights_that_do_not_load(write: Callable[[Path], None], suffix: str, task: Task, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    write(path)
    with pytest.raises(InvalidInput, match=f"weights '.*weights{suffix}' must be a state dict of the model, but: "):
        replace(task, weights=path).trained_model()


def test_code_in_a_weights_file_is_never_run(task: Task, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "it_ran"),)

    torch.save({"0.weight": Code()}, tmp_path / "weights.pt")
    with pytest.raises(InvalidInput, match="must be a state dict of the model, but: UnpicklingError"):
        replace(task, weights=tmp_path / "weights.pt").trained_model()
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_from_a_file(suffix: str, task: Task, tmp_path: Path) -> None:
    trained = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    save(trained, tmp_path / f"weights{suffix}")
    loaded = replace(task, weights=tmp_path / f"weights{suffix}").trained_model()
    torch.testing.assert_close(loaded.state_dict(), trained.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("model", [tiny_model, tiny_model().train()], ids=["factory", "module"])
def test_every_trained_model_is_a_copy_of_its_own(model: Any, task: Task) -> None:
    task = replace(task, model=model)
    first, second = task.trained_model(), task.trained_model()
    assert not first.training
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    torch.testing.assert_close(second.state_dict(), tiny_model().state_dict(), rtol=0, atol=0)


def shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {key: shapes(item) for key, item in value.items()}
    return [shapes(item) for item in value]


@pytest.mark.parametrize("from_example", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 70])
@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (lambda: torch.randn(8), lambda b: (b, 8)),
        (lambda: (torch.randn(8), torch.randn(2, 4)), lambda b: [(b, 8), (b, 2, 4)]),
        (lambda: {"x": torch.randn(8), "mask": torch.ones(5)}, lambda b: {"x": (b, 8), "mask": (b, 5)}),
    ],
    ids=["tensor", "tuple", "dict"],
)
def test_inputs_have_the_batch_size(
    sample: Any, expected: Any, batch_size: int, from_example: bool, task: Task
) -> None:
    task = replace(task, validation=[(sample(), 0) for _ in range(32)])
    if from_example:
        task = replace(task, example_inputs=task.inputs(2), validation=tiny_data(4, 0))
    assert shapes(task.inputs(batch_size)) == expected(batch_size)


def test_the_fingerprint_tells_models_and_data_apart(task: Task) -> None:
    def nudged() -> nn.Module:
        model = tiny_model()
        with torch.no_grad():
            next(model.parameters())[0, 0] += 1e-6
        return model

    assert task.fingerprint == replace(task, name="other").fingerprint
    others = [
        replace(task, model=nudged),
        replace(task, train=tiny_data(65, 1)),
        replace(task, test=tiny_data(31, 3)),
        replace(task, validation=tiny_data(32, 9)),
        replace(task, validation=TensorDataset(task.validation[:][0], 2 - task.validation[:][1])),
    ]
    assert len({task.fingerprint, *(other.fingerprint for other in others)}) == 6


def frozen() -> nn.Module:
    model = tiny_model()
    next(model.parameters()).requires_grad_(False)
    return model


def broken(index: int) -> Any:
    raise OSError(f"sample {index} is corrupt")


class Unreadable:
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        return broken(index)


def test_the_fingerprint_tells_trainings_apart(task: Task) -> None:
    others = [
        replace(task, model=frozen),
        replace(task, loss=nn.functional.mse_loss),
        replace(task, loss=lambda outputs, targets: 2 * nn.functional.cross_entropy(outputs, targets)),
        replace(task, loss=lambda outputs, targets: 3 * nn.functional.cross_entropy(outputs, targets)),
        replace(task, students={"small": tiny_model}),
        replace(task, teachers=(tiny_model,)),
        replace(task, unlabelled=[torch.zeros(8)]),
        replace(task, calibration=tiny_data(8, 1)),
    ]
    assert len({task.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_what_cannot_be_told_does_not_hinder_a_run_that_goes_on(task: Task) -> None:
    lock = threading.Lock()
    for change in ({"loss": lambda *_: lock}, {"train": Unreadable()}, {"students": {"none": raising}}):
        assert replace(task, **change).fingerprint == replace(task, **change).fingerprint
