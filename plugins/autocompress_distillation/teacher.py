"""What the distillation methods share: the teacher, and which tasks have labels that it could give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autocompress import Loss, NotApplicable, Task
from autocompress.data import batches
from autocompress.tensors import call


class TeacherLoss(Loss):
    """`weight` x the distance from the teacher's labels + (1 - `weight`) x the task's own loss."""

    def __init__(self, task: Task, weight: float) -> None:
        super().__init__()
        self.teacher = task.trained_model()
        self.task_loss = task.loss
        self.weight = weight

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """A scalar, from logits (N, classes) of both."""
        raise NotImplementedError

    def forward(self, inputs: Any, outputs: Any, targets: Any) -> Tensor:
        with torch.no_grad():
            labels = call(self.teacher, inputs)  # (B, ..., classes)
        distance = self.distance(outputs.flatten(0, -2), labels.flatten(0, -2))
        own = self.task_loss(outputs, targets)
        return self.weight * distance + (1 - self.weight) * own


def check_classes(task: Task, method: str) -> None:
    """Raises NotApplicable unless the task is classification: logits (B, ..., classes), targets (B, ...) of classes."""
    inputs, targets = next(iter(batches(task.train, 2, collate=task.collate)))
    with torch.no_grad():
        outputs = call(task.trained_model(), inputs)
    rule = f"{method} needs a model that gives logits (B, ..., classes) and targets that are classes (B, ...), but"
    if not isinstance(outputs, Tensor):
        raise NotApplicable(f"{rule} this one gives a {type(outputs).__name__}")
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        raise NotApplicable(f"{rule} this one gives {tuple(outputs.shape)}")
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex():
        raise NotApplicable(f"{rule} the targets are {getattr(targets, 'dtype', type(targets).__name__)}")
    if targets.shape != outputs.shape[:-1]:
        raise NotApplicable(f"{rule} outputs are {tuple(outputs.shape)} and targets {tuple(targets.shape)}")
