"""From raw samples to figures: whoever has a measurement's record can compute its figures again with `figures`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 500
FINEST = 0.01
"""No resolution is finer: a measurement ends when its interval is as wide as this."""


class Verdict(StrEnum):
    """What a comparison comes to, in the words of tables and records."""

    FASTER = "faster"
    SLOWER = "slower"
    TIE = "no measurable difference"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A model beside the baseline, as computed from the samples of the same rounds."""

    latency_ms: float
    """Median time of one call."""
    latency_low_ms: float
    latency_high_ms: float
    """95 % bootstrap interval of the median (Efron 1979)."""
    p90_ms: float
    p99_ms: float
    """Percentiles of the samples, each of which is a mean over `calls_per_sample` calls."""
    throughput_per_s: float
    """Samples of the batch a second, one batch after another, at the median latency."""
    baseline_latency_ms: float
    baseline_latency_low_ms: float
    baseline_latency_high_ms: float
    baseline_p90_ms: float
    baseline_p99_ms: float
    speedup: float
    """Median over rounds of the baseline's shortest time by the model's shortest: above 1 is faster."""
    speedup_low: float
    speedup_high: float
    """95 % bootstrap interval of `speedup`."""
    resolution: float
    """The largest relative difference that the baseline showed to a copy of itself in the same rounds (A/A)."""
    verdict: Verdict


def figures(
    samples_ms: Sequence[float],
    baseline_samples_ms: Sequence[float],
    control_samples_ms: Sequence[float],
    batch_size: int,
) -> Figures:
    """The figures of samples in the order of their taking, two of each kind a round: (2 * rounds,) milliseconds each.

    A round's ratio is that of the shorter of the two, since what comes between on a shared machine only adds time. The
    control is a copy of the baseline, timed as any other model; its ratio to the baseline is the A/A run.
    """
    own, other, control = (
        np.asarray(values, dtype=np.float64) for values in (samples_ms, baseline_samples_ms, control_samples_ms)
    )
    ratios = round_ratios(own, other)
    low, high = bootstrap_interval(ratios)
    speedup, resolution = float(np.median(ratios)), _resolution(round_ratios(control, other))
    own_low, own_high = bootstrap_interval(own)
    other_low, other_high = bootstrap_interval(other)
    return Figures(
        latency_ms=float(np.median(own)),
        latency_low_ms=own_low,
        latency_high_ms=own_high,
        p90_ms=float(np.quantile(own, 0.9)),
        p99_ms=float(np.quantile(own, 0.99)),
        throughput_per_s=1e3 * batch_size / float(np.median(own)),
        baseline_latency_ms=float(np.median(other)),
        baseline_latency_low_ms=other_low,
        baseline_latency_high_ms=other_high,
        baseline_p90_ms=float(np.quantile(other, 0.9)),
        baseline_p99_ms=float(np.quantile(other, 0.99)),
        speedup=speedup,
        speedup_low=low,
        speedup_high=high,
        resolution=resolution,
        verdict=verdict(low, high, resolution),
    )


def verdict(low: float, high: float, resolution: float) -> Verdict:
    """Faster or slower when the whole interval is farther from 1 than the A/A run came, else a tie."""
    if low > 1 + resolution:
        return Verdict.FASTER
    return Verdict.SLOWER if high < 1 / (1 + resolution) else Verdict.TIE


def round_ratios(own: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The baseline's time by the model's in each round, (rounds,), from two samples of each a round."""
    return np.asarray(other.reshape(-1, 2).min(1) / own.reshape(-1, 2).min(1))


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of the median (Efron 1979); the same for the same values."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (RESAMPLES, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def _resolution(ratios: NDArray[np.float64]) -> float:
    """How far from 1 the interval of the baseline's ratio to its copy reaches, either way."""
    low, high = bootstrap_interval(ratios)
    return max(FINEST, high - 1, 1 / low - 1)
