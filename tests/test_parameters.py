"""Ranges and options: what they take, and how a search space narrows them."""

from __future__ import annotations

from typing import Any

import pytest

from autocompress import Choice, Float, Integer, Parameter
from autocompress.parameters import narrow

RATIO = Float(0.1, 0.9, default=0.5)
RANK = Integer(1, 64, default=8, log=True)
KIND = Choice(("l1", "l2", 8), default="l1")


@pytest.mark.parametrize(
    ("parameter", "given", "taken"),
    [(RATIO, 0.1, 0.1), (Float(0, 2, 1), 2, 2.0), (RANK, 64, 64), (RANK, 3.0, 3), (KIND, "l2", "l2"), (KIND, 8, 8)],
)
def test_a_value_within_is_taken(parameter: Parameter, given: Any, taken: Any) -> None:
    value = parameter.check(given)
    assert (value, type(value)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("parameter", "given", "rule"),
    [
        (RATIO, 0.95, r"must lie in 0.1..0.9, but got 0.95"),
        (RATIO, float("nan"), r"must lie in 0.1..0.9, but got nan"),
        (RATIO, "0.5", r"must be a number, but got '0.5'"),
        (RATIO, True, r"must be a number, but got True"),
        (RANK, 0, r"must lie in 1..64, but got 0"),
        (RANK, 1.5, r"must be a whole number, but got 1.5"),
        (RANK, float("inf"), r"must be a whole number, but got inf"),
        (RANK, float("nan"), r"must be a whole number, but got nan"),
        (RANK, False, r"must be a whole number, but got False"),
        (KIND, "l3", r"must be one of \['l1', 'l2', 8\], but got 'l3'"),
        (KIND, 8.0, r"must be one of .* but got 8.0"),
    ],
)
def test_a_value_outside_is_refused_with_the_rule(parameter: Parameter, given: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parameter.check(given)


@pytest.mark.parametrize(
    "make", [lambda: Float(0.5, 0.1, 0.3), lambda: Integer(1, 4, 5), lambda: Float(0, 1, float("nan"))]
)
def test_a_default_lies_in_the_range(make: Any) -> None:
    with pytest.raises(ValueError, match=r"`low <= default <= high` must hold, but got \(low="):
        make()


def test_a_default_is_an_option() -> None:
    with pytest.raises(ValueError, match=r"must be one of \['l1'\], but got 'l2'"):
        Choice(("l1",), default="l2")


@pytest.mark.parametrize(
    ("parameter", "spec", "narrowed"),
    [
        (RATIO, 0.3, Choice((0.3,), 0.3)),
        (RATIO, [0.3, 0.5], Choice((0.3, 0.5), 0.5)),
        (RATIO, [0.3, 0.4], Choice((0.3, 0.4), 0.3)),
        (RATIO, {"low": 0.6}, Float(0.6, 0.9, default=0.6)),
        (RATIO, {"low": 0.2, "high": 0.4}, Float(0.2, 0.4, default=0.4)),
        (Float(0, 1, 0.5, step=0.25), {"high": 0.5}, Float(0, 0.5, 0.5, step=0.25)),
        (RANK, {"high": 16}, Integer(1, 16, default=8, log=True)),
        (KIND, ["l2"], Choice(("l2",), "l2")),
        (KIND, "l2", Choice(("l2",), "l2")),
    ],
)
def test_a_search_space_narrows(parameter: Parameter, spec: Any, narrowed: Parameter) -> None:
    assert narrow(parameter, spec) == narrowed


@pytest.mark.parametrize(
    ("parameter", "spec", "rule"),
    [
        (RATIO, 0.95, "must lie in 0.1..0.9, but got 0.95"),
        (RATIO, [0.5, 2], "must lie in 0.1..0.9, but got 2"),
        (RATIO, [], r"must keep at least one value, but got \[\]"),
        (RATIO, {"high": 1.0}, "must lie in 0.1..0.9, but got 1.0"),
        (RATIO, {"low": 0.8, "high": 0.2}, r"`low <= high` must hold, but got \(low=0.8, high=0.2\)"),
        (RATIO, {"hihg": 0.2}, "a range has 'low' and 'high', but got 'hihg'; did you mean 'high'?"),
        (KIND, {"low": 1}, r"has options \['l1', 'l2', 8\] and takes a value or a list, but got \{'low': 1\}"),
    ],
)
def test_a_search_space_never_widens(parameter: Parameter, spec: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        narrow(parameter, spec)
