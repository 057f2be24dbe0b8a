"""Distillation from the teacher's softened probabilities."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from autocompress import Float, Loss, Method, Parameter, Plan, Target, Task, Technique
from autocompress_distillation.teacher import TeacherLoss, check_classes


class SoftLabels(Method):
    """Trains towards the teacher's class probabilities at a temperature, mixed with the task's own loss.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
    """

    name = "soft_labels"
    technique = Technique.DISTILLATION

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`temperature`: what logits are divided by; `weight`: of the teacher's labels, the rest is the task's loss."""
        return {"temperature": Float(1.0, 10.0, default=4.0, log=True), "weight": Float(0.1, 1.0, default=0.7)}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable unless the task is classification with logits (B, ..., classes)."""
        check_classes(task, self.name)

    def loss(self, plan: Plan, task: Task) -> Loss:
        return SoftLabelLoss(task, plan["weight"], plan["temperature"])


class SoftLabelLoss(TeacherLoss):
    """KL(teacher || student) at the temperature, times its square so that gradients keep their size."""

    def __init__(self, task: Task, weight: float, temperature: float) -> None:
        super().__init__(task, weight)
        self.temperature = temperature

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        divergence = functional.kl_div(
            functional.log_softmax(student / self.temperature, dim=-1),
            functional.log_softmax(teacher / self.temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * self.temperature**2
