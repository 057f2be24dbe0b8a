"""The task: what the user brings."""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset

from autocompress.content import Content, Unknown
from autocompress.data import NoSamples, Samples, batches, data_digest, take
from autocompress.errors import InvalidInput, did_you_mean, first_line
from autocompress.leaves import leaves
from autocompress.method import NotApplicable
from autocompress.metric import ACCURACY, Metric
from autocompress.tensors import call, resize

Model = nn.Module | Callable[[], nn.Module]
"""A trained module, or a zero-argument factory of one."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trained model, its data, its loss and what it is judged by.

    Data sets give `(inputs, target)`; inputs are a tensor, a tuple (positional arguments) or a dict (keywords).
    """

    model: Model
    """The trained module, or better a zero-argument factory, which needs no copying and loads artifacts elsewhere."""
    train: Samples = NoSamples()
    """For the recovery training; without it nothing is trained, and methods that need training are left out."""
    validation: Samples
    """Every trial is scored on it."""
    test: Samples
    """Only the front is scored on it, when the search is over."""
    weights: str | Path | None = None
    """A state dict for the factory's model, `.safetensors` or `.pt`; None when the factory gives trained weights."""
    calibration: Samples | None = None
    """For methods that look at activations; the training data when left out. Without both, these methods cannot act."""
    unlabelled: Samples | None = None
    """Inputs without targets, for distillation: each sample is what `forward` takes, without a batch dimension."""
    teachers: tuple[Model, ...] = ()
    """Trained models that teach in distillation, in place of the trained model itself."""
    students: Mapping[str, Model] = field(default_factory=dict)
    """Smaller models of the user's own, by name, that distillation may train in place of the trained model."""
    example_inputs: Any = None
    """One batch of what `forward` takes, batch dimension first; taken from the validation data when left out."""
    loss: Callable[[Any, Any], Tensor] = functional.cross_entropy
    """`loss(outputs, targets)`, a scalar."""
    metrics: tuple[Metric, ...] = (ACCURACY,)
    """The first one is the objective; limits may name any."""
    collate: Callable[[list[Any]], Any] | None = None
    """Makes a batch of samples, where torch's default does not."""
    name: str = "task"

    def __post_init__(self) -> None:
        if not self.metrics or isinstance(self.metrics, Metric):
            got = "is empty" if not self.metrics else "is a single one: put it in a tuple"
            raise InvalidInput(f"a task has at least one metric, but `metrics` {got}")
        for metric in self.metrics:
            if not isinstance(metric, Metric):
                raise InvalidInput(f"metrics are autocompress.Metric, but got {type(metric).__name__}")
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names):
            raise InvalidInput(f"metrics have different names, but got {names}")

    @property
    def objective(self) -> Metric:
        return self.metrics[0]

    @property
    def has_training(self) -> bool:
        """Whether there are data to train on."""
        return not isinstance(self.train, NoSamples)

    @property
    def has_calibration(self) -> bool:
        """Whether there are inputs for methods that look at activations."""
        return self.calibration is not None or self.has_training

    def trained_model(self) -> nn.Module:
        """A fresh copy of the trained model, in eval mode, on the CPU. Raises InvalidInput if there is none to have."""
        model = load_weights(build(self.model), self.weights) if self.weights else build(self.model)
        return model.cpu().eval()

    def source(self, student: str | None = None) -> nn.Module:
        """A fresh copy of what a recipe starts from, in eval mode, on the CPU: the trained model or a student.

        Raises InvalidInput for a student that the task does not have.
        """
        if student is None:
            return self.trained_model()
        if student not in self.students:
            raise InvalidInput(f"the task has no student {student!r}{did_you_mean(student, self.students)}")
        return build(self.students[student]).cpu().eval()

    def calibration_inputs(self, samples: int, batch_size: int = 32) -> Iterator[Any]:
        """Batches of inputs from the calibration data, or else the training data: `samples` in all, or what there is.

        They are drawn at random with a fixed seed, since data sets are often sorted. Raises NotApplicable if there are
        no such data.
        """
        if not self.has_calibration:
            raise NotApplicable("there are no calibration data, nor training data in their place")
        data = self.train if self.calibration is None else self.calibration
        rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:samples].tolist()
        chosen: Any = Subset(data, rows)  # type: ignore[arg-type]
        for inputs, _ in batches(chosen, batch_size, collate=self.collate):
            yield inputs

    def inputs(self, batch_size: int) -> Any:
        """One batch of real inputs, first dimension `batch_size`."""
        if self.example_inputs is None:
            return take(self.validation, batch_size, self.collate)
        return resize(self.example_inputs, batch_size)

    def check(self) -> None:
        """Raises InvalidInput for what would fail every trial: empty data, a model that cannot be built or run."""
        given = {
            "train": self.has_training,
            "validation": True,
            "test": True,
            "calibration": self.calibration is not None,
        }
        pairs = [split for split, is_there in given.items() if is_there]
        for split in pairs:
            _check_split(split, getattr(self, split))
        if self.unlabelled is not None:
            _check_indexed("unlabelled", self.unlabelled)
        model = self.trained_model()
        for split in pairs:
            self._check_batch(split, model)
        if self.unlabelled is not None and len(self.unlabelled):
            self._check_unlabelled(self.unlabelled, model)
        self._check_factory(model)

    def _check_factory(self, model: nn.Module) -> None:
        """Every trial must start from the same weights, and own them."""
        again = self.trained_model()
        if again is model:
            raise InvalidInput("the model factory must give a new model each time, but gave the same object twice")
        if weights_digest(again) != weights_digest(model):
            raise InvalidInput(
                "the model factory must give the trained weights, but gave other weights each time;"
                " load them in the factory, or name their file by `weights`"
            )

    def _check_batch(self, split: str, model: nn.Module) -> None:
        try:
            batch = next(iter(batches(getattr(self, split), 2, collate=self.collate)))
            if not isinstance(batch, tuple | list):
                raise TypeError(f"a batch is a {type(batch).__name__}")
            inputs, targets = batch
        except Exception as error:  # the user's data
            raise InvalidInput(
                f"{split} data must give (inputs, target) pairs that make a batch,"
                f" but: {first_line(error)}; pass `collate` where torch's default cannot"
            ) from error
        try:
            with torch.no_grad():
                outputs = call(model, inputs)
        except Exception as error:  # the user's model
            raise InvalidInput(f"the model must take a batch of the {split} data, but: {first_line(error)}") from error
        if split == "validation":
            self._check_metrics(outputs, targets)

    def _check_unlabelled(self, data: Samples, model: nn.Module) -> None:
        collate, target = self.collate, self.validation[0][1]
        try:
            inputs = take([(data[0], target)], 2, collate)
            with torch.no_grad():
                call(model, inputs)
        except Exception as error:  # the user's data
            raise InvalidInput(
                "unlabelled data must give inputs that make a batch for the model, without targets,"
                f" but: {first_line(error)}"
            ) from error

    def _check_metrics(self, outputs: Any, targets: Any) -> None:
        for metric in self.metrics:
            try:
                float(metric.function(outputs, targets))
            except Exception as error:  # the user's metric
                raise InvalidInput(
                    f"metric {metric.name!r} must give a number for outputs and targets, but: {first_line(error)}"
                ) from error

    @property
    def models(self) -> dict[str, Model]:
        """The trained model, the teachers and the students, by what they are."""
        teachers = {f"teacher {index}": teacher for index, teacher in enumerate(self.teachers)}
        return {"model": self.trained_model, **teachers, **self.students}

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 that tells whether a run continues this task: of models, loss, and what the data sets hold.

        Code may be commented and move to another file. Of large data sets some samples are looked at, and none of those
        that differ each time they are read; what else cannot be told does not count.
        """
        model = self.trained_model()
        digests = [weights_digest(model), *(type(module).__qualname__ for module in model.modules())]
        for name, source in self.models.items():
            digests += [name, _if_told(functools.partial(model_digest, source, sources=False))]
        for code in (self.loss, self.collate):
            digests.append(_if_told(functools.partial(_code_digest, code)))
        for data in (self.train, self.validation, self.test, self.calibration, self.unlabelled):
            digests += ["none"] if data is None else [str(len(data)), _if_told(functools.partial(data_digest, data))]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def model_digest(source: Model, *, sources: bool = True) -> str:
    """SHA-256 of all that a model's modules hold and of their code; for `sources` see `Content`.

    Raises Unknown, with what is to be said of the model, and InvalidInput if it cannot be built.
    """
    try:
        first, second = (Content(sources=sources).feed(built(source)).hexdigest() for _ in range(2))
    except Unknown as kind:
        raise Unknown(f"holds {kind}") from None
    if first != second:
        raise Unknown("differs each time it is built")
    return first


def built(source: Model) -> nn.Module:
    """A fresh module on the CPU, in eval mode; fresh weights are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(source).cpu().eval()


