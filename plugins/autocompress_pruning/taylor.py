"""Structured pruning by the first-order change of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autocompress import Integer, Parameter, Task
from autocompress_pruning.scores import from_gradients, group_scores
from autocompress_pruning.structured import StructuredPruning
from autocompress_pruning.trace import Group

_BATCH = 16


class StructuredTaylor(StructuredPruning):
    """Removes the channels without which the loss would change least, by its gradient: |weight x gradient|.

    Sees what the task needs, which magnitude cannot, for one pass over a few samples. Near a minimum gradients are
    small and noisy, so it wants more samples than it may seem.
    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (first order).
    """

    name = "structured_taylor"

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`samples`: of the calibration data, that the gradients are taken on, 16 at a time."""
        return {**super().search_space(task), "samples": Integer(32, 4096, default=256, log=True)}

    def scores(
        self, model: nn.Module, groups: Sequence[Group], params: Mapping[str, Any], task: Task
    ) -> Mapping[str, Tensor]:
        importance = from_gradients(
            model, task, params["samples"], _BATCH, lambda weight, gradient: (weight * gradient).abs()
        )
        return group_scores(model, groups, importance)
