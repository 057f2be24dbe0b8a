"""Structured pruning of the channels with the smallest weights."""

from __future__ import annotations

import torch_pruning as tp

from autocompress_pruning.structured import StructuredPruning
from autocompress_pruning.trace import Importance


class StructuredMagnitude(StructuredPruning):
    """Removes the channels whose weights have the smallest L2 norm, summed over all layers that share the channel.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets"; groups of layers as in Fang et al. 2023, "DepGraph".
    """

    name = "structured_magnitude"

    def importance(self) -> Importance:
        importance: Importance = tp.importance.GroupMagnitudeImportance(p=2)
        return importance
