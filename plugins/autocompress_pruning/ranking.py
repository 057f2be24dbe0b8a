"""Which channels of which groups go, from their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

import torch
from torch import Tensor

from autocompress_pruning.trace import Group

MAX_SHARE = 0.9
"""No group loses more of its channels when it is ranked among others."""


class Scope(StrEnum):
    """Among which channels the least important ones are looked for."""

    UNIFORM = "uniform"
    """Each group's own: every layer loses the same share."""
    GLOBAL = "global"
    """All channels of the model, by score relative to the mean of their group."""
    ISOMORPHIC = "isomorphic"
    """Those of like groups, connected alike (Fang et al. 2024, "Isomorphic Pruning for Vision Models")."""
    SENSITIVITY = "sensitivity"
    """Each group's own, in shares that a solver finds so that weights go where the outputs move least."""
    SENSITIVITY_MACS = "sensitivity_macs"
    """The same for multiply-adds in place of weights."""

    @property
    def by_sensitivity(self) -> bool:
        """Whether the shares come from `group_shares`."""
        return self in (Scope.SENSITIVITY, Scope.SENSITIVITY_MACS)


def least_important(
    groups: Sequence[Group], scores: Mapping[str, Tensor], ratio: float, round_to: int, scope: Scope
) -> dict[str, list[int]]:
    """The channels to remove, by the root of their group; groups without scores (channels,) lose none.

    Not for scopes by sensitivity, which need data.
    """
    ranked = [group for group in groups if group.root in scores]
    return lowest(ranked, scores, _shares(ranked, _by_place(ranked, scores), ratio, scope), round_to)


def lowest(
    groups: Sequence[Group], scores: Mapping[str, Tensor], shares: Mapping[str, float], round_to: int
) -> dict[str, list[int]]:
    """The channels to remove where each group is to lose a share of its own; those without a share lose none.

    What is left of a group is the nearest multiple of `round_to`, unless it has no smaller one. Something always goes:
    where rounding would undo it all, the group that was to lose most loses one multiple.
    """
    ranked = [group for group in groups if group.root in shares and group.root in scores]
    places = _by_place(ranked, scores)
    gone = {group.root: removed_places(group, shares[group.root], round_to) for group in ranked}
    if ranked and not any(gone.values()):
        most = max(ranked, key=lambda group: shares[group.root])
        gone[most.root] = min(_multiple(most, round_to), most.size // most.blocks - 1)
    return {group.root: _lowest(group, places[group.root], gone[group.root]) for group in ranked if gone[group.root]}


def removed_places(group: Group, share: float, round_to: int) -> int:
    """How many places of each block go: what is left is the nearest multiple, never none."""
    size, multiple = group.size // group.blocks, _multiple(group, round_to)
    kept = math.floor(size * (1 - share) / multiple + 0.5) * multiple
    return size - min(max(kept, multiple), size)


def _by_place(groups: Sequence[Group], scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A block's channels go together with those at the same place of the other blocks."""
    return {group.root: scores[group.root].view(group.blocks, -1).mean(dim=0) for group in groups}


def _shares(groups: Sequence[Group], places: Mapping[str, Tensor], ratio: float, scope: Scope) -> dict[str, float]:
    """The share of each group's channels that is to go."""
    if scope == Scope.UNIFORM:
        return {group.root: ratio for group in groups}
    pools: dict[str, list[Group]] = {}
    for group in groups:
        pools.setdefault(group.kind if scope == Scope.ISOMORPHIC else "", []).append(group)
    shares: dict[str, float] = {}
    for pool in pools.values():
        shares |= _shares_of_pool(pool, places, ratio)
    return shares


def _shares_of_pool(pool: Sequence[Group], places: Mapping[str, Tensor], ratio: float) -> dict[str, float]:
    """Takes the places with the lowest scores, until the pool has lost its share of channels."""
    gone = {group.root: 0 for group in pool}
    left = ratio * sum(group.size for group in pool)
    entries = [(float(score), group) for group in pool for score in places[group.root]]
    for _, group in sorted(entries, key=lambda entry: entry[0]):
        lost = gone[group.root] + group.blocks
        if lost <= MAX_SHARE * group.size and group.blocks <= left + 0.5:
            gone[group.root] = lost
            left -= group.blocks
    return {group.root: gone[group.root] / group.size for group in pool}


def _multiple(group: Group, round_to: int) -> int:
    """Of what number the places left in a block are a multiple."""
    multiple = round_to // math.gcd(round_to, group.blocks)
    return multiple if multiple < group.size // group.blocks else 1


def _lowest(group: Group, places: Tensor, count: int) -> list[int]:
    size = group.size // group.blocks
    lowest: list[int] = sorted(torch.argsort(places, stable=True)[:count].tolist())
    return [block * size + index for block in range(group.blocks) for index in lowest]
