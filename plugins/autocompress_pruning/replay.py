"""A pruning plan carried out: removals replayed on a model of the same structure, without tracing or running it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import torch
import torch_pruning as tp
from torch import nn


class Removal(TypedDict, total=False):
    """Indices that go from several tensors at once."""

    removed: str
    """As ranges, both ends included: `0-3 7 9-12`; counted in the tensors as the removals before left them."""
    out: list[str]
    """Modules that lose output channels; normalization layers and depthwise convolutions lose both at once."""
    into: list[str]
    """Modules that lose input channels."""
    parameters: dict[str, int]
    """Parameters that belong to no layer (a position embedding), and the dimension that is cut."""


def encode(indices: Iterable[int]) -> str:
    """`[0, 1, 2, 3, 7]` as `0-3 7`: plans are part of what ships, so they are short."""
    ranges: list[list[int]] = []
    for index in sorted(indices):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return " ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def decode(text: str) -> list[int]:
    """`0-3 7` as `[0, 1, 2, 3, 7]`."""
    indices: list[int] = []
    for item in text.split():
        low, _, high = item.partition("-")
        indices.extend(range(int(low), int(high or low) + 1))
    return indices


def replay(model: nn.Module, removals: Sequence[Removal]) -> nn.Module:
    """`model` with the removals carried out in order, by Torch-Pruning's own functions for each type of layer.

    Frozen parameters stay frozen, and tied ones tied: Torch-Pruning replaces both by new, trainable parameters.
    """
    graph = tp.DependencyGraph()
    # Looked up before anything is cut: a grouped convolution that loses channels can come to look like a depthwise one.
    pruners = {name: graph.get_pruner_of_module(module) for name, module in model.named_modules()}
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    tied = _tied(model)
    with torch.no_grad():
        for removal in removals:
            _remove(model, pruners, removal)
    for names in tied:
        _tie(model, names)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return model


def _remove(model: nn.Module, pruners: dict[str, Any], removal: Removal) -> None:
    indices = decode(removal["removed"])
    for name in removal.get("out", []):
        pruners[name].prune_out_channels(model.get_submodule(name), indices)
    for name in removal.get("into", []):
        pruners[name].prune_in_channels(model.get_submodule(name), indices)
    for name, dimension in removal.get("parameters", {}).items():
        pruner = tp.pruner.function.ParameterPruner(pruning_dim=dimension)
        _set(model, name, pruner.prune_out_channels(model.get_parameter(name), indices))


def _tied(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same, several names each."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _tie(model: nn.Module, names: Sequence[str]) -> None:
    """One parameter under all names again, unless they lost different channels."""
    first = model.get_parameter(names[0])
    if all(torch.equal(first, model.get_parameter(name)) for name in names[1:]):
        for name in names[1:]:
            _set(model, name, first)


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, parameter)
