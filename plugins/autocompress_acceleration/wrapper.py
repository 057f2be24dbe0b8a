"""A model inside a module that changes how it is run."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from autocompress.tensors import map_tensors


class Wrapper(nn.Module):
    """Runs `model` on the inputs of a call, which it has as `call` takes them: a tensor, a tuple or a dict."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(kwargs if kwargs else args)

    def run(self, inputs: Any) -> Any:
        raise NotImplementedError


def all_tensors(value: Any) -> list[Tensor]:
    """All tensors in a nested value, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, value)
    return found
