"""A model inside a module that changes how it is run."""

from __future__ import annotations

from typing import Any

from torch import nn


class Wrapper(nn.Module):
    """Runs `model` on the inputs of a call, which it has as `call` takes them: a tensor, a tuple or a dict."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(kwargs if kwargs else args)

    def run(self, inputs: Any) -> Any:
        raise NotImplementedError
