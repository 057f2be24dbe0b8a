"""Structured pruning of the channels with the smallest weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autocompress import Choice, Parameter, Task
from autocompress_pruning.scores import group_scores, magnitude
from autocompress_pruning.structured import StructuredPruning
from autocompress_pruning.trace import Group


class StructuredMagnitude(StructuredPruning):
    """Removes the channels with the smallest weights, summed over all layers that share the channel.

    Needs no data and is hard to beat when a recovery follows; blind to how much a channel is used.
    Li et al. 2017, "Pruning Filters for Efficient ConvNets"; groups of layers as in Fang et al. 2023, "DepGraph".
    """

    name = "structured_magnitude"

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`norm`: `l1` sums the weights' sizes, `l2` their squares, which counts large weights more."""
        return {**super().search_space(task), "norm": Choice(("l1", "l2"), default="l2")}

    def scores(
        self, model: nn.Module, groups: Sequence[Group], params: Mapping[str, Any], task: Task
    ) -> Mapping[str, Tensor]:
        return group_scores(model, groups, magnitude({"l1": 1, "l2": 2}[params["norm"]]))
