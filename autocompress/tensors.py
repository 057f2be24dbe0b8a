"""Tensors inside the nested inputs and outputs that models take and give: tensors, tuples, lists, dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with every tensor in it replaced by `function(tensor)`; other leaves stay."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return _like(value, [map_tensors(function, item) for item in value])
    return value


def first_tensor(value: Any) -> Tensor:
    """The first tensor in a nested value; raises ValueError if it holds none."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, value)
    if not found:
        raise ValueError(f"must hold a tensor, but is {type(value).__name__}")
    return found[0]


def concatenate(batches: Sequence[Any], float_padding: float = 0) -> Any:
    """Batches of equal structure joined along dimension 0: outputs of N batches (B, ...) become (N*B, ...).

    Where batches were padded to different lengths, all are padded to the longest: with `float_padding`, or among
    integers with -100, the class that torch's losses ignore.
    """
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(_equally_long(batches, float_padding))
    if isinstance(first, Mapping):
        return {key: concatenate([batch[key] for batch in batches], float_padding) for key in first}
    if isinstance(first, tuple | list):
        return _like(first, [concatenate(list(items), float_padding) for items in zip(*batches, strict=True)])
    return first


def _equally_long(tensors: Sequence[Tensor], float_padding: float) -> list[Tensor]:
    shapes = {tensor.shape[1:] for tensor in tensors}
    if len(shapes) == 1 or len({len(shape) for shape in shapes}) > 1:
        return list(tensors)
    longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    padded = []
    for tensor in tensors:
        missing = [longest[-1 - i] - tensor.shape[-1 - i] for i in range(len(longest))]  # last dimension first
        value = float_padding if tensor.is_floating_point() else -100
        padded.append(functional.pad(tensor, [side for count in missing for side in (0, count)], value=value))
    return padded


def _like(value: Any, items: list[Any]) -> Any:
    """Named tuples take their items one by one."""
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def resize(value: Any, batch_size: int) -> Any:
    """Every tensor (B, ...) in it repeated or cut to (batch_size, ...)."""

    def resized(tensor: Tensor) -> Tensor:
        repeats = -(-batch_size // len(tensor))
        return torch.cat([tensor] * repeats)[:batch_size]

    return map_tensors(resized, value)


def to_device(value: Any, device: torch.device) -> Any:
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), value)


def call(model: nn.Module, inputs: Any) -> Any:
    """`model(inputs)`; a tuple is spread as positional arguments, a dict as keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)
