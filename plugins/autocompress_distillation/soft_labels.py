"""Distillation from the teacher's softened probabilities."""

from __future__ import annotations

from torch import Tensor

from autocompress import Loss, Plan, Task
from autocompress_distillation.logits import LogitLoss, LogitMethod, divergence


class SoftLabels(LogitMethod):
    """Trains towards the teacher's class probabilities at a temperature, mixed with the task's own loss.

    The first distillation to try: it says how wrong each wrong class is, which labels do not. It gives little where
    the teacher is sure of everything, or has two classes. Hinton et al. 2015, "Distilling the Knowledge in a Neural
    Network".
    """

    name = "soft_labels"

    def loss(self, plan: Plan, task: Task) -> Loss:
        return SoftLabelLoss(task, plan["weight"], plan["temperature"])


class SoftLabelLoss(LogitLoss):
    """KL(teacher || student) at the temperature, times its square so that gradients keep their size."""

    def __init__(self, task: Task, weight: float, temperature: float, min_classes: int = 2) -> None:
        super().__init__(task, weight, min_classes)
        self.temperature = temperature

    def distance(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        soft = [(logits / self.temperature).log_softmax(dim=-1) for logits in (student, teacher)]
        return divergence(*soft) * self.temperature**2
