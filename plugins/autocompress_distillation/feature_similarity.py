"""Distillation of how alike samples are inside the teacher."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from autocompress import Task
from autocompress_distillation.features import FeatureLoss, FeatureMethod

_MOST_ROWS = 256
"""Similarities are (rows, rows), so of many steps of packed sequences some are taken."""


class FeatureSimilarity(FeatureMethod):
    """Trains the similarities between a batch's samples, inside a few layers, towards the teacher's: 1 - linear CKA.

    It is the same for any width, rotation and scale of the features, so pruned layers need no adapter. It needs batches
    of more than a few samples, and says nothing of the head. Kornblith et al. 2019, "Similarity of Neural Network
    Representations Revisited"; as a loss Saha et al. 2022, "Distilling Representational Similarity using Centered
    Kernel Alignment".
    """

    name = "feature_similarity"
    needed = "layers that give something for each sample (B, ...) and are not outputs"

    def fits(self, feature: Tensor) -> bool:
        return True

    def feature_loss(self, task: Task, weight: float, layers: list[str]) -> FeatureLoss:
        return SimilarityLoss(task, weight, layers)


class SimilarityLoss(FeatureLoss):
    """1 - linear CKA: 0 when all similarities are proportional, 1 when they have nothing in common."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        own, taught = similarities(student), similarities(teacher)
        return 1 - functional.cosine_similarity(own.flatten(), taught.flatten(), dim=0)


def similarities(feature: Tensor) -> Tensor:
    """Inner products (rows, rows) of centred features (rows, ...)."""
    rows = feature.flatten(1)[:: -(-len(feature) // _MOST_ROWS)].float()
    centred = rows - rows.mean(dim=0)
    return centred @ centred.T
