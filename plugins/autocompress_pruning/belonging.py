"""Whether the channels of a group do belong together: found by what the model computes, not by its graph.

Torch-Pruning's graph takes the channels' order for granted where the model's own code changes it: a layout that is
permuted and then flattened, a channel shuffle, halves that swap places. The shapes fit then, and the values are others.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.effect import output_error, outputs
from autocompress_pruning.dependency import Slice, slices
from autocompress_pruning.replay import replay, untied
from autocompress_pruning.trace import Group, Member, removals
from autocompress_pruning.trial import largest_that_works

SAME = 1e-4
"""Outputs that differ by less, as a share of their RMS, differ by the order of float32 sums alone."""


def belong(model: nn.Module, inputs: Any, groups: Sequence[Group], chosen: Mapping[str, list[int]]) -> list[str]:
    """The roots of those groups whose chosen channels are the same ones in all members.

    For most groups it shows in that any order of their channels gives the same outputs, before and after the removal:
    that holds for norms over the channels and for attention, too. Where members have parts of the channels only, there
    is no other order to try; then the removal must give what leaving out the channels gives.
    """
    probe = untied(copy.deepcopy(model))  # a tied weight may lose rows for one layer and columns for another
    by_root = {group.root: group for group in groups}

    def without(roots: Sequence[str], source: nn.Module) -> list[Tensor]:
        gone = removals(groups, {root: chosen[root] for root in roots})
        return _seeded_outputs(replay(copy.deepcopy(source), gone), inputs)

    def in_any_order(roots: Sequence[str]) -> bool:
        other = copy.deepcopy(probe)
        for root in roots:
            reorder(other, by_root[root], chosen[root])
        return _same(_seeded_outputs(other, inputs), before) and _same(without(roots, other), without(roots, probe))

    def as_left_out(roots: Sequence[str]) -> bool:
        with ExitStack() as stack:
            for root in roots:
                stack.enter_context(left_out(probe, by_root[root], chosen[root]))
            expected = _seeded_outputs(probe, inputs)
        return _same(without(roots, probe), expected)

    before = _seeded_outputs(probe, inputs)
    found = largest_that_works(list(chosen), in_any_order)
    return found + largest_that_works([root for root in chosen if root not in found], as_left_out)


def _same(actual: list[Tensor], expected: list[Tensor]) -> bool:
    return output_error(actual, expected) < SAME


def _seeded_outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """A model may draw noise (a variational autoencoder): the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return outputs(model, inputs)


@contextmanager
def left_out(model: nn.Module, group: Group, channels: Sequence[int]) -> Iterator[None]:
    """The model without these channels of the group, in place: all weights that would go are zero meanwhile.

    The same as removing them, but for normalization over the channels, which counts them still.
    """
    parts = [part for part in _parts(model, group, set(channels)) if part.indices]
    rows = [torch.tensor(part.indices) for part in parts]
    kept = []
    with torch.no_grad():
        for part, row in zip(parts, rows, strict=True):
            kept.append(part.parameter.index_select(part.dimension, row))
            part.parameter.index_fill_(part.dimension, row, 0)
    try:
        yield
    finally:
        with torch.no_grad():
            for part, row, values in reversed(list(zip(parts, rows, kept, strict=True))):
                part.parameter.index_copy_(part.dimension, row, values)


def _parts(model: nn.Module, group: Group, channels: set[int]) -> Iterator[Slice]:
    for member in group.members:
        pairs = zip(member.indices, member.roots, strict=True)
        yield from _slices(model, member, [index for index, root in pairs if root in channels])


@torch.no_grad()
def reorder(model: nn.Module, group: Group, channels: Sequence[int]) -> None:
    """Gives the group's channels another order in all its members, in place; these stay where they are as a set.

    Raises KeyError or ValueError where a member does not have all of the channels, and so they cannot change places.
    """
    order = _other_order(group, channels)
    moved: dict[tuple[int, int], tuple[Tensor, dict[int, int]]] = {}
    for member in group.members:
        places: dict[int, list[int]] = {}
        for index, root in zip(member.indices, member.roots, strict=True):
            places.setdefault(root, []).append(index)
        pairs = [pair for root in places for pair in zip(places[root], places[order[root]], strict=True)]
        targets, sources = ([index for index, _ in pairs], [index for _, index in pairs])
        for part, source in zip(_slices(model, member, targets), _slices(model, member, sources), strict=True):
            _, places_of = moved.setdefault((id(part.parameter), part.dimension), (part.parameter, {}))
            places_of.update(zip(part.indices, source.indices, strict=True))
        for statistic in _statistics(model, member):
            moved[id(statistic), 0] = statistic, dict(pairs)
    for (_, dimension), (tensor, sources_of) in moved.items():
        rows, others = torch.tensor(list(sources_of)), torch.tensor(list(sources_of.values()))
        tensor.index_copy_(dimension, rows, tensor.index_select(dimension, others))


def _other_order(group: Group, channels: Sequence[int]) -> list[int]:
    """Which channel takes each one's place: those that go and those that stay each in a circle, alike in all blocks."""
    size = group.size // group.blocks
    gone = {channel % size for channel in channels}
    order, generator = list(range(size)), random.Random(0)
    for part in (sorted(gone), [place for place in range(size) if place not in gone]):
        circle = generator.sample(part, len(part))
        for place, other in zip(circle, circle[1:] + circle[:1], strict=True):
            order[place] = other
    return [block * size + place for block in range(group.blocks) for place in order]


def _slices(model: nn.Module, member: Member, indices: list[int]) -> Iterator[Slice]:
    if member.dimension is not None:
        yield Slice(model.get_parameter(member.name), member.dimension, indices)
    else:
        yield from slices(model.get_submodule(member.name), member.into, indices)


def _statistics(model: nn.Module, member: Member) -> list[Tensor]:
    """What a norm has counted of each channel."""
    if member.dimension is not None:
        return []
    buffers = dict(model.get_submodule(member.name).named_buffers(recurse=False))
    return [buffers[name] for name in ("running_mean", "running_var") if name in buffers]
