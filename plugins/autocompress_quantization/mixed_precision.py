"""Bits for each layer by what its rounding does to the outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from torch import nn

from autocompress import Choice, Float, Parameter, Plan, Task, Trait
from autocompress.allocation import Option, allocate
from autocompress.sensitivity import profile
from autocompress_quantization.grid import INT8, Grid
from autocompress_quantization.packed import PackedWeights, round_to_grid
from autocompress_quantization.weights import Weight, find_weights

BITS = (2, 3, 4, 8)


class MixedPrecision(PackedWeights):
    """Stores each weight in 8, 4, 3 or 2 bits, so that they are `average_bits` a weight and the outputs move least.

    What each weight alone does to the outputs at each size is measured once for a model, and a solver gives the bits.
    Good where one size for all layers is wasteful, as it mostly is below 6 bits. Scales and offsets come on top of the
    average: half a bit a weight at the default group size. The model runs on dequantized weights: neither its speed nor
    its memory changes.
    Dong et al. 2019, "HAWQ"; Yao et al. 2021, "HAWQ-V3" (bits by a solver over a table of sensitivities).
    """

    name = "mixed_precision"
    refuses = PackedWeights.refuses | {Trait.SPARSE}  # an offset moves zeros
    max_output_error = 1.0
    needs_calibration = True

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {
            "average_bits": Float(2.0, 8.0, default=5.0),
            "group_size": Choice((32, 64, 128), 64),
        }

    def grid(self, weight: Weight, params: Mapping[str, Any]) -> Grid:
        """That of 8 bits, which every weight may have."""
        return _grid(weight, 8, params["group_size"])

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The bits of each weight, by what it does to the outputs on calibration data."""
        everywhere = self.worthwhile(model, {weight.name: self.grid(weight, params) for weight in find_weights(model)})
        weights = {weight.name: weight for weight in find_weights(model) if weight.name in everywhere}
        group_size = params["group_size"]

        def changed(bits: Mapping[str, float]) -> nn.Module:
            copied = copy.deepcopy(model)
            for name, number in bits.items():
                grid = _grid(weights[name], int(number), group_size)
                round_to_grid(copied.get_parameter(name), grid, search=True)
            return copied

        made = profile(model, task, f"{self.name} 2 {group_size}", list(weights), BITS, changed)
        bits = allot(
            [weight.parameter.numel() for weight in weights.values()],
            [_never_worse_with_more(made.errors[name]) for name in weights],
            params["average_bits"],
        )
        chosen = {
            weight.name: _grid(weight, number, group_size)
            for weight, number in zip(weights.values(), bits, strict=True)
        }
        return dict(params) | {"weights": self.worthwhile(model, chosen)}


def allot(sizes: list[int], damage: list[list[float]], average: float) -> list[int]:
    """Bits for each weight, with the least sum of damages that the average allows, by `autocompress.allocation`.

    `damage[i][k]` is what rounding weight i to BITS[k] does.
    """
    table = {
        str(i): [Option(bits * size, error) for bits, error in zip(BITS, errors, strict=True)]
        for i, (size, errors) in enumerate(zip(sizes, damage, strict=True))
    }
    return [BITS[k] for k in allocate(table, average * sum(sizes)).values()]


def _grid(weight: Weight, bits: int, group_size: int) -> Grid:
    return Grid(INT8, weight.axis) if bits == 8 else Grid(2**bits, weight.axis, group_size)


def _never_worse_with_more(errors: Sequence[float]) -> list[float]:
    """Errors by size, the fewest bits first, none less than with more bits: what looks so is chance."""
    return list(accumulate(reversed(errors), max))[::-1]
