"""How many channels each group loses, so that the outputs move least for the weights or multiply-adds that go."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.allocation import Option, allocate, least_cost
from autocompress.sensitivity import Profile
from autocompress.tensors import call, first_tensor
from autocompress_pruning.dependency import slices
from autocompress_pruning.ranking import MAX_SHARE, removed_places
from autocompress_pruning.trace import Group

LEVELS = (0.2, 0.4, 0.6, 0.8, MAX_SHARE)
"""Shares of a group's channels that are removed to see what it does; in between it is taken to go straight."""
_SHARES = tuple(step / 20 for step in range(19))
"""That the solver chooses from."""


def solved_shares(
    groups: Sequence[Group], made: Profile, costs: Mapping[str, int], ratio: float, round_to: int
) -> dict[str, float]:
    """The share of its channels that each group is to lose, by its root; `costs` are what goes with all its channels.

    As much is to be left as if all lost `ratio`. A multiple-choice knapsack over the measured errors gives the shares,
    as in Shen et al. 2022, "Structural Pruning via Latency-Saliency Knapsack". A weight is counted in both groups that
    cut it, so what is left in the end is near what `ratio` everywhere leaves, and not the same.
    """
    counts = {group.root: _counts(group, round_to) for group in groups}
    table = {
        group.root: [Option(_left(group, n, costs), _error(made, group, n)) for n in counts[group.root]]
        for group in groups
    }
    evenly = sum(_left(group, removed_places(group, ratio, round_to), costs) for group in groups)
    chosen = allocate(table, max(evenly, least_cost(table)))
    return {group.root: counts[group.root][chosen[group.root]] / _places(group) for group in groups}


def group_weights(model: nn.Module, groups: Sequence[Group]) -> dict[str, int]:
    """How many weights go with all channels of each group, by its root."""
    return {group.root: sum(count for _, count in _parts(model, group)) for group in groups}


def group_macs(model: nn.Module, groups: Sequence[Group], inputs: Any) -> dict[str, int]:
    """How many multiply-adds, on `inputs`, go with all channels of each group, by its root."""
    used = _uses(model, inputs)
    return {group.root: sum(count * used.get(name, 1) for name, count in _parts(model, group)) for group in groups}


def _parts(model: nn.Module, group: Group) -> Iterator[tuple[str, int]]:
    """The members' names and how many of their weights are the group's."""
    for member in group.members:
        if member.dimension is not None:
            yield member.name, _share_of(model.get_parameter(member.name), member.dimension, member.indices)
        else:
            for part in slices(model.get_submodule(member.name), member.into, member.indices):
                yield member.name, _share_of(part.parameter, part.dimension, part.indices)


def _share_of(parameter: Tensor, dimension: int, indices: Sequence[int]) -> int:
    return parameter.numel() // parameter.shape[dimension] * len(set(indices))


def _uses(model: nn.Module, inputs: Any) -> dict[str, int]:
    """How often each layer uses each of its weights: once for each sample, and place or step of its output."""
    used: dict[str, int] = {}
    probe = copy.deepcopy(model).eval()

    def count(name: str, module: nn.Module, output: Any) -> None:
        tensor = first_tensor(output)
        channels = tensor.shape[1 if isinstance(module, nn.modules.conv._ConvNd) else -1]
        used[name] = used.get(name, 0) + tensor.numel() // max(1, channels)

    for name, module in probe.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.MultiheadAttention | nn.RNNBase):
            module.register_forward_hook(lambda module, args, output, name=name: count(name, module, output))
    with torch.no_grad():
        call(probe, inputs)
    return used


def _places(group: Group) -> int:
    return group.size // group.blocks


def _counts(group: Group, round_to: int) -> list[int]:
    """How many places may go."""
    return sorted({0, *(removed_places(group, share, round_to) for share in _SHARES)})


def _left(group: Group, count: int, costs: Mapping[str, int]) -> int:
    return round(costs[group.root] * (1 - count / _places(group)))


def _error(made: Profile, group: Group, count: int) -> float:
    """What losing so many places does: never less than losing fewer."""
    errors = np.maximum.accumulate([0.0, *made.errors[group.root]])
    return float(np.interp(count / _places(group), [0.0, *made.levels], errors))
