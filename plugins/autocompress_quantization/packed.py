"""What the methods share that store weights as integers and run them in floating point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autocompress import AutocompressError, Method, NotApplicable, Plan, Target, Task, Technique, Trait
from autocompress_quantization.grid import STEPS_TYPE, Grid
from autocompress_quantization.weights import Weight, find_weights, unfit_weights

NAMING_BYTES = 100
"""About what a weight costs beside its name twice, in the file for its scales and in the plan: it must save more."""


class PackedWeights(Method, ABC):
    """Stores weights as integer codes and scales; what runs is their product, in floating point.

    So the files become smaller, while memory and time stay as they were. A weight's scales are a buffer beside it
    (`weight_steps`), from which its codes are found again without loss.
    """

    technique = Technique.QUANTIZATION
    gives = frozenset({Trait.PACKED})
    refuses = frozenset({Trait.QUANTIZED, Trait.PACKED, Trait.HALF})

    kind = "linear, convolution, attention, recurrent and embedding layers"
    """The layers whose weights it stores, in words."""

    @abstractmethod
    def grid(self, weight: Weight, params: Mapping[str, Any]) -> Grid:
        """How a weight is quantized."""

    def candidates(self, model: nn.Module) -> list[Weight]:
        """The weights it works on."""
        return find_weights(model)

    def searches(self, plan: Plan) -> bool:
        """Whether scales are searched for the least squared error of the weights, or span their range."""
        return True

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if the model has no weights to store, or only ones too small to gain."""
        model = task.trained_model()
        weights = self.candidates(model)
        params = {name: parameter.default for name, parameter in self.search_space(task).items()}
        if not any(saves(weight, self.grid(weight, params)) for weight in weights):
            why = "only ones so small that they would gain nothing" if weights else "none"
            why += "".join(f"; {name}: {reason}" for name, reason in unfit_weights(model).items())
            raise NotApplicable(f"{self.name} stores weights of {self.kind} in fewer bits, but this model has {why}")

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The grid of each weight: its levels, its axis, its groups' size."""
        grids = {weight.name: self.grid(weight, params) for weight in self.candidates(model)}
        return dict(params) | {"weights": self.worthwhile(model, grids)}

    def worthwhile(self, model: nn.Module, grids: Mapping[str, Grid]) -> dict[str, list[int]]:
        """The grids, as JSON, of the weights that take fewer bytes with them."""
        return {
            weight.name: [grid.levels, grid.axis, grid.group_size]
            for weight in find_weights(model)
            if (grid := grids.get(weight.name)) is not None and saves(weight, grid)
        }

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        left = [weight for weight in self.candidates(model) if weight.name not in plan["weights"]]
        reasons = {weight.name: self.why_skipped(weight) for weight in left}
        return reasons | unfit_weights(model)

    def why_skipped(self, weight: Weight) -> str:
        return f"its {weight.parameter.numel()} weights are too few to gain from it"

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        """Rounds the weights to values of their grids, and puts the scales beside them."""
        for name, grid in grids(plan).items():
            _add_steps(model, name, round_to_grid(model.get_parameter(name), grid, self.searches(plan)))
        return model

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        for name, grid in grids(plan).items():
            weight = model.get_parameter(name)
            _add_steps(model, name, torch.zeros(grid.steps_shape(weight.shape), dtype=STEPS_TYPE, device=weight.device))
        return model

    def pack(self, tensors: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        """Codes in place of weights. Raises AutocompressError for a weight that is no value of its grid any more."""
        packed = dict(tensors)
        for name, grid in grids(plan).items():
            weight, steps = packed.pop(name), packed[_steps(name)]
            codes = grid.quantize(weight, steps)
            if not torch.equal(grid.dequantize(codes, steps).to(weight.dtype), weight):
                raise AutocompressError(
                    f"{self.name} stores {name!r} in few bits, but a later step changed its values:"
                    f" use one of the two steps"
                )
            packed[_codes(name)] = grid.pack(codes)
        return packed

    def unpack(self, stored: dict[str, Tensor], like: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        tensors = dict(stored)
        for name, grid in grids(plan).items():
            codes = grid.unpack(tensors.pop(_codes(name)), like[name].shape)
            tensors[name] = grid.dequantize(codes, tensors[_steps(name)]).to(like[name].dtype)
        return tensors


def round_to_grid(weight: nn.Parameter, grid: Grid, search: bool) -> Tensor:
    """Rounds it in place, and gives the steps."""
    steps = grid.fit(weight, search)
    with torch.no_grad():
        weight.copy_(grid.dequantize(grid.quantize(weight, steps), steps))
    return steps


def grids(plan: Plan) -> dict[str, Grid]:
    """Grid by name of the weight."""
    return {name: Grid(*_three(entry)) for name, entry in plan["weights"].items()}


def _three(entry: Sequence[int]) -> tuple[int, int, int]:
    levels, axis, group_size = entry
    return levels, axis, group_size


def _steps(name: str) -> str:
    return f"{name}_steps"


def _codes(name: str) -> str:
    return f"{name}.codes"


def _add_steps(model: nn.Module, name: str, steps: Tensor) -> None:
    layer, _, attribute = name.rpartition(".")
    model.get_submodule(layer).register_buffer(_steps(attribute), steps)


def saves(weight: Weight, grid: Grid) -> bool:
    """Whether a weight takes fewer bytes with a grid, all that it adds to the files included."""
    return grid.stored_bytes(weight.parameter.shape) + NAMING_BYTES + 2 * len(weight.name) < weight.bytes
