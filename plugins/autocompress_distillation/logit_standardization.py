"""Distillation from the teacher's softened probabilities, freed of the size of its logits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autocompress import Float, Loss, Parameter, Plan, Task
from autocompress_distillation.logits import WEIGHT, LogitMethod
from autocompress_distillation.soft_labels import SoftLabelLoss


class LogitStandardization(LogitMethod):
    """Soft labels of logits with mean 0 and standard deviation 1 in each sample.

    The student learns how the classes relate, not how large the teacher's logits are: good for students much smaller
    than their teacher, and for teachers that are too sure. Not for tasks that need the teacher's calibration. Sun et
    al. 2024, "Logit Standardization in Knowledge Distillation".
    """

    name = "logit_standardization"
    min_classes = 3  # two standardized logits say no more than which is larger

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`temperature`: what standardized logits are divided by; `weight`: of the distance from the teacher."""
        return {"temperature": Float(0.5, 5.0, default=2.0, log=True), "weight": WEIGHT}

    def loss(self, plan: Plan, task: Task) -> Loss:
        return LogitStandardizationLoss(task, plan["weight"], plan["temperature"], self.min_classes)


class LogitStandardizationLoss(SoftLabelLoss):
    """The soft labels' loss of standardized logits."""

    def distance(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        return super().distance(standardized(student), standardized(teacher), classes)


def standardized(logits: Tensor) -> Tensor:
    """Logits (N, classes) with mean 0 and standard deviation 1 in each row."""
    return (logits - logits.mean(dim=-1, keepdim=True)) / (logits.std(dim=-1, keepdim=True) + 1e-7)
