"""Structured pruning by layer-adaptive magnitude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autocompress import Task
from autocompress_pruning.ranking import Scope
from autocompress_pruning.scores import group_scores, magnitude
from autocompress_pruning.structured import StructuredPruning
from autocompress_pruning.trace import Group


class StructuredLamp(StructuredPruning):
    """Removes the channels with the smallest share of what their group has left, ranked over the whole model.

    A channel's score is its squared weights by those of all channels of its group that are no smaller: so each layer's
    largest channel scores 1 and no layer is emptied, and how much a layer loses follows from its weights alone. Good
    where layers differ in how much they can lose; within one layer it ranks like `structured_magnitude`.
    Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning"; for channels as in Torch-Pruning.
    """

    name = "structured_lamp"
    scopes = (Scope.GLOBAL, Scope.ISOMORPHIC)

    def scores(
        self, model: nn.Module, groups: Sequence[Group], params: Mapping[str, Any], task: Task
    ) -> Mapping[str, Tensor]:
        return {root: lamp(score) for root, score in group_scores(model, groups, magnitude(2)).items()}


def lamp(scores: Tensor) -> Tensor:
    """Each score by the sum of itself and all larger ones (channels,)."""
    ordered, order = scores.sort(stable=True)
    remaining = ordered.flip(0).cumsum(0).flip(0)
    return torch.empty_like(scores).index_copy_(0, order, ordered / remaining.clamp_min(1e-12))
