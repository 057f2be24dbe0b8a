"""Which channels go: the model is traced by Torch-Pruning, and each group of layers that share channels is ranked."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Container
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from autocompress import NotApplicable
from autocompress.errors import first_line
from autocompress.tensors import call, map_tensors
from autocompress_pruning.replay import Removal, encode

Importance = Callable[[Any], Tensor | None]
"""Scores of a Torch-Pruning group's channels (channels,), None where it has no opinion."""

_ROOTS = (nn.modules.conv._ConvNd, nn.Linear)


def choose(model: nn.Module, inputs: Any, importance: Importance, ratio: float, round_to: int) -> list[Removal]:
    """The removals that prune `model`, found on copies of it; empty when nothing can go.

    `inputs` is one small batch. What is chosen was tried: the pruned copy runs and its outputs keep their shapes.
    Raises NotApplicable if the model cannot be traced.
    """

    def prune(allowed: Container[str]) -> dict[str, list[Removal]] | None:
        """Removals by the layer they start from; None if the model does not work after them."""
        pruned = copy.deepcopy(model)
        graph = _trace(pruned, inputs)
        try:
            removals = _prune(pruned, graph, importance, ratio, round_to, allowed)
            return removals if _shapes(pruned, inputs) == shapes else None
        except Exception:  # the user's forward, or Torch-Pruning, at a width that they cannot have
            return None

    shapes = _shapes(copy.deepcopy(model).eval(), inputs)
    removals = prune(_Everything())
    if removals is None:
        # Some group cannot go: its width is written into the model's code, or its layers are not understood.
        removals = {}
        for name in (name for name, module in model.named_modules() if isinstance(module, _ROOTS)):
            removals = prune({*removals, name}) or removals
    return [removal for group in removals.values() for removal in group]


class _Everything:
    def __contains__(self, name: object) -> bool:
        return True


def _trace(model: nn.Module, inputs: Any) -> Any:
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # It says so where its search of the graph would take hours.
            warnings.filterwarnings("error", "Maximum recursive depth", UserWarning)
            model.requires_grad_(True)  # what is frozen would leave no trace
            return tp.DependencyGraph().build_dependency(model, inputs, forward_fn=call, verbose=False)
    except Exception as error:  # the user's forward, or Torch-Pruning
        raise NotApplicable(f"Torch-Pruning must be able to trace the model, but: {first_line(error)}") from error


def _shapes(model: nn.Module, inputs: Any) -> list[torch.Size]:
    """Shapes of all output tensors, in order."""
    shapes: list[torch.Size] = []

    def note(tensor: Tensor) -> Tensor:
        shapes.append(tensor.shape)
        return tensor

    with torch.no_grad():
        map_tensors(note, call(model, inputs))
    return shapes


def _prune(
    model: nn.Module, graph: Any, importance: Importance, ratio: float, round_to: int, allowed: Container[str]
) -> dict[str, list[Removal]]:
    """Prunes the traced model group by group, and tells how."""
    names = {module: name for name, module in model.named_modules()}
    chosen = []
    for group in graph.get_all_groups(ignored_layers=[], root_module_types=_ROOTS):
        root = group[0].dep
        if names[root.target.module] in allowed and not _gives_outputs(graph, group):
            chosen.append((root.target.module, root.handler, _least(group, importance, ratio, round_to)))
    found = {}
    for module, function, indices in chosen:
        if indices:
            # Asked for only now, because the groups pruned before may have moved its indices.
            group = graph.get_pruning_group(module, function, indices)
            if graph.check_pruning_group(group):  # no member is left empty
                found[names[module]] = _removals(model, graph, group)
                group.prune(record_history=False)
    return found


def _gives_outputs(graph: Any, group: Any) -> bool:
    """Whether the group's channels are the model's outputs': nothing comes after a member that loses them."""
    return any(graph.is_out_channel_pruning_fn(dep.handler) and not dep.target.outputs for dep, _ in group)


def _least(group: Any, importance: Importance, ratio: float, round_to: int) -> list[int]:
    """The indices of the least important channels; empty when all stay.

    Where a member works in blocks (grouped convolution, group norm, attention heads), each block loses the same ones.
    """
    scores = importance(group)
    blocks = math.lcm(*(_blocks(dep.target.module) for dep, _ in group))
    if scores is None or len(scores) % blocks:
        return []
    size = len(scores) // blocks
    remove = size - _kept(size, ratio, round_to // math.gcd(round_to, blocks))
    order = torch.argsort(scores.view(blocks, size).mean(dim=0), stable=True)  # (size,)
    least: list[int] = sorted(order[:remove].tolist())
    return [block * size + index for block in range(blocks) for index in least]


def _kept(size: int, ratio: float, multiple: int) -> int:
    """How many of `size` channels stay: the nearest multiple, never none; no multiple where it has no smaller one."""
    if size <= multiple:
        multiple = 1
    nearest = math.floor(size * (1 - ratio) / multiple + 0.5) * multiple
    return min(max(nearest, multiple), size)


def _blocks(module: Any) -> int:
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups != module.out_channels:
        return module.groups
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    # Torch-Pruning keeps the number of heads, so each head must lose as many channels as the others.
    return module.num_heads if isinstance(module, nn.MultiheadAttention) else 1


def _removals(model: nn.Module, graph: Any, group: Any) -> list[Removal]:
    """A group as JSON; members that lose the same indices share one entry."""
    modules = {id(module): name for name, module in model.named_modules()}
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, Removal] = {}
    for dep, indices in group:
        target = dep.target
        removal = found.setdefault(encode(indices), Removal())
        if id(target.module) in parameters:
            removal.setdefault("parameters", {})[parameters[id(target.module)]] = target.pruning_dim
        elif id(target.module) in modules:
            side = removal.setdefault("out", []) if graph.is_out_channel_pruning_fn(dep.handler) else None
            (removal.setdefault("into", []) if side is None else side).append(modules[id(target.module)])
    return [Removal(removed=removed, **removal) for removed, removal in found.items() if removal]
