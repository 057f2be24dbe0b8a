"""Distillation that weighs what the teacher says of the wrong classes by itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from autocompress import Float, Loss, Parameter, Plan, Task
from autocompress_distillation.logits import TEMPERATURE, WEIGHT, LogitLoss, LogitMethod, divergence


class DecoupledKD(LogitMethod):
    """Soft labels in two parts: how sure the teacher is of the target, and how it ranks the other classes.

    In plain soft labels a sure teacher drowns the second part, which is most of what it knows; here `beta` weighs it
    freely. Good for many classes and sure teachers, of no use for two classes. Zhao et al. 2022, "Decoupled Knowledge
    Distillation".
    """

    name = "decoupled_kd"
    min_classes = 3

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`beta`: of the other classes, where the target has 1; `temperature`: what logits are divided by;
        `weight`: of the distance from the teacher, the rest is the task's own loss."""
        return {"beta": Float(0.5, 8.0, default=2.0, log=True), "temperature": TEMPERATURE, "weight": WEIGHT}

    def loss(self, plan: Plan, task: Task) -> Loss:
        return DecoupledLoss(task, plan["weight"], plan["temperature"], plan["beta"])


class DecoupledLoss(LogitLoss):
    """KL of target against all others + `beta` x KL among the others, at the temperature and times its square."""

    def __init__(self, task: Task, weight: float, temperature: float, beta: float) -> None:
        super().__init__(task, weight, DecoupledKD.min_classes)
        self.temperature, self.beta = temperature, beta

    def distance(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        (target, others), (target_taught, others_taught) = (
            decoupled(logits / self.temperature, classes) for logits in (student, teacher)
        )
        parts = divergence(target, target_taught) + self.beta * divergence(others, others_taught)
        return parts * self.temperature**2


def decoupled(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the target and of all others together (N, 2), and of each among the others (N, C - 1)."""
    is_target = functional.one_hot(classes, logits.shape[-1]).bool()
    logs = logits.log_softmax(dim=-1)
    others = logs[~is_target].view(len(logits), -1)
    return torch.stack([logs[is_target], others.logsumexp(dim=-1)], dim=-1), others.log_softmax(dim=-1)
