"""The solver: one choice for each layer, so that the errors are least and the costs within one budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 20_000
"""Steps that a budget is counted in. Costs that fit into them without rounding are solved exactly."""


class Option(NamedTuple):
    """What one choice for a layer would mean."""

    cost: int
    """What is left of the layer: bytes, bits, weights or multiply-adds; one unit for all layers."""
    error: float
    """What it does to the model; errors of layers add up. Infinite for what must not be."""


Table = Mapping[str, Sequence[Option]]
"""The options of each layer, by its name; at least one each."""


def allocate(table: Table, budget: float) -> dict[str, int]:
    """Which option each layer gets, as its index: least sum of errors with a sum of costs of at most `budget`.

    The multiple-choice knapsack problem, by dynamic programming over the budget (Kellerer, Pferschy and Pisinger 2004,
    "Knapsack Problems", chapter 11). Costs are rounded up to `unit(table)`: exact where that is their greatest common
    divisor, and else never worse than the exact solution for a budget smaller by one unit a layer. So the budget is
    never exceeded, and a larger one never gives a larger error. Of equal errors the cheaper is taken.
    Raises ValueError for a budget below `least_cost(table)`.
    """
    spare = budget - least_cost(table)
    if spare < 0:
        raise ValueError(f"a budget must hold the cheapest choices, {least_cost(table)}, but got {budget}")
    step = unit(table)
    orders = [sorted(range(len(options)), key=lambda index: options[index].cost) for options in table.values()]
    extras = [_extras(options, step) for options in table.values()]
    capacity = min(int(spare // step), sum(max(extra) for extra in extras))
    taken: list[NDArray[np.uint16]] = []
    best = np.zeros(capacity + 1)
    for options, order, extra in zip(table.values(), orders, extras, strict=True):
        sums = np.full((len(order), capacity + 1), np.inf)
        for row, index in enumerate(order):
            if extra[index] <= capacity:
                sums[row, extra[index] :] = best[: capacity + 1 - extra[index]] + options[index].error
        taken.append(sums.argmin(axis=0).astype(np.uint16))
        best = sums.min(axis=0)
    chosen: dict[str, int] = {}
    left = capacity
    for name, order, extra, rows in reversed(list(zip(table, orders, extras, taken, strict=True))):
        chosen[name] = order[rows[left]]
        left -= extra[chosen[name]]
    return {name: chosen[name] for name in table}


def least_cost(table: Table) -> int:
    """The smallest budget that there is a solution for."""
    return sum(min(option.cost for option in options) for options in table.values())


def unit(table: Table) -> int:
    """What costs are rounded up to: their greatest common divisor, or a multiple that `BINS` of it hold all costs."""
    above = [[option.cost - min(option.cost for option in options) for option in options] for options in table.values()]
    divisor = math.gcd(*(cost for costs in above for cost in costs)) or 1
    return divisor * max(1, math.ceil(sum(max(costs) for costs in above) / divisor / BINS))


def _extras(options: Sequence[Option], step: int) -> list[int]:
    """What each option costs more than the cheapest, in steps, rounded up."""
    least = min(option.cost for option in options)
    return [-((least - option.cost) // step) for option in options]
