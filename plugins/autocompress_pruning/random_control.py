"""Structured pruning of random channels: the control."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autocompress_pruning.structured import StructuredPruning
from autocompress_pruning.trace import Importance


class StructuredRandom(StructuredPruning):
    """Removes channels at random, the same ones for the same model: what an importance must beat to be worth its name.

    After recovery it is often close (Mittal et al. 2018, "Recovering from Random Pruning").
    """

    name = "structured_random"

    def importance(self) -> Importance:
        generator = torch.Generator().manual_seed(0)

        def score(group: Any) -> Tensor:
            return torch.rand(len(group[0].idxs), generator=generator)

        return score
