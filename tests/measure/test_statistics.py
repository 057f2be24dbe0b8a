"""From samples to figures and verdicts: numerical truths on samples whose ratio is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.measure.statistics import FINEST, Figures, Verdict, bootstrap_interval, figures, verdict


def test_the_interval_is_the_same_for_the_same_values() -> None:
    values = np.random.default_rng(1).normal(1.3, 0.1, 40)
    assert bootstrap_interval(values) == bootstrap_interval(values.copy())
    assert bootstrap_interval(np.full(30, 1.25)) == (1.25, 1.25)


def test_the_interval_covers_the_median_and_shrinks_with_more_samples() -> None:
    rng = np.random.default_rng(2)
    few = [bootstrap_interval(rng.lognormal(0.3, 0.2, 40)) for _ in range(200)]
    covered = sum(low <= np.exp(0.3) <= high for low, high in few)
    assert 180 <= covered < 200  # 95 % of 200 is 190; an interval that is far too wide covers all
    many = [bootstrap_interval(rng.lognormal(0.3, 0.2, 640)) for _ in range(50)]
    widths = [float(np.mean([high - low for low, high in intervals])) for intervals in (few, many)]
    assert widths[1] < 0.4 * widths[0]  # a quarter, by the square root of 16


def test_figures_of_samples_that_can_be_computed_by_hand() -> None:
    found = figures([2.0, 4.0] * 50, [6.0, 10.0] * 50, [10.0, 6.0] * 50, batch_size=8)
    assert (found.latency_ms, found.baseline_latency_ms) == (3.0, 8.0)
    assert (found.speedup, found.speedup_low, found.speedup_high) == (3.0, 3.0, 3.0)
    assert (found.p90_ms, found.p99_ms, found.baseline_p90_ms, found.baseline_p99_ms) == (4.0, 4.0, 10.0, 10.0)
    assert found.throughput_per_s == 8 / 3e-3
    assert found.resolution == FINEST
    assert found.verdict == "faster"


@pytest.mark.parametrize("control", [1.25, 0.8])
def test_the_resolution_is_what_the_baseline_shows_to_itself(control: float) -> None:
    assert figures([1.0] * 80, [1.0] * 80, [control] * 80, 1).resolution == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("low", "high", "resolution", "expected"),
    [
        (0.99, 1.01, 0.01, Verdict.TIE),
        (0.99, 1.6, 0.01, Verdict.TIE),  # the interval holds 1
        (0.5, 1.0, 0.01, Verdict.TIE),  # and touches it
        (1.015, 1.025, 0.03, Verdict.TIE),  # within the resolution
        (1.02, 1.08, 0.03, Verdict.TIE),  # begins within it
        (0.965, 0.975, 0.031, Verdict.TIE),
        (1.04, 1.06, 0.03, Verdict.FASTER),
        (0.94, 0.96, 0.03, Verdict.SLOWER),
    ],
)
def test_verdicts(low: float, high: float, resolution: float, expected: Verdict) -> None:
    assert verdict(low, high, resolution) is expected


def test_a_verdict_reads_as_a_person_says_it() -> None:
    assert [str(each) for each in Verdict] == ["faster", "slower", "no measurable difference"]


def simulated(ratio: float, rng: np.random.Generator, rounds: int = 100) -> Figures:
    """Of a baseline that takes `ratio` times the model's time, on a machine whose speed wanders and has bursts."""
    wander = np.exp(np.cumsum(rng.normal(0, 0.03, rounds)))[:, None]

    def sampled(time: float) -> NDArray[np.float64]:
        bursts = 1 + (rng.random((rounds, 2)) < 0.1) * rng.exponential(2.0, (rounds, 2))
        return np.asarray((time * wander * bursts * rng.lognormal(0, 0.03, (rounds, 2))).ravel())

    return figures(sampled(1.0).tolist(), sampled(ratio).tolist(), sampled(ratio).tolist(), batch_size=1)


def test_verdicts_are_right_though_the_machine_wanders() -> None:
    rng = np.random.default_rng(3)
    same = [simulated(1.0, rng) for _ in range(40)]
    slower = [simulated(0.95, rng) for _ in range(40)]
    assert sum(found.verdict is Verdict.TIE for found in same) >= 39
    assert sum(found.verdict is Verdict.SLOWER for found in slower) >= 38
    assert float(np.mean([math.log(found.speedup) for found in slower])) == pytest.approx(math.log(0.95), abs=0.003)
    paired = np.std([found.speedup for found in same])
    alone = np.std([found.latency_ms for found in same])
    assert paired < alone / 10  # what pairing is for
