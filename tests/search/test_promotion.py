"""Who goes on at a rung."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.promotion import Point, epsilon_net, front_ranks, promoted, ranked

COST = st.integers(-3, 3).map(float)
POINTS = st.lists(st.builds(Point, st.tuples(COST, COST, COST), st.sampled_from([-1.0, 0.0, 0.5, 2.0])), min_size=1)


def dominates(one: Point, other: Point) -> bool:
    return one.costs != other.costs and all(a <= b for a, b in zip(one.costs, other.costs, strict=True))


@given(POINTS)
def test_every_point_is_ranked_once(points: list[Point]) -> None:
    assert sorted(ranked(points)) == list(range(len(points)))


@given(POINTS, st.sampled_from([1 / 9, 1 / 3, 2 / 3, 1.0]))
def test_the_best_share_goes_on_and_at_least_one(points: list[Point], share: float) -> None:
    found = promoted(points, share)
    assert len(found) == max(1, math.ceil(round(share * len(points), 6)))
    assert found == set(ranked(points)[: len(found)])


@given(st.builds(Point, st.tuples(COST, COST), COST))
def test_the_only_point_goes_on(point: Point) -> None:
    assert promoted([point], 1 / 3) == {0}


@given(POINTS)
def test_what_dominates_and_breaks_the_limits_no_more_comes_first(points: list[Point]) -> None:
    place = {index: position for position, index in enumerate(ranked(points))}
    for one, first in enumerate(points):
        for other, second in enumerate(points):
            if dominates(first, second) and max(first.violation, 0) <= max(second.violation, 0):
                assert place[one] < place[other]


@given(POINTS)
def test_limits_come_first(points: list[Point]) -> None:
    violations = [max(points[index].violation, 0.0) for index in ranked(points)]
    assert violations == sorted(violations)


def test_fronts_by_hand() -> None:
    costs = np.array([[0, 1], [1, 0], [0.5, 0.5], [1, 1], [2, 2], [0.5, 0.5], [0.6, 0.5]])
    assert front_ranks(costs).tolist() == [0, 0, 0, 2, 3, 0, 1]


@given(st.permutations(range(9)))
def test_the_ends_of_a_front_come_first_and_then_its_middle(order: list[int]) -> None:
    front = [Point((float(x), 8.0 - x)) for x in order]
    assert [order[index] for index in ranked(front)[:3]] == [0, 8, 4]


def test_equal_points_do_not_keep_others_out() -> None:
    points = [Point((0.0, 1.0))] * 5 + [Point((1.0, 0.0))]
    assert promoted(points, 1 / 3) == {0, 5}


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_an_objective_weighs_the_same_in_any_unit(scale: float) -> None:
    costs = np.array([[0.0, 4.0], [1.0, 3.9], [2.0, 1.0], [4.0, 0.0]]) * [1.0, scale]
    assert epsilon_net(costs) == [0, 3, 2, 1]
