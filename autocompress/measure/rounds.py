"""The protocol of a paired measurement: warm up, alternate, repeat what was disturbed, stop when it is certain enough.

A round times the model, the baseline, and a copy of the baseline as its rival (the control, an A/A run): each one
twice, in a random order and then in the reverse, so that a drift within the round cancels and none has the better
place. The copy has memory of its own: were it the same module, the two would find each other's weights in the caches,
and the model would seem slower. Where one follows another, an untimed call comes first, so that none finds the caches
full of another's weights: in service a model follows itself. A sample during which the system took this process off
its core is taken again at once: what a model's latency is, is then not drowned in how long others ran. Nothing is
thrown away: what was repeated is kept apart.
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
LONGEST = 10
"""Where 30 rounds would take longer than this many times the time that was given, or a second, there are fewer."""
INTERVAL_WIDTH = 0.01
"""Measuring stops when the interval of the ratio is narrower than this share of it."""
MIN_SAMPLE_MS = 0.2
"""A sample repeats the call until it lasts this long, far above the clock's resolution and what timing costs, and far
below the time slices of a scheduler, so that most samples fit between them."""
BLOCK_ROUNDS, BLOCK_S = 10, 0.1
"""A block lasts at least this many rounds and, while there is time, this long; between them the device is looked at."""
PRIMED_BELOW_MS = 5.0
"""A longer call fills the caches in a small part of its time, and needs no untimed one before it."""
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
    """All samples, in the order of their taking: two of each kind a round, in milliseconds of one call."""

    calls_per_sample: int = 1
    baseline_calls_per_sample: int = 1
    warm_up_calls: int = 0
    samples_ms: list[float] = field(default_factory=list)
    baseline_samples_ms: list[float] = field(default_factory=list)
    control_samples_ms: list[float] = field(default_factory=list)
    """Of a copy of the baseline, timed as any other model."""
    rejected_samples_ms: list[float] = field(default_factory=list)
    """Those taken again: this process was taken off its core, or the GPU was disturbed. In no figure."""
    rejected_baseline_samples_ms: list[float] = field(default_factory=list)
    rejected_control_samples_ms: list[float] = field(default_factory=list)
    interrupted_samples: int = 0
    """Samples of the figures during which this process was taken off its core, since repeating did not help."""
    blocks: list[Block] = field(default_factory=list)
    other_load: float | None = None
    """The share of all cores' time that other processes took meanwhile, in 0-1; None where it is not known."""

    @property
    def count(self) -> int:
        return len(self.samples_ms) // 2


def alternate(timers: Sequence[Timer], seconds: float, *, threads: int = 1, gpu: Gpu | None = None) -> Rounds:
    """Rounds of the model, the baseline and the control.

    Until the interval of the ratio is narrower than 1 % or the time is up; at least 30.

    Fewer only where calls are so long that 30 rounds would take ten times the `seconds`, and ten seconds.
    """
    return _Alternation(timers, seconds, threads, gpu).run()


class _Alternation:
    """One measurement while it runs; 0 is the model, 1 the baseline and 2 the control."""

    def __init__(self, timers: Sequence[Timer], seconds: float, threads: int, gpu: Gpu | None) -> None:
        self._timers, self._seconds, self._gpu = timers, seconds, gpu
        # what runs on one thread is interrupted when that thread is; otherwise any of the process's may be in its way
        one = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
        self._who = one if threads == 1 else resource.RUSAGE_SELF
        self._dice = random.Random(0)
        self._last: int | None = None
        self._ask_at = float(MIN_ROUNDS)
        self._rounds = Rounds()
        of = self._rounds
        self._kept = (of.samples_ms, of.baseline_samples_ms, of.control_samples_ms)
        self._rejected = (of.rejected_samples_ms, of.rejected_baseline_samples_ms, of.rejected_control_samples_ms)

    def run(self) -> Rounds:
        load, rounds, start = OtherLoad(), self._rounds, time.monotonic()
        warm = [warm_up(timer, self._seconds / 8) for timer in self._timers]
        self._call_ms = [warm[0].call_ms, warm[1].call_ms, warm[1].call_ms]  # the control's samples are alike
        self._calls = [max(1, math.ceil(MIN_SAMPLE_MS / max(call_ms, 1e-6))) for call_ms in self._call_ms]
        rounds.calls_per_sample, rounds.baseline_calls_per_sample, _ = self._calls
        rounds.warm_up_calls = sum(each.calls for each in warm)
        self._end = time.monotonic() + self._seconds
        state = self._gpu.state() if self._gpu else None
        while True:
            state = self._block(state)
            now = time.monotonic()
            enough = rounds.count >= MIN_ROUNDS and (now > self._end or self._narrow_enough())
            if enough or (rounds.count > 1 and now - start > LONGEST * max(1, self._seconds)):
                rounds.other_load = load.share()
                return rounds

    def _block(self, before: GpuState | None) -> GpuState | None:
        """Some rounds; gives the GPU's state after them."""
        first, began, count = self._rounds.count, time.monotonic(), 0
        until = min(began + BLOCK_S, self._end)
        while time.monotonic() < until or (count < BLOCK_ROUNDS and time.monotonic() < began + max(1, self._seconds)):
            self._round()
            count += 1
        after = self._gpu.state() if self._gpu else None
        disturbed = disturbance(before, after) if before and after else ""
        if disturbed and sum(1 for block in self._rounds.blocks if block.disturbed) < MAX_REPEATS:
            for kept, rejected in zip(self._kept, self._rejected, strict=True):
                rejected += kept[2 * first :]
                del kept[2 * first :]
        self._rounds.blocks.append(Block(count, disturbed, before, after))
        return after

    def _round(self) -> None:
        order = self._dice.sample((0, 1, 2), 3)
        for which in order + order[::-1]:
            self._sample(which)

    def _sample(self, which: int) -> None:
        if which != self._last and self._call_ms[which] < PRIMED_BELOW_MS:
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

    def _narrow_enough(self) -> bool:
        """Asked whenever there are a quarter more rounds, since to resample takes time from measuring."""
        rounds = self._rounds
        if rounds.count < self._ask_at:
            return False
        self._ask_at = 1.25 * rounds.count
        ratios = round_ratios(np.array(rounds.samples_ms), np.array(rounds.baseline_samples_ms))
        low, high = bootstrap_interval(ratios)
        return high - low < INTERVAL_WIDTH * float(np.median(ratios))

    def _switches(self) -> int:
        """How often the system has taken a thread off its core that wanted to go on."""
        return resource.getrusage(self._who).ru_nivcsw


@dataclass(frozen=True)
class WarmUp:
    """How many calls it took, and how long one takes at its end."""

    calls: int
    call_ms: float


def warm_up(timer: Timer, seconds: float) -> WarmUp:
    """Calls until the rolling median of their times is stable or the time is up; at least three."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while len(times) < 3 or (time.monotonic() < end and not _settled(times)):
        times.append(timer(1))
    return WarmUp(len(times), float(np.median(times[-WINDOW:])))


def _settled(times: Sequence[float]) -> bool:
    if len(times) < 2 * WINDOW:
        return False
    before, now = np.median(times[-2 * WINDOW : -WINDOW]), np.median(times[-WINDOW:])
    return bool(abs(now - before) < SETTLED * before)
