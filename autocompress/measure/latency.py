"""Latency of what ships, measured beside the baseline."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autocompress.measure.device import DeviceLock, Target, hardware_name
from autocompress.tensors import call, to_device

MIN_ROUNDS = 30
CHECK_EVERY = 10
INTERVAL_WIDTH = 0.01
"""Measuring stops when the interval of the ratio is narrower than this share of it."""
MIN_SAMPLE_MS = 0.5
"""A sample repeats the call until it lasts this long, far above the clock's resolution."""
RESAMPLES = 500


@dataclass(frozen=True)
class Latency:
    """Paired measurement of a model and the baseline on one target, batch and threads included."""

    latency_ms: float
    """Median time of one call."""
    baseline_latency_ms: float
    """The baseline's, in the same rounds."""
    speedup: float
    """Median over rounds of the baseline's time by the model's: above 1 is faster."""
    speedup_low: float
    speedup_high: float
    """95 % bootstrap interval of `speedup` (Efron 1979)."""
    rounds: int
    target: str
    hardware: str
    samples_ms: list[float]
    """One a round, a mean over the calls of a sample."""
    baseline_samples_ms: list[float]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def measure_latency(
    model: nn.Module, baseline: nn.Module, inputs: Any, target: Target, seconds: float = 3.0
) -> Latency:
    """Times both models on the same inputs, alternating in random order, with the device to itself.

    Warms up first; at least 30 rounds; ends when the interval of the ratio is narrower than 1 % or after `seconds`.
    CUDA events on a GPU, the monotonic clock on a CPU.
    """
    inputs = to_device(inputs, target.torch_device)
    runs = [lambda: call(model, inputs), lambda: call(baseline, inputs)]
    timer = _cuda_ms if target.is_cuda else _cpu_ms
    with DeviceLock(target).exclusive(), _threads(target.threads), torch.inference_mode():
        repeats = [_warm_up(run, timer, seconds / 8) for run in runs]
        samples = _alternate(runs, repeats, timer, seconds)
    own, other = np.array(samples[0]), np.array(samples[1])
    low, high = bootstrap_interval(other / own)
    return Latency(
        latency_ms=float(np.median(own)),
        baseline_latency_ms=float(np.median(other)),
        speedup=float(np.median(other / own)),
        speedup_low=low,
        speedup_high=high,
        rounds=len(own),
        target=str(target),
        hardware=hardware_name(target),
        samples_ms=samples[0],
        baseline_samples_ms=samples[1],
    )


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of the median; the same for the same values."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (RESAMPLES, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def _alternate(
    runs: list[Callable[[], Any]], repeats: list[int], timer: Callable[[Callable[[], Any], int], float], seconds: float
) -> tuple[list[float], list[float]]:
    samples: tuple[list[float], list[float]] = ([], [])
    order = random.Random(0)
    end = time.monotonic() + seconds
    while True:
        for which in order.sample((0, 1), 2):
            samples[which].append(timer(runs[which], repeats[which]))
        rounds = len(samples[0])
        if rounds >= MIN_ROUNDS and rounds % CHECK_EVERY == 0:
            if time.monotonic() > end or _narrow_enough(np.array(samples[1]) / np.array(samples[0])):
                return samples


def _narrow_enough(ratios: NDArray[np.float64]) -> bool:
    low, high = bootstrap_interval(ratios)
    return high - low < INTERVAL_WIDTH * float(np.median(ratios))


def _warm_up(run: Callable[[], Any], timer: Callable[[Callable[[], Any], int], float], seconds: float) -> int:
    """Calls until the time of a call has settled; returns how many calls make a sample."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < 3 or (time.monotonic() < end and not _settled(times)):
        times.append(timer(run, 1))
    return max(1, math.ceil(MIN_SAMPLE_MS / max(float(np.median(times[-3:])), 1e-6)))


def _settled(times: list[float]) -> bool:
    if len(times) < 10:
        return False
    before, now = np.median(times[-10:-5]), np.median(times[-5:])
    return bool(abs(now - before) < 0.05 * before)


def _cpu_ms(run: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(repeats):
        run()
    return (time.perf_counter_ns() - start) / repeats / 1e6


def _cuda_ms(run: Callable[[], Any], repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / repeats


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
