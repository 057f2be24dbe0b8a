"""Training with weights on their grids: what quantization-aware methods share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from autocompress import Plan, Target, Task, Trait
from autocompress_quantization.grid import Grid
from autocompress_quantization.packed import PackedWeights, grids
from autocompress_quantization.weights import find_weights


class QuantizationAware(PackedWeights):
    """Trains with the values that will be stored: each forward rounds the weights, each backward sees through it."""

    refuses = PackedWeights.refuses | {Trait.FOLDED}
    max_output_error = 1e-4  # what is stored is what was trained with
    clip: float | None = None
    """Weights beyond it get no gradient, since their codes could not change any more; None for no bound."""

    def searches(self, plan: Plan) -> bool:
        return False  # as in training, where a search at each step would take too long

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Puts a rounding before each weight."""
        return round_weights(model, grids(plan), self.clip)

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return super().finalize(without_rounding(model), plan, task, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        return super().restore(without_rounding(model), plan, target)

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        rounded = {name for name, _, _ in _rounded_weights(model)}
        return {name: reason for name, reason in super().skipped(model, plan).items() if name not in rounded}


def round_weights(model: nn.Module, wanted: Mapping[str, Grid], clip: float | None = None) -> nn.Module:
    """The model with a rounding before each weight that has a grid. Weights that layers share stay shared."""
    for weight in find_weights(model):
        if weight.name in wanted:
            for module, attribute in weight.owners:
                register_parametrization(module, attribute, _Rounding(wanted[weight.name], clip))
    return model


class _Rounding(nn.Module):
    """A weight as it will be stored, computed from the one that is trained."""

    def __init__(self, grid: Grid, clip: float | None) -> None:
        super().__init__()
        self.grid, self.clip = grid, clip

    def forward(self, weight: Tensor) -> Tensor:
        steps = self.grid.fit(weight)
        rounded = self.grid.dequantize(self.grid.quantize(weight, steps), steps).to(weight.dtype)
        values: Tensor = _StraightThrough.apply(weight, rounded, self.clip)
        return values


class _StraightThrough(torch.autograd.Function):
    """Gives the rounded values, and hands their gradient to the weights (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor, clip: float | None) -> Tensor:
        ctx.clip = clip
        ctx.save_for_backward(weight)
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        inside = gradients[0] if ctx.clip is None else gradients[0] * (weight.abs() <= ctx.clip)
        return inside, None, None


def without_rounding(model: nn.Module, keep: bool = False) -> nn.Module:
    """The trained weights as plain parameters again: as they were trained, or, to `keep` them, as they were rounded."""
    for _, module, attribute in list(_rounded_weights(model)):
        remove_parametrizations(module, attribute, leave_parametrized=keep)
    return model


def _rounded_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, layer and attribute of each weight that is rounded while it is trained."""
    for prefix, module in model.named_modules():
        for attribute, parts in getattr(module, "parametrizations", {}).items():
            if any(isinstance(part, _Rounding) for part in parts):
                yield (f"{prefix}.{attribute}" if prefix else attribute), module, attribute