def _code_digest(code: Any) -> str:
    return Content(sources=False).feed(code).hexdigest()


def _if_told(tell: Callable[[], str]) -> str:
    try:
        return tell()
    except Exception:  # Unknown, and the user's code
        return ""


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and persistent buffers, names, shapes and dtypes included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(leaves(model).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def build(model: Model) -> nn.Module:
    """A fresh module from a factory, or a copy of a module."""
    if isinstance(model, nn.Module):
        try:
            return copy.deepcopy(model)
        except Exception as error:  # the user's model
            raise InvalidInput(
                f"the model must be copyable, but: {first_line(error)}; pass a zero-argument factory instead"
            ) from error
    try:
        built = model()
    except Exception as error:  # the user's factory
        raise InvalidInput(f"the model factory must give a model, but: {first_line(error)}") from error
    if not isinstance(built, nn.Module):
        raise InvalidInput(f"the model factory must give an nn.Module, but got {type(built).__name__}")
    return built


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """`model` with a state dict from a file; never unpickles code."""
    try:
        state: Mapping[str, Any] = (
            load_file(path)
            if Path(path).suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        model.load_state_dict(state)
    except Exception as error:  # a file of the user's
        raise InvalidInput(
            f"weights {str(path)!r} must be a state dict of the model, but: {first_line(error)}"
        ) from error
    return model


def _check_split(name: str, data: Samples) -> None:
    if _check_indexed(name, data) == 0:
        raise InvalidInput(f"{name} data must have samples, but it is empty")


def _check_indexed(name: str, data: Samples) -> int:
    """The length."""
    if isinstance(data, DataLoader):
        raise InvalidInput(f"{name} data must be a data set, but got a DataLoader: pass its `dataset` and `collate`")
    try:
        return len(data)
    except TypeError:
        raise InvalidInput(f"{name} data must have a length and indices, but got {type(data).__name__}") from None
