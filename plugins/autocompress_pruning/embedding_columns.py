"""Structured pruning of embedding tables."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from autocompress_pruning.narrowing import ColumnPruning
from autocompress_pruning.readers import set_weight
from autocompress_pruning.scattered import ScatteredEmbedding


class EmbeddingColumns(ColumnPruning):
    """Removes the columns of embedding tables with the smallest norm, and the inputs of the layers that read them.

    Where others than linear and recurrent layers read the columns (the residual stream of a transformer), zeros stand
    in their places: the table shrinks, the rest keeps its size. Good for recommenders and small language models, most
    of whose bytes are tables; it makes nothing slower that reads the table directly. Tables that are tied to another
    layer are left alone.

    Qu et al. 2022, "Single-shot Embedding Dimension Search in Recommender System", which ranks columns by gradients.
    """

    name = "embedding_columns"
    kinds = (nn.Embedding,)
    alike = (nn.EmbeddingBag,)
    columns = "columns of nn.Embedding tables"

    def unsuitable(self, layer: nn.Embedding) -> str:
        if layer.max_norm is not None:
            return "has a `max_norm`, by which its rows are scaled when they are looked up"
        return "" if "weight" in layer._parameters else "has weights that are computed"

    def rank(self, layer: nn.Embedding) -> list[Tensor]:
        return [layer.weight.detach().norm(dim=0)]

    def shrink(self, layer: nn.Embedding, kept: Sequence[Sequence[int]]) -> nn.Embedding:
        narrow = copy.deepcopy(layer)
        narrow.embedding_dim = len(kept[0])
        set_weight(narrow, "weight", layer.weight.detach()[:, kept[0]])
        return narrow

    def scatter(self, narrow: nn.Embedding, layer: nn.Embedding, kept: Sequence[Sequence[int]]) -> ScatteredEmbedding:
        return ScatteredEmbedding(narrow, layer.embedding_dim, kept[0])
