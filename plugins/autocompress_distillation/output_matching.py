"""Distillation from the teacher's outputs as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autocompress import Loss, Method, Parameter, Plan, Target, Task, Technique
from autocompress_distillation.logits import WEIGHT
from autocompress_distillation.outputs import Lesson, tensors_of
from autocompress_distillation.teacher import TeacherLoss


class OutputMatching(Method):
    """Trains towards the teacher's outputs by their mean squared difference, mixed with the task's own loss.

    The distillation for regression, ratings and whatever else gives numbers; of logits it also copies the size, which
    the classes do not depend on. Ba & Caruana 2014, "Do Deep Nets Really Need to be Deep?".
    """

    name = "output_matching"
    technique = Technique.DISTILLATION

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`weight`: of the distance from the teacher; the rest is the task's own loss."""
        return {"weight": WEIGHT}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable without floating-point outputs, or when a teacher's are of another shape."""
        lesson = Lesson.of(task)
        lesson.check_teachers(task, self.name, lesson.check_outputs(self.name))

    def loss(self, plan: Plan, task: Task) -> Loss:
        return OutputLoss(task, plan["weight"])


class OutputLoss(TeacherLoss):
    """The sum of the mean squared differences of all outputs that the task's loss reads."""

    def __init__(self, task: Task, weight: float) -> None:
        super().__init__(task, weight, 1 - weight, list(Lesson.of(task).outputs))

    def teach(self, inputs: Any, outputs: Any, targets: Any | None, rows: Tensor | None) -> Tensor:
        student, teacher = tensors_of(outputs), self.answers(inputs, rows)
        return torch.stack([functional.mse_loss(student[path], teacher[path]) for path in self.paths]).sum()
