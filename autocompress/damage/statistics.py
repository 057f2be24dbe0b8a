"""The tests and intervals behind the damage figures, all of paired answers: two models, the same questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
CHUNK = 1_000_000
"""Draws of the bootstrap that are in memory at once."""
MANY_UNITS = 64
"""More kinds of units than that are drawn one by one."""
TAIL = 0.025
"""Of a 95 % interval, and of the one-sided test that fits it."""


@dataclass(frozen=True)
class Difference:
    """A mean before and after compression, and the 95 % interval of their difference."""

    before: float
    after: float
    change: float
    """`after - before`."""
    low: float
    high: float
    """Paired percentile bootstrap over the samples, or over the sequences of a language model (Efron 1979)."""


@dataclass(frozen=True)
class Verdict:
    """Whether a share is shown not to have dropped by more than a margin that was fixed before."""

    margin: float
    """In 0-1: 0.01 is one point."""
    shown: bool
    p_value: float | None
    """Of Tango's score test, one-sided: shown takes 0.025 or less. None where answers hang together in sequences."""
    reason: str
    """Why it is not shown; empty when it is."""


def difference(before: Floats, after: Floats, sizes: Floats | None = None, seed: int = 0) -> Difference:
    """Of paired values (N,), or of sums (N,) over N sequences with their `sizes`, where the mean is by answer.

    The units that are drawn again are the N: answers within a sequence are not independent.
    """
    sizes = np.ones(len(before)) if sizes is None else sizes
    low, high = bootstrap_interval(after - before, sizes, seed)
    own, other = float(after.sum() / sizes.sum()), float(before.sum() / sizes.sum())
    return Difference(other, own, own - other, low, high)


def bootstrap_interval(sums: Floats, sizes: Floats, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of `sums.sum() / sizes.sum()` over N units; the same for the same seed."""
    rng = np.random.default_rng(seed)
    units, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    if len(units) <= MANY_UNITS:  # right and wrong answers: how often each kind is drawn, in place of every draw
        drawn = rng.multinomial(len(sums), counts / len(sums), size=RESAMPLES) @ units
    else:
        drawn = _draws(np.stack([sums, sizes], axis=1), rng)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [TAIL, 1 - TAIL])
    return float(low), float(high)


def _draws(units: Floats, rng: np.random.Generator) -> Floats:
    """Sums (RESAMPLES, 2) over as many units, drawn with replacement from units (N, 2)."""
    rows = max(1, CHUNK // len(units))
    sizes = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return np.concatenate([units[rng.integers(len(units), size=(size, len(units)))].sum(axis=1) for size in sizes])


def mcnemar_p(losses: int, gains: int) -> float:
    """Exact two-sided p-value of paired answers: `losses` went from right to wrong, `gains` back (McNemar 1947)."""
    changed, fewer = losses + gains, min(losses, gains)
    places = np.arange(fewer, dtype=np.float64)
    log_choices = np.concatenate([[0.0], np.cumsum(np.log(changed - places) - np.log(places + 1))])  # log C(n, 0..k)
    return min(1.0, 2 * float(np.exp(log_choices - changed * math.log(2)).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected so that the chance of any false alarm stays bounded (Holm 1979)."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(value) for value in corrected]


def tango_p(losses: int, gains: int, pairs: int, margin: float) -> float:
    """One-sided p-value against "the share of right answers dropped by `margin` or more" (Tango 1998).

    A score test, which unlike the bootstrap also holds where hardly an answer changed.
    """
    a = 2 * pairs
    b = -losses - gains - (2 * pairs - gains + losses) * margin
    c = losses * margin * (1 + margin)
    lost = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)  # the rate of losses, most likely on that border
    variance = pairs * (2 * lost - margin * (1 + margin))
    z = (gains - losses + pairs * margin) / math.sqrt(max(variance, 1e-12))
    return 0.5 * math.erfc(z / math.sqrt(2))


def fewest_units(margin: float) -> int:
    """Samples without any loss that it takes to show `margin`: below, 2.5 % of the worse models have none either.

    The rule of three (Hanley & Lippman-Hand 1983), for this tail.
    """
    return math.ceil(math.log(TAIL) / math.log(1 - margin))


def not_worse(change: Difference, margin: float, units: int, losses: int, gains: int, *, independent: bool) -> Verdict:
    """Non-inferiority of a share: the interval ends above `-margin`, and few changed answers are no excuse.

    `units` samples or sequences; the answers, of which some are `losses` and `gains`, are `independent` or not.
    """
    p_value = tango_p(losses, gains, units, margin) if independent else None
    points = f"{100 * margin:g} {'point' if margin == 0.01 else 'points'}"
    reason = ""
    if units < fewest_units(margin):
        kind = "samples" if independent else "sequences"
        reason = f"{units} {kind} are too few for {points}: it takes {fewest_units(margin)} even without a loss"
    elif change.low <= -margin:
        reason = f"the interval reaches {100 * change.low:+.1f} points"
    elif p_value is not None and p_value > TAIL:
        reason = f"too few answers for {points}: p = {p_value:.2g} where {TAIL} is needed"
    return Verdict(margin, not reason, p_value, reason)
