"""Which of the trials that reached a rung go on: multi-objective ASHA (Schmucker et al. 2021, arXiv:2106.12639)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """What a trial is compared by at a rung."""

    costs: tuple[float, ...]
    """The objectives, smaller being better."""
    violation: float = 0.0
    """How far it is beyond its limits, all together; zero or less when it holds them."""


def promoted(points: Sequence[Point], share: float) -> set[int]:
    """Indices of the points that go on: the best `share` of those seen so far."""
    return set(ranked(points)[: going_on(len(points), share)])


def going_on(count: int, share: float) -> int:
    """How many of so many go on: rounded up, so at least one."""
    return math.ceil(share * count - 1e-9)


def ranked(points: Sequence[Point]) -> list[int]:
    """Indices, the best first.

    Limits first: what holds them, then what breaks them least. Among those that do so equally, front after front
    (non-dominated sorting); within a front the one of least first cost, and then always the one that is farthest from
    those before it (an epsilon net), so that any first few of them are spread over the front.
    """
    violations = np.maximum([point.violation for point in points], 0.0)
    costs = np.array([point.costs for point in points], dtype=float)
    order: list[int] = []
    for violation in np.unique(violations):
        equal = np.flatnonzero(violations == violation)
        ranks = front_ranks(costs[equal])
        for rank in range(ranks.max() + 1):
            front = equal[ranks == rank]
            order += [int(front[index]) for index in epsilon_net(costs[front])]
    return order


def front_ranks(costs: Array) -> npt.NDArray[np.intp]:
    """Of points (n, objectives) the front that each is in, 0 being the one that nothing dominates."""
    better, worse = costs[:, None], costs[None]
    dominates = np.asarray((better <= worse).all(-1) & (better < worse).any(-1))
    ranks, left = np.zeros(len(costs), dtype=np.intp), np.arange(len(costs))
    while left.size:
        beaten = dominates[np.ix_(left, left)].any(0)
        left = left[beaten]
        ranks[left] += 1
    return ranks


def epsilon_net(costs: Array) -> list[int]:
    """Indices of points (n, objectives): least first cost first, then always the farthest from all before it.

    Distances are Euclidean, each objective as a share of its span.
    """
    span = np.ptp(costs, axis=0)
    places = (costs - costs.min(0)) / np.where(span > 0, span, 1)
    chosen = int(np.lexsort((costs.sum(1), costs[:, 0]))[0])
    order, distance = [chosen], np.full(len(costs), np.inf)
    while len(order) < len(costs):
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen], axis=1))
        distance[chosen] = -1
        chosen = int(distance.argmax())
        order.append(chosen)
    return order
