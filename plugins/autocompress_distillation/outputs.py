"""Where a model's outputs hold what a teacher can teach: class logits, and all else that the task's loss reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autocompress import NotApplicable, Task
from autocompress.data import batches
from autocompress.task import build
from autocompress.tensors import call

Path = tuple[Any, ...]
"""The keys and indices that lead to a tensor in nested outputs: `()` for a bare tensor, `("logits",)`, `(0,)`."""

IGNORED = -100
"""The target of a position that does not count, as in `torch.nn.functional.cross_entropy` and Hugging Face's data."""

_SAMPLES = 8


def tensors_of(value: Any, path: Path = ()) -> dict[Path, Tensor]:
    """All tensors in nested tuples, lists and mappings, by path and in order."""
    if isinstance(value, Tensor):
        return {path: value}
    if isinstance(value, Mapping):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, tuple | list) else []
    return {found: tensor for key, item in items for found, tensor in tensors_of(item, (*path, key)).items()}


@dataclass(frozen=True)
class Logits:
    """Where class logits stand in a model's outputs, and the classes that they go with in its targets."""

    path: Path
    axis: int
    """The dimension of the classes: -1 of (B, ..., classes), 1 of (B, classes, ...)."""
    target: Path

    def rows(self, tensors: Mapping[Path, Tensor]) -> Tensor:
        """The logits as (N, classes), one row for each decision."""
        return tensors[self.path].movedim(self.axis, -1).flatten(0, -2)

    def classes(self, targets: Any) -> Tensor:
        """The targets in the same order (N,)."""
        return tensors_of(targets)[self.target].flatten()


@dataclass(frozen=True)
class Lesson:
    """A few training samples, and the trained model's outputs that training them is about."""

    inputs: Any
    targets: Any
    outputs: dict[Path, Tensor]
    """Floating-point outputs (B, ...) that the task's loss reads, by path; all of them where that cannot be seen."""

    @classmethod
    def of(cls, task: Task) -> Lesson:
        model = task.trained_model()  # not under no_grad: the user's factory may train it
        inputs, targets = next(iter(batches(task.train, _SAMPLES, collate=task.collate)))
        with torch.no_grad():
            outputs = call(model, inputs)
        floats = {path: each for path, each in tensors_of(outputs).items() if each.is_floating_point() and each.ndim}
        read = _read_by_loss(task, outputs, floats, targets)
        return cls(inputs, targets, {path: floats[path] for path in read or floats})

    def logits(self, classes: int = 2) -> list[Logits]:
        """Outputs that are logits of so many classes or more, each with the target at the same place or that fits it.

        Language models (B, T, vocabulary) and scores of next items (B, items) are such logits.
        """
        targets = list(tensors_of(self.targets).items())
        found = []
        for position, (path, output) in enumerate(self.outputs.items()):
            fitting = [
                (target_path == path, place == position, Logits(path, axis, target_path))
                for place, (target_path, target) in enumerate(targets)
                if (axis := _class_axis(output, target)) is not None and output.shape[axis] >= classes
            ]
            if fitting:
                found.append(max(fitting, key=lambda fit: fit[:2])[-1])
        return found

    def check_logits(self, method: str, classes: int = 2) -> list[Logits]:
        """The logits; raises NotApplicable when there are none."""
        found = self.logits(classes)
        if not found:
            raise NotApplicable(
                f"{method} needs logits (B, ..., classes) or (B, classes, ...) of {classes} or more classes among the"
                f" outputs, and whole numbers (B, ...) that are classes among the targets, but the loss reads outputs"
                f" {_describe(self.outputs.values())} and targets {_describe(tensors_of(self.targets).values())}"
            )
        return found

    def check_outputs(self, method: str) -> list[Path]:
        """The places of all outputs; raises NotApplicable when there are none."""
        if not self.outputs:
            raise NotApplicable(f"{method} needs floating-point outputs (B, ...), but the model gives none")
        return list(self.outputs)

    def check_like(self, model: torch.nn.Module, paths: Sequence[Path], rule: str) -> None:
        """Raises NotApplicable, starting with the rule, when another model gives something else at these places."""
        with torch.no_grad():
            given = tensors_of(call(model, self.inputs))
        for path in paths:
            expected, got = self.outputs[path], given.get(path)
            if got is None or got.shape != expected.shape or not got.is_floating_point():
                raise NotApplicable(
                    f"{rule} outputs like the trained model's, {_describe([expected])} at {list(path)},"
                    f" but gives {'nothing there' if got is None else _describe([got])}"
                )

    def check_teachers(self, task: Task, method: str, paths: Sequence[Path]) -> None:
        """Raises NotApplicable when a teacher of the task's gives something else at these places."""
        for number, teacher in enumerate(task.teachers):
            self.check_like(build(teacher).cpu().eval(), paths, f"{method} needs of teacher {number}")


def _read_by_loss(task: Task, outputs: Any, floats: Mapping[Path, Tensor], targets: Any) -> list[Path]:
    """The outputs that the loss reads itself: those that it has a gradient for."""
    before = [tensor.requires_grad for tensor in floats.values()]  # an output can be a model's input or parameter
    try:
        for tensor in floats.values():
            tensor.requires_grad_()
        with torch.enable_grad():
            loss = task.loss(outputs, targets)
        if not loss.requires_grad:
            return []
        gradients = torch.autograd.grad(loss, list(floats.values()), allow_unused=True)
    finally:
        for tensor, required in zip(floats.values(), before, strict=True):
            tensor.requires_grad_(required)
    return [path for path, gradient in zip(floats, gradients, strict=True) if gradient is not None]


def _class_axis(output: Tensor, target: Tensor) -> int | None:
    """The dimension of `output` that the classes of `target` index; None when they do not belong together."""
    if output.ndim < 2 or target.dtype == torch.bool or target.is_floating_point() or target.is_complex():
        return None
    classes = target[target != IGNORED]
    for axis in (-1, 1):
        count = output.shape[axis]
        if output.movedim(axis, -1).shape[:-1] == target.shape and ((0 <= classes) & (classes < count)).all():
            return axis
    return None


def _describe(tensors: Any) -> str:
    return (
        ", ".join(f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in tensors) or "none"
    )
