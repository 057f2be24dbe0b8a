"""Distillation from the teacher's decisions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from autocompress import Float, Loss, Method, Parameter, Plan, Target, Task, Technique
from autocompress_distillation.teacher import TeacherLoss, check_classes


class HardLabels(Method):
    """Trains towards the class that the teacher gives each sample, mixed with the task's own loss.

    Worth its name only where labels are noisy, or the samples augmented or without labels: a teacher that fits the
    labels of its own training data repeats them, and this is then plain training. Lee 2013, "Pseudo-Label".
    """

    name = "hard_labels"
    technique = Technique.DISTILLATION

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`weight`: of the teacher's labels; the rest is the task's own loss."""
        return {"weight": Float(0.1, 1.0, default=0.7)}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable unless the task is classification with logits (B, ..., classes)."""
        check_classes(task, self.name)

    def loss(self, plan: Plan, task: Task) -> Loss:
        return HardLabelLoss(task, plan["weight"])


class HardLabelLoss(TeacherLoss):
    """Cross entropy with the teacher's most likely class."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return functional.cross_entropy(student, teacher.argmax(dim=-1))
