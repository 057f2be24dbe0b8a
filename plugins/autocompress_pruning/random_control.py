"""Structured pruning of random channels: the control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autocompress import Task
from autocompress_pruning.ranking import Scope
from autocompress_pruning.structured import StructuredPruning
from autocompress_pruning.trace import Group


class StructuredRandom(StructuredPruning):
    """Removes channels at random, the same ones for the same model: what an importance must beat to be worth its name.

    Every layer loses the same share. After recovery it is often close (Mittal et al. 2018, "Recovering from Random
    Pruning").
    """

    name = "structured_random"
    scopes = (Scope.UNIFORM,)
    iterates = False

    def scores(
        self, model: nn.Module, groups: Sequence[Group], params: Mapping[str, Any], task: Task
    ) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {group.root: torch.rand(group.size, generator=generator) for group in groups}
