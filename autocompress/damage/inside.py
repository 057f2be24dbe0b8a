"""Looking inside a model that ships: its modules by the baseline's names, run in eager mode."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator

import torch
from torch import nn


class NoView(ValueError):
    """There is nothing to look at, and why."""


def device_of(model: nn.Module) -> torch.device:
    """Where its first tensor is."""
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """What was compiled runs as it was written, so that hooks are called; recurrent layers run without cuDNN.

    cuDNN gives no gradients of recurrent layers in eval mode.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and its import takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def prefix_of(model: nn.Module, paths: Iterable[str]) -> str:
    """What goes before the baseline's paths in a model that may be wrapped: `model.` for `model.conv1`."""
    wanted, prefix, inner = set(paths), "", model
    while not wanted & {name for name, _ in inner.named_modules()}:
        children = list(inner.named_children())
        if len(children) != 1:
            return ""
        (name, inner) = children[0]
        prefix += f"{name}."
    return prefix
