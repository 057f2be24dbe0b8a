"""Distillation of the order in which the teacher ranks items."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autocompress import Integer, Loss, Parameter, Plan, Task
from autocompress_distillation.logits import WEIGHT, LogitLoss, LogitMethod

_MOST = 20


class RankingDistillation(LogitMethod):
    """Trains towards the order of the teacher's best items: of a recommender's next items, or a vocabulary.

    Only the top of the ranking is learned, and only its order, not the scores; so it suits models that are judged by
    what they recommend first, and not those whose probabilities matter. The idea of Tang & Wang 2018, "Ranking
    Distillation", with the listwise likelihood of Kang et al. 2020, "DE-RRD: A Knowledge Distillation Framework for
    Recommender System", which no shift of all scores can satisfy.
    """

    name = "ranking_distillation"
    min_classes = _MOST + 1

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`top`: how many of the teacher's best items; `weight`: of the distance, the rest is the task's own loss."""
        return {"top": Integer(1, _MOST, default=10), "weight": WEIGHT}

    def loss(self, plan: Plan, task: Task) -> Loss:
        return RankingLoss(task, plan["weight"], plan["top"])


class RankingLoss(LogitLoss):
    """-log of the likelihood that the student draws the teacher's best items in order, by item (Plackett-Luce)."""

    def __init__(self, task: Task, weight: float, top: int) -> None:
        super().__init__(task, weight, RankingDistillation.min_classes)
        self.top = top

    def distance(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        order = teacher.argsort(dim=-1, descending=True, stable=True)
        ranked = student.gather(-1, order)  # (N, items), the teacher's best first
        left = ranked.flip(-1).logcumsumexp(dim=-1).flip(-1)  # log of the sum over an item and all ranked after it
        return -(ranked - left)[:, : self.top].mean()
