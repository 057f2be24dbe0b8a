"""What the factorizations of convolutions share: which ones, and why others cannot be split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from autocompress_factorization.low_rank import owners


def convolutions(
    model: nn.Module, types: tuple[type[nn.Module], ...], obstacle: Callable[[Any], str]
) -> Mapping[str, str]:
    """Convolutions of these types, with the reason why one cannot be split; `obstacle` gives a method's own."""
    shared = owners(model)
    return {
        name: _general_obstacle(module, types, shared) or obstacle(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd)
    }


def _general_obstacle(layer: Any, types: tuple[type[nn.Module], ...], shared: Mapping[int, list[str]]) -> str:
    if type(layer) not in types:
        return f"{type(layer).__name__} is none of {', '.join(known.__name__ for known in types)}"
    if layer.groups > 1:
        return f"its {layer.groups} groups are a factorization already"
    if layer._parameters.get("weight") is None:
        return "its weight is computed from other parameters"
    others = shared[id(layer.weight)]
    return f"its weight is shared by {' and '.join(others)}" if len(others) > 1 else ""
