"""The protocol of a paired measurement: warm up, alternate, repeat what was disturbed, stop when it is certain enough.

Rounds of four samples, ABBA or BAAB by the throw of a coin, so that a drift within a round cancels and no model has the
better place. Where the models change places an untimed call comes first, so that none finds the caches full of the
other's weights: in service a model follows itself. A sample during which the system took this process off its core is
taken again at once: what a model's latency is, is then not drowned in how long others ran. Nothing is thrown away: what
was repeated is kept apart.
"""

from __future__ import annotations

import math
import random
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autocompress.measure.load import OtherLoad
from autocompress.measure.nvml import Gpu, GpuState, disturbance
from autocompress.measure.statistics import bootstrap_interval, round_ratios
from autocompress.measure.timers import Timer

MIN_ROUNDS = 30
INTERVAL_WIDTH = 0.01
"""Measuring stops when the interval of the ratio is narrower than this share of it."""
MIN_SAMPLE_MS = 0.2
"""A sample repeats the call until it lasts this long, far above the clock's resolution and what timing costs, and far
below the time slices of a scheduler, so that most samples fit between them."""
BLOCK_ROUNDS, BLOCK_S = 10, 0.1
"""A block lasts at least this many rounds and, while there is time, this long; between them the device is looked at."""
MAX_REPEATS = 5
"""Of a disturbed sample, and of disturbed blocks in all; after that what comes is taken."""
WINDOW, SETTLED = 10, 0.02
"""Warm-up ends when the medians of the last two windows of calls differ by less than this share."""


@dataclass(frozen=True)
class Block:
    """Some rounds without a break, and the GPU before and after."""

    rounds: int
    disturbed: str = ""
    """What disturbed it, so that it was repeated; empty if nothing did or the time was up."""
    gpu_before: GpuState | None = None
    gpu_after: GpuState | None = None


@dataclass
class Rounds:
    """All samples, in the order of their taking: two of each model a round, in milliseconds of one call."""

    calls_per_sample: int = 1
    baseline_calls_per_sample: int = 1
    warm_up_calls: int = 0
    samples_ms: list[float] = field(default_factory=list)
    baseline_samples_ms: list[float] = field(default_factory=list)
    rejected_samples_ms: list[float] = field(default_factory=list)
    """Those taken again: this process was taken off its core, or the GPU was disturbed. In no figure."""
    rejected_baseline_samples_ms: list[float] = field(default_factory=list)
    interrupted_samples: int = 0
    """Samples of the figures during which this process was taken off its core, since repeating did not help."""
    blocks: list[Block] = field(default_factory=list)
    other_load: float | None = None
    """The share of all cores' time that other processes took meanwhile, in 0-1; None where it is not known."""

    @property
    def count(self) -> int:
        return len(self.samples_ms) // 2


def alternate(model: Timer, baseline: Timer, seconds: float, *, threads: int = 1, gpu: Gpu | None = None) -> Rounds:
    """Rounds of both, until the interval of the ratio is narrower than 1 % or the time is up; at least 30."""
    return _Alternation((model, baseline), seconds, threads, gpu).run()


class _Alternation:
    """One measurement while it runs; 0 is the model and 1 the baseline."""

    def __init__(self, timers: tuple[Timer, Timer], seconds: float, threads: int, gpu: Gpu | None) -> None:
        self._timers, self._seconds, self._gpu = timers, seconds, gpu
        # what runs on one thread is interrupted when that thread is; otherwise any of the process's may be in its way
        one = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
        self._who = one if threads == 1 else resource.RUSAGE_SELF
        self._coin = random.Random(0)
        self._last: int | None = None
        self._rounds = Rounds()
        self._kept = (self._rounds.samples_ms, self._rounds.baseline_samples_ms)
        self._rejected = (self._rounds.rejected_samples_ms, self._rounds.rejected_baseline_samples_ms)

    def run(self) -> Rounds:
        load, rounds = OtherLoad(), self._rounds
        warm = [warm_up(timer, self._seconds / 8) for timer in self._timers]
        self._calls = tuple(calls for calls, _ in warm)
        rounds.calls_per_sample, rounds.baseline_calls_per_sample = self._calls
        rounds.warm_up_calls = sum(times for _, times in warm)
        self._end = time.monotonic() + self._seconds
        state = self._gpu.state() if self._gpu else None
        while True:
            state = self._block(state)
            up = time.monotonic() > self._end
            if rounds.count >= MIN_ROUNDS and (up or _narrow_enough(rounds)):
                rounds.other_load = load.share()
                return rounds

    def _block(self, before: GpuState | None) -> GpuState | None:
        """Some rounds; gives the GPU's state after them."""
        first, until, count = self._rounds.count, min(time.monotonic() + BLOCK_S, self._end), 0
        while count < BLOCK_ROUNDS or time.monotonic() < until:
            for which in self._coin.choice(((0, 1, 1, 0), (1, 0, 0, 1))):
                self._sample(which)
            count += 1
        after = self._gpu.state() if self._gpu else None
        disturbed = disturbance(before, after) if before and after else ""
        if disturbed and sum(1 for block in self._rounds.blocks if block.disturbed) < MAX_REPEATS:
            for kept, rejected in zip(self._kept, self._rejected, strict=True):
                rejected += kept[2 * first :]
                del kept[2 * first :]
        self._rounds.blocks.append(Block(count, disturbed, before, after))
        return after

    def _sample(self, which: int) -> None:
        if which != self._last:
            self._timers[which](1)
            self._last = which
        for repeat in range(MAX_REPEATS + 1):
            switches = self._switches()
            value = self._timers[which](self._calls[which])
            if self._switches() == switches:
                break
            if repeat == MAX_REPEATS or time.monotonic() > self._end:
                self._rounds.interrupted_samples += 1
                break
            self._rejected[which].append(value)
        self._kept[which].append(value)

    def _switches(self) -> int:
        """How often the system has taken a thread off its core that wanted to go on."""
        return resource.getrusage(self._who).ru_nivcsw


def warm_up(timer: Timer, seconds: float) -> tuple[int, int]:
    """Calls until the rolling median of their times is stable: how many calls make a sample, and how many were made."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < 3 or (time.monotonic() < end and not _settled(times)):
        times.append(timer(1))
    return max(1, math.ceil(MIN_SAMPLE_MS / max(float(np.median(times[-WINDOW:])), 1e-6))), len(times)


def _settled(times: Sequence[float]) -> bool:
    if len(times) < 2 * WINDOW:
        return False
    before, now = np.median(times[-2 * WINDOW : -WINDOW]), np.median(times[-WINDOW:])
    return bool(abs(now - before) < SETTLED * before)


def _narrow_enough(rounds: Rounds) -> bool:
    ratios = round_ratios(np.array(rounds.samples_ms), np.array(rounds.baseline_samples_ms))
    low, high = bootstrap_interval(ratios)
    return high - low < INTERVAL_WIDTH * float(np.median(ratios))
