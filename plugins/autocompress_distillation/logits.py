"""What the methods share that compare class logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from autocompress import Float, Method, Parameter, Target, Task, Technique
from autocompress_distillation.outputs import IGNORED, Lesson, Logits, tensors_of
from autocompress_distillation.teacher import TeacherLoss

TEMPERATURE = Float(1.0, 10.0, default=4.0, log=True)
WEIGHT = Float(0.1, 1.0, default=0.7)


class LogitMethod(Method):
    """Learns from the teachers' class logits, wherever these stand in the outputs."""

    technique = Technique.DISTILLATION
    min_classes: ClassVar[int] = 2

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`temperature`: what logits are divided by; `weight`: of the distance, the rest is the task's own loss."""
        return {"temperature": TEMPERATURE, "weight": WEIGHT}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable without class logits, or when a teacher's are of another shape."""
        lesson = Lesson.of(task)
        found = lesson.check_logits(self.name, self.min_classes)
        lesson.check_teachers(task, self.name, [logits.path for logits in found])


class LogitLoss(TeacherLoss):
    """The sum of the distances of all class logits among the outputs; positions with the target -100 do not count."""

    def __init__(self, task: Task, weight: float, min_classes: int = 2) -> None:
        """`weight`: of the distance from the teachers; the rest is the task's own loss."""
        places = Lesson.of(task).logits(min_classes)
        super().__init__(task, weight, 1 - weight, [logits.path for logits in places])
        self.places = places

    def distance(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        """A scalar, from the logits of both (N, classes) and the classes (N,), the teacher's where there are none."""
        raise NotImplementedError

    def teach(self, inputs: Any, outputs: Any, targets: Any | None, rows: Tensor | None) -> Tensor:
        student, teacher = tensors_of(outputs), self.answers(inputs, rows)
        pairs = [(logits, logits.rows(student), logits.rows(teacher)) for logits in self.places]
        return torch.stack([self._distance(*pair, targets) for pair in pairs]).sum()

    def _distance(self, logits: Logits, student: Tensor, teacher: Tensor, targets: Any | None) -> Tensor:
        if targets is None:
            return self.distance(student, teacher, teacher.argmax(dim=-1))
        classes = logits.classes(targets)
        counted = classes != IGNORED
        return self.distance(student[counted], teacher[counted], classes[counted])


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student), from log-probabilities (N, classes): the mean over N."""
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
