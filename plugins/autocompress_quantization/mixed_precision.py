"""Bits for each layer by what its rounding does to the outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autocompress import Choice, Float, Parameter, Plan, Task, Trait
from autocompress.allocation import Option, allocate
from autocompress.tensors import call, map_tensors
from autocompress_quantization.grid import INT8, Grid
from autocompress_quantization.packed import PackedWeights
from autocompress_quantization.weights import Weight, find_weights

BITS = (2, 3, 4, 8)
SAMPLES = 8
"""Calibration inputs that a decision looks at."""
PROBES = 2
"""Random directions of the outputs whose gradients are taken."""


class MixedPrecision(PackedWeights):
    """Stores each weight in 8, 4, 3 or 2 bits, so that they are `average_bits` a weight and the outputs move least.

    What rounding a weight does to the outputs is estimated to first order: the squared gradients of random directions
    of the outputs, summed over the squared rounding errors: one pass for all layers and bits. A solver then gives the
    bits. Good where one size for all layers is wasteful, as it mostly is below 6 bits. Scales and offsets come on top
    of the average: half a bit a weight at the default group size. The model runs on dequantized weights: neither its
    speed nor its memory changes.
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
        """The bits of each weight, from a batch of calibration inputs."""
        everywhere = self.worthwhile(model, {weight.name: self.grid(weight, params) for weight in find_weights(model)})
        weights = [weight for weight in find_weights(model) if weight.name in everywhere]
        gains = _squared_gradients(model, task)
        damage = [
            [_damage(weight, _grid(weight, bits, params["group_size"]), gains[weight.name]) for bits in BITS]
            for weight in weights
        ]
        bits = allot([weight.parameter.numel() for weight in weights], damage, params["average_bits"])
        chosen = {
            weight.name: _grid(weight, number, params["group_size"])
            for weight, number in zip(weights, bits, strict=True)
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


def _damage(weight: Weight, grid: Grid, gain: Tensor) -> float:
    """The mean squared change of an output, to first order, when the weight is rounded."""
    steps = grid.fit(weight.parameter)
    rounded = grid.dequantize(grid.quantize(weight.parameter, steps), steps)
    return float(((rounded - weight.parameter.detach().float()).square() * gain).sum())


def _squared_gradients(model: nn.Module, task: Task) -> dict[str, Tensor]:
    """Mean square of the gradient of random directions of the outputs, by name of the parameter."""
    copied = copy.deepcopy(model).eval().requires_grad_(True)
    inputs = next(task.calibration_inputs(SAMPLES, SAMPLES))
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.zeros(parameter.shape) for name, parameter in copied.named_parameters()}
    for _ in range(PROBES):
        copied.zero_grad()
        with torch.enable_grad():
            _along_random(call(copied, inputs), generator).backward()  # type: ignore[no-untyped-call]
        for name, parameter in copied.named_parameters():
            if parameter.grad is not None:
                found[name] += parameter.grad.float().square() / PROBES
    return found


def _along_random(outputs: Any, generator: torch.Generator) -> Tensor:
    """The outputs' component along a random direction, a scalar."""
    terms: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            terms.append((tensor * torch.randn(tensor.shape, generator=generator)).sum())
        return tensor

    map_tensors(note, outputs)
    return torch.stack(terms).sum()
