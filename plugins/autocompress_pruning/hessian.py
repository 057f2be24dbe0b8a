"""Structured pruning by the second-order change of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autocompress import Integer, Parameter, Task
from autocompress_pruning.scores import from_gradients, group_scores
from autocompress_pruning.structured import StructuredPruning
from autocompress_pruning.trace import Group


class StructuredHessian(StructuredPruning):
    """Removes the channels without which the loss would change least, by its curvature: weight^2 x gradient^2.

    The Hessian's diagonal is taken to be the mean square of each sample's gradient (the empirical Fisher), which is
    good at a minimum, where first-order terms vanish; one backward pass a sample.
    LeCun et al. 1989, "Optimal Brain Damage"; for groups of layers as in Fang et al. 2023, "DepGraph".
    """

    name = "structured_hessian"

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`samples`: of the calibration data, one gradient each."""
        return {**super().search_space(task), "samples": Integer(16, 1024, default=64, log=True)}

    def scores(
        self, model: nn.Module, groups: Sequence[Group], params: Mapping[str, Any], task: Task
    ) -> Mapping[str, Tensor]:
        importance = from_gradients(
            model, task, params["samples"], 1, lambda weight, gradient: (weight * gradient).square()
        )
        return group_scores(model, groups, importance)
