"""Weights stored in 2, 3 or 4 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autocompress import Choice, Parameter, Plan, Task, Trait
from autocompress_quantization.grid import Grid
from autocompress_quantization.packed import PackedWeights
from autocompress_quantization.weights import Weight


class LowBitWeights(PackedWeights):
    """Stores weights in 4, 3 or 2 bits, with a scale and an offset of 16 bits for each group of weights.

    Scale and offset are searched for the least squared error of each group, without data: shares of its range, then
    lines fitted in turn with the rounding, as in Badri & Shaji 2023, "Half-Quadratic Quantization of Large Machine
    Learning Models". Good for size where layers are large: 4 bits take a seventh of float32. 2 bits need a recovery:
    see `int8_qat`. The model runs on the dequantized weights: neither its speed nor its memory changes.
    """

    name = "low_bit_weights"
    refuses = PackedWeights.refuses | {Trait.SPARSE}  # an offset moves zeros
    max_output_error = 1.0

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {
            "bits": Choice((4, 3, 2), 4),
            "group_size": Choice((32, 64, 128), 64),
            "range": Choice(("mse", "minmax"), "mse"),
        }

    def searches(self, plan: Plan) -> bool:
        return bool(plan["range"] == "mse")

    def grid(self, weight: Weight, params: Mapping[str, Any]) -> Grid:
        return Grid(2 ** params["bits"], weight.axis, params["group_size"])
