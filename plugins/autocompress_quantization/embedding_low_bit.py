"""Embedding tables stored in 4 or 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from autocompress import Choice, Parameter, Task, Trait
from autocompress_quantization.grid import INT8, Grid
from autocompress_quantization.packed import PackedWeights
from autocompress_quantization.weights import Weight, find_weights


class EmbeddingLowBit(PackedWeights):
    """Stores embedding tables in 8 or 4 bits with scales of their own for each row, and nothing else.

    Good for recommenders and language models of many rows, where the tables are most of the bytes and each answer reads
    few of them; it can follow `int8_dynamic`, which quantizes other layers. A table that is an output layer's weight
    too is stored for both. The model runs on dequantized tables: neither its speed nor its memory changes.
    Guan et al. 2019, "Post-Training 4-bit Quantization on Embedding Tables".
    """

    name = "embedding_low_bit"
    refuses = frozenset({Trait.SPARSE, Trait.PACKED, Trait.HALF})  # an offset moves zeros
    max_output_error = 0.5
    kind = "embedding layers"

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"bits": Choice((8, 4), 8)}

    def candidates(self, model: nn.Module) -> list[Weight]:
        return [weight for weight in find_weights(model) if weight.is_embedding]

    def grid(self, weight: Weight, params: Mapping[str, Any]) -> Grid:
        return Grid(INT8 if params["bits"] == 8 else 2 ** params["bits"], weight.axis)
