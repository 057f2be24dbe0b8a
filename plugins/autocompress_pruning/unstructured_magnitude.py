"""Unstructured pruning of the smallest weights."""

from __future__ import annotations

from torch import Tensor

from autocompress_pruning.gradual import GradualPruning, Masking


class MagnitudeMasking(Masking):
    """Ranks weights by size; those cut rank by the value that they had."""

    def importance(self) -> list[Tensor]:
        return [dense.abs() for dense in self.dense]


class UnstructuredMagnitude(GradualPruning):
    """Sets the weights with the smallest magnitude to zero, step by step while training.

    Zhu & Gupta 2017, "To prune, or not to prune: exploring the efficacy of pruning for model compression". The measure
    that other unstructured methods must beat; at 80 % zeros the file is a fifth. No gain in speed.
    """

    name = "unstructured_magnitude"
    masking = MagnitudeMasking
