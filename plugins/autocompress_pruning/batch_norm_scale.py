"""Structured pruning by the scales of batch norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress import Task
from autocompress_pruning.ranking import Scope
from autocompress_pruning.scores import group_scores
from autocompress_pruning.structured import StructuredPruning
from autocompress_pruning.trace import Group


class StructuredBatchNormScale(StructuredPruning):
    """Removes the channels that batch norm scales least.

    Only for channels that a batch norm with a scale follows; the others stay. Made for models trained with an L1
    penalty on the scales; without one it is still a fair guess, since the scale is what a channel's size is set by.
    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming", which ranks globally.
    """

    name = "structured_batch_norm_scale"
    scopes = (Scope.GLOBAL, Scope.UNIFORM, Scope.ISOMORPHIC, Scope.SENSITIVITY, Scope.SENSITIVITY_MACS)
    iterates = False
    rule = "removes channels that a batch norm with a scale follows, but this model has none that may go"

    def eligible(self, model: nn.Module, group: Group) -> bool:
        return any(
            member.dimension is None and _scale(model.get_submodule(member.name)) is not None
            for member in group.members
        )

    def scores(
        self, model: nn.Module, groups: Sequence[Group], params: Mapping[str, Any], task: Task
    ) -> Mapping[str, Tensor]:
        return group_scores(model, groups, lambda module, parameter: _scale(module))


def _scale(module: nn.Module) -> Tensor | None:
    """|scale| of each channel (channels,)."""
    return module.weight.detach().abs() if isinstance(module, _BatchNorm) and module.affine else None
