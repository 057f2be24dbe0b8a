"""A model's state as plain tensors: quantized and packed parameters taken apart into the tensors that they hold.

Tensor subclasses (torchao's among them) say by `__tensor_flatten__` what they are made of, which is PyTorch's own
protocol for traceable wrapper subclasses. So any of them can be stored as plain tensors without pickle, and loaded into
a parameter of the same structure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from autocompress.errors import ArtifactError


def leaves(model: nn.Module) -> dict[str, Tensor]:
    """Plain tensors by name, parameters and persistent buffers; what is tied appears once, under its first name."""
    found: dict[str, Tensor] = {}
    for name, tensor in _state(model):
        _flatten(name, tensor.detach(), found)
    return found


def load_leaves(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors into a model of the same structure, in place.

    Raises ArtifactError when a name is missing or left over, or a shape or dtype differs.
    """
    expected = leaves(model)
    for name in sorted(expected.keys() ^ tensors.keys()):
        side = "missing in" if name in expected else "not expected from"
        raise ArtifactError(f"tensor {name!r} is {side} the stored weights: is it the model they were made from?")
    for name, old in expected.items():
        new = tensors[name]
        if old.shape != new.shape or old.dtype != new.dtype:
            raise ArtifactError(
                f"tensor {name!r} must be {tuple(old.shape)} {old.dtype} in the given model,"
                f" but is stored as {tuple(new.shape)} {new.dtype}"
            )
    with torch.no_grad():
        for name, old in expected.items():
            old.copy_(tensors[name])


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=True)
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set and id(buffer) not in seen:
                seen.add(id(buffer))
                yield (f"{prefix}.{name}" if prefix else name), buffer


def _flatten(name: str, tensor: Any, found: dict[str, Tensor]) -> None:
    if not is_traceable_wrapper_subclass(tensor):
        found[name] = tensor
        return
    parts, _ = tensor.__tensor_flatten__()
    for part in parts:
        _flatten(f"{name}.{part}", getattr(tensor, part), found)
