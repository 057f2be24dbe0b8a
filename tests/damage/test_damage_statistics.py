"""Tests and intervals against statsmodels, scipy and computations by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from autocompress.damage.statistics import (
    TAIL,
    Floats,
    bootstrap_interval,
    difference,
    fewest_units,
    holm,
    mcnemar_p,
    not_worse,
    tango_p,
)

counts = st.integers(0, 400)


@settings(max_examples=60, deadline=None)
@given(losses=counts, gains=counts)
def test_mcnemar_is_that_of_statsmodels(losses: int, gains: int) -> None:
    table = [[7, losses], [gains, 3]]  # answers that did not change do not matter
    assert mcnemar_p(losses, gains) == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9, abs=1e-300)


def test_mcnemar_of_many_answers() -> None:
    assert mcnemar_p(500_500, 499_500) == pytest.approx(2 * stats.binom.cdf(499_500, 1_000_000, 0.5), rel=1e-6)
    assert mcnemar_p(0, 5000) == 0  # too small for a float, and no error


@pytest.mark.parametrize("tests", [1, 7, 200])
def test_holm_is_that_of_statsmodels(tests: int) -> None:
    p_values = [float(p) for p in np.random.default_rng(tests).random(tests).round(2) ** 3]  # with ties
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-15)


def score_test(losses: int, gains: int, pairs: int, margin: float) -> float:
    """Tango's test with the rate of losses found by maximizing the likelihood on the border `lost - won = margin`."""

    def unlikelihood(lost: float) -> float:
        terms = ((losses, lost), (gains, lost - margin), (pairs - losses - gains, 1 - 2 * lost + margin))
        return -float(sum(count * math.log(rate) for count, rate in terms if count))

    bounds = margin + 1e-12, (1 + margin) / 2 - 1e-12
    lost = optimize.minimize_scalar(unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    z = ((gains - losses) / pairs + margin) / math.sqrt((2 * lost - margin - margin**2) / pairs)
    return float(stats.norm.sf(z))


@settings(max_examples=60, deadline=None)
@given(
    losses=st.integers(0, 60),
    gains=st.integers(0, 60),
    same=st.integers(1, 2000),
    margin=st.sampled_from([0.005, 0.01, 0.05]),
)
def test_tango_maximizes_the_likelihood(losses: int, gains: int, same: int, margin: float) -> None:
    pairs = losses + gains + same
    assert tango_p(losses, gains, pairs, margin) == pytest.approx(score_test(losses, gains, pairs, margin), abs=2e-4)


def test_tango_gives_the_published_interval() -> None:
    """Airway hyper-responsiveness before and after a transplantation: -0.517 to -0.026 (Fagerland et al. 2014)."""
    assert tango_p(7, 1, 21, 0.517) == pytest.approx(TAIL, abs=1e-3)
    assert tango_p(1, 7, 21, -0.026) == pytest.approx(TAIL, abs=1e-3)


def test_a_bootstrap_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(100):
        low, high = bootstrap_interval(rng.normal(0.3, 1, size=80), np.ones(80), seed)
        held += low <= 0.3 <= high
    assert 0.90 <= held / 100 <= 0.99


@pytest.mark.parametrize("digits", [9, 0])
def test_a_bootstrap_interval_is_that_of_scipy(digits: int) -> None:
    """Of all different values, and of few that repeat."""
    values = np.random.default_rng(1).exponential(size=300).round(digits)
    own = bootstrap_interval(values, np.ones(300))
    low, high = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=0).confidence_interval
    assert own == pytest.approx((low, high), abs=0.1 * (high - low))
    assert own == bootstrap_interval(values, np.ones(300)) != bootstrap_interval(values, np.ones(300), seed=1)


def test_the_answers_of_a_sequence_are_drawn_together() -> None:
    """Where all answers of a sequence are alike, sequences count and not answers."""
    alike = (np.arange(100) % 2).astype(np.float64)
    low, high = bootstrap_interval(alike * 50, np.full(100, 50.0))
    assert (low, high) == pytest.approx(bootstrap_interval(alike, np.ones(100)))
    every_answer: Floats = np.repeat(alike, 50)
    narrow = bootstrap_interval(every_answer, np.ones(5000))
    assert high - low > 5 * (narrow[1] - narrow[0])


def test_a_mean_over_sequences_of_different_lengths_is_by_answer() -> None:
    change = difference(np.array([1.0, 8.0]), np.array([1.0, 4.0]), sizes=np.array([2.0, 8.0]))
    assert (change.before, change.after, change.change) == (0.9, 0.5, -0.4)
    assert (change.low, change.high) == (-0.5, 0.0)  # only the second sequence, only the first


def paired(losses: int, gains: int, pairs: int) -> tuple[Floats, Floats]:
    before, after = np.ones(pairs), np.ones(pairs)
    after[:losses] = 0
    before[losses : losses + gains] = 0
    return before, after


@pytest.mark.parametrize(
    ("losses", "gains", "pairs", "shown", "reason"),
    [
        (0, 0, 10_000, True, ""),
        (20, 10, 10_000, True, ""),
        (300, 100, 10_000, False, "the interval reaches -2.4 points"),
        (0, 0, 100, False, "100 samples are too few for 1 point: it takes 368 even without a loss"),
        (1, 0, 400, False, "too few answers for 1 point: p = 0.066 where 0.025 is needed"),
    ],
)
def test_the_verdict(losses: int, gains: int, pairs: int, shown: bool, reason: str) -> None:
    change = difference(*paired(losses, gains, pairs))
    verdict = not_worse(change, 0.01, pairs, losses, gains, independent=True)
    assert (verdict.shown, verdict.reason, verdict.margin) == (shown, reason, 0.01)


def test_a_model_that_is_just_too_bad_passes_one_time_in_forty() -> None:
    rng, passed = np.random.default_rng(2), 0
    for _ in range(400):
        losses, gains, _ = rng.multinomial(300, [0.08, 0.03, 0.89])
        change = difference(*paired(int(losses), int(gains), 300))
        passed += not_worse(change, 0.05, 300, int(losses), int(gains), independent=True).shown
    assert passed / 400 <= 0.05


@pytest.mark.parametrize("margin", [0.001, 0.01, 0.1])
def test_the_fewest_samples(margin: float) -> None:
    """So many samples of a model that loses `margin` hold no loss one time in forty."""
    assert (
        stats.binom.pmf(0, fewest_units(margin), margin) <= TAIL < stats.binom.pmf(0, fewest_units(margin) - 1, margin)
    )
