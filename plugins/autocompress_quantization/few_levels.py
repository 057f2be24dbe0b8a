"""What binary and ternary weights share: which layers, and training with two or three levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from autocompress import Choice, Parameter, Plan, Task
from autocompress_quantization.fake_quantization import QuantizationAware
from autocompress_quantization.grid import Grid
from autocompress_quantization.packed import saves
from autocompress_quantization.weights import Weight, find_weights


class FewLevels(QuantizationAware):
    """Trains the weights of inner layers to be one of a few multiples of a scale per output channel."""

    levels: ClassVar[int]
    clip = 1.0
    kind = "linear, convolution, attention and recurrent layers"

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """A model without layers between its first and last has no choice."""
        layers = _layers(self.candidates(task.trained_model()))
        return {"keep_ends": Choice((True, False), True) if len(layers) > 2 else Choice((False,), False)}

    def candidates(self, model: nn.Module) -> list[Weight]:
        """All but embeddings, in the order of definition, which is taken for that of the layers."""
        return [weight for weight in find_weights(model) if not weight.is_embedding]

    def grid(self, weight: Weight, params: Mapping[str, Any]) -> Grid:
        return Grid(self.levels, weight.axis)

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The inner weights, or all of them."""
        weights = self.candidates(model)
        layers = _layers(weights)
        ends = {layers[0], layers[-1]} if params["keep_ends"] and layers else set()
        chosen = {weight.name: self.grid(weight, params) for weight in weights if weight.layer not in ends}
        return dict(params) | {"weights": self.worthwhile(model, chosen)}

    def why_skipped(self, weight: Weight) -> str:
        gains = saves(weight, Grid(self.levels, weight.axis))
        return "it is of the first or last layer" if gains else super().why_skipped(weight)


def _layers(weights: list[Weight]) -> list[str]:
    """Layers' names, each once, in order."""
    return list(dict.fromkeys(weight.layer for weight in weights))
