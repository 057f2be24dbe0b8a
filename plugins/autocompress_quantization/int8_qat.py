"""Quantization-aware training to 8, 4 or 2 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autocompress import Choice, Parameter, Task, Trait
from autocompress_quantization.fake_quantization import QuantizationAware
from autocompress_quantization.grid import INT8, Grid
from autocompress_quantization.weights import Weight


class Int8QAT(QuantizationAware):
    """Trains with rounded weights, so that the model learns to live with them; stores them in 8, 4 or 2 bits.

    8 bits have a scale per output channel; fewer have a scale and an offset for each group of weights. Good where
    rounding after training costs accuracy: at 2 bits always. At 8 bits `int8_weight_only` gives nearly the same without
    training. Activations stay in floating point, and the model runs on dequantized weights: its speed does not change.
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
    """

    name = "int8_qat"
    refuses = QuantizationAware.refuses | {Trait.SPARSE}  # an offset moves zeros

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"bits": Choice((8, 4, 2), 8), "group_size": Choice((32, 64, 128), 64)}

    def grid(self, weight: Weight, params: Mapping[str, Any]) -> Grid:
        if params["bits"] == 8:
            return Grid(INT8, weight.axis)
        return Grid(2 ** params["bits"], weight.axis, params["group_size"])
