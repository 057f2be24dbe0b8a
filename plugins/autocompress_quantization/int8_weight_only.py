"""Weights stored as int8, computed with in floating point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autocompress import Plan
from autocompress_quantization.grid import INT8, Grid
from autocompress_quantization.packed import PackedWeights
from autocompress_quantization.weights import Weight


class Int8WeightOnly(PackedWeights):
    """Stores weights as int8 with one scale per output channel: about a quarter of the bytes (Jacob et al. 2018).

    Of linear layers, convolutions, attention, recurrent layers and embeddings, tied ones once. Good for size at hardly
    any loss. The model runs on the dequantized weights: neither its speed nor its memory changes. Zeros stay zeros.
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
    """

    name = "int8_weight_only"
    max_output_error = 0.1

    def searches(self, plan: Plan) -> bool:
        return False  # clipping does not pay at 8 bits

    def grid(self, weight: Weight, params: Mapping[str, Any]) -> Grid:
        return Grid(INT8, weight.axis)
