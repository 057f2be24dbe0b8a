"""A pruning plan carried out: removals replayed on a model of the same structure, without tracing or running it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import torch
import torch_pruning as tp
from torch import nn

from autocompress_pruning.dependency import dependency_graph


class Removal(TypedDict, total=False):
    """Indices that go from several tensors at once."""

    removed: str
    """As ranges, both ends included: `0-3 7 9-12`; counted in the tensors as they are before any removal."""
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
    """`model` with all removals carried out, by Torch-Pruning's own functions for each type of layer.

    Frozen parameters stay frozen, and tied ones tied: Torch-Pruning replaces both by new, trainable parameters.
    """
    graph = dependency_graph()
    # Looked up before anything is cut: a grouped convolution that loses channels can come to look like a depthwise one.
    pruners = {name: graph.get_pruner_of_module(module) for name, module in model.named_modules()}
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    tied = _tied(model)
    with torch.no_grad():
        _remove(model, pruners, removals)
    for names in tied:
        _tie(model, names)
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    _tell_widths(model)
    return model


def _remove(model: nn.Module, pruners: dict[str, Any], removals: Sequence[Removal]) -> None:
    """Each tensor is cut once, by all that goes from it: so the indices of one removal do not move another's."""
    out: dict[str, set[int]] = {}
    into: dict[str, set[int]] = {}
    parameters: dict[tuple[str, int], set[int]] = {}
    for removal in removals:
        indices = decode(removal["removed"])
        for name in removal.get("out", []):
            out.setdefault(name, set()).update(indices)
        for name in removal.get("into", []):
            into.setdefault(name, set()).update(indices)
        for name, dimension in removal.get("parameters", {}).items():
            parameters.setdefault((name, dimension), set()).update(indices)
    for name, gone in out.items():
        pruners[name].prune_out_channels(model.get_submodule(name), sorted(gone))
    for name, gone in into.items():
        pruners[name].prune_in_channels(model.get_submodule(name), sorted(gone))
    for (name, dimension), gone in parameters.items():
        pruner = tp.pruner.function.ParameterPruner(pruning_dim=dimension)
        _set(model, name, pruner.prune_out_channels(model.get_parameter(name), sorted(gone)))


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


def untied(model: nn.Module) -> nn.Module:
    """`model` with a copy of each tied parameter under each of its names."""
    for names in _tied(model):
        for name in names[1:]:
            _set(model, name, copy.deepcopy(model.get_parameter(name)))
    return model


def _set(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, parameter)


def _tell_widths(model: nn.Module) -> None:
    """torchvision's vision transformer holds its width as a number of its own, by which it reshapes the patches."""
    for module in model.modules():
        patches = getattr(module, "conv_proj", None)
        if type(module).__name__ == "VisionTransformer" and isinstance(patches, nn.Conv2d):
            module.hidden_dim = patches.out_channels  # type: ignore[assignment]
