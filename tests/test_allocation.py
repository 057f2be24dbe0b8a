"""The solver against all combinations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress import allocation
from autocompress.allocation import Option, allocate, least_cost, unit

Table = Mapping[str, Sequence[Option]]

OPTIONS = st.lists(st.builds(Option, st.integers(0, 60), st.floats(0, 10)), min_size=1, max_size=4)
TABLES = st.lists(OPTIONS, min_size=1, max_size=5).map(lambda rows: {f"layer{i}": row for i, row in enumerate(rows)})


def cost(table: Table, chosen: Mapping[str, int]) -> int:
    return sum(table[name][index].cost for name, index in chosen.items())


def error(table: Table, chosen: Mapping[str, int]) -> float:
    return sum(table[name][index].error for name, index in chosen.items())


def least_error(table: Table, budget: float) -> float:
    """By trying everything."""
    affordable = (
        sum(option.error for option in combination)
        for combination in itertools.product(*table.values())
        if sum(option.cost for option in combination) <= budget
    )
    return min(affordable)


@given(TABLES, st.floats(0, 1))
def test_it_is_exact_where_costs_need_no_rounding(table: Table, share: float) -> None:
    budget = least_cost(table) + share * 300
    chosen = allocate(table, budget)
    assert chosen.keys() == table.keys()
    assert cost(table, chosen) <= budget
    assert error(table, chosen) == pytest.approx(least_error(table, budget))


@given(TABLES, st.floats(0, 1), st.integers(1, 12))
def test_with_rounded_costs_the_gap_is_a_unit_a_layer(table: Table, share: float, bins: int) -> None:
    budget = least_cost(table) + share * 300
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "BINS", bins)
        step, chosen = unit(table), allocate(table, budget)
    assert cost(table, chosen) <= budget
    less = max(budget - len(table) * step, least_cost(table))
    assert error(table, chosen) <= least_error(table, less) + 1e-9


@settings(max_examples=50)
@given(TABLES, st.lists(st.floats(0, 1), min_size=2, max_size=6), st.sampled_from((5, allocation.BINS)))
def test_more_budget_never_gives_more_error(table: Table, shares: list[float], bins: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "BINS", bins)
        found = [error(table, allocate(table, least_cost(table) + share * 300)) for share in sorted(shares)]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(found))


def test_of_equal_errors_the_cheaper_is_taken() -> None:
    assert allocate({"a": [Option(9, 1.0), Option(2, 1.0), Option(5, 1.0)]}, 20) == {"a": 1}


def test_what_must_not_be_is_not_chosen() -> None:
    table = {"a": [Option(1, float("inf")), Option(4, 2.0)], "b": [Option(1, 3.0), Option(4, 0.0)]}
    assert allocate(table, 5) == {"a": 1, "b": 0}


def test_a_budget_below_the_cheapest_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold the cheapest choices, 7, but got 6"):
        allocate({"a": [Option(3, 0.0)], "b": [Option(4, 0.0), Option(9, 0.0)]}, 6)


def test_large_costs_are_counted_in_units_that_fit() -> None:
    """A million weights a layer, fifty layers: what is not spent is less than a unit a layer."""
    table = {f"l{i}": [Option(k * (1_000_003 + i), 1.0 / (k + 1)) for k in range(8)] for i in range(50)}
    budget = 100_000_000
    chosen = allocate(table, budget)
    assert budget - 50 * unit(table) - 1_000_060 < cost(table, chosen) <= budget
