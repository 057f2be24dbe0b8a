"""The protocol: the order of the samples, when it stops, and what becomes of disturbed ones."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from autocompress.measure.nvml import Gpu, GpuState
from autocompress.measure.rounds import MAX_REPEATS, MIN_ROUNDS, WarmUp, alternate, warm_up


class Scripted:
    """A timer that notes its turns and gives times from a list, over and over."""

    def __init__(self, name: str, turns: list[tuple[str, int]], times: list[float]) -> None:
        self.name, self.turns, self.times, self.count = name, turns, times, 0

    def __call__(self, calls: int) -> float:
        self.turns.append((self.name, calls))
        self.count += 1
        return self.times[self.count % len(self.times)]


def test_a_round_is_a_random_order_and_its_reverse_and_each_change_is_primed() -> None:
    turns: list[tuple[str, int]] = []
    rounds = alternate([Scripted(name, turns, [0.1]) for name in "abc"], seconds=0)
    timed = turns[rounds.warm_up_calls :]
    assert rounds.calls_per_sample == rounds.baseline_calls_per_sample == 2  # of 0.1 ms, to last 0.2
    order = [name for name, calls in timed if calls == 2]
    whole = ["".join(order[start : start + 6]) for start in range(0, len(order), 6)]
    assert len(whole) == rounds.count == MIN_ROUNDS
    assert set(whole) == {"abccba", "acbbca", "baccab", "bcaacb", "cabbac", "cbaabc"}
    before = [("", 0), *timed]
    for (name_before, _), (name, calls) in zip(before, timed, strict=False):
        assert (calls == 1) == (name != name_before)  # after another comes an untimed call


def test_long_calls_are_not_primed() -> None:
    turns: list[tuple[str, int]] = []
    rounds = alternate([Scripted(name, turns, [10.0]) for name in "abc"], seconds=0)
    assert len(turns) == rounds.warm_up_calls + 6 * MIN_ROUNDS


def test_calls_that_are_too_long_have_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(calls: int) -> float:
        time.sleep(2e-3)
        return 10.0

    monkeypatch.setattr("autocompress.measure.rounds.LONGEST", 0.05)
    assert 2 <= alternate([slow] * 3, seconds=0).count < MIN_ROUNDS


def test_measuring_ends_as_soon_as_the_interval_is_narrow() -> None:
    def steady(calls: int) -> float:
        return 1.0

    start = time.monotonic()
    rounds = alternate([steady] * 3, seconds=60)
    assert time.monotonic() - start < 20
    assert rounds.count >= MIN_ROUNDS
    assert len(rounds.samples_ms) == len(rounds.baseline_samples_ms) == 2 * rounds.count


def test_a_wide_interval_is_measured_until_the_time_is_up() -> None:
    dice = random.Random(0)

    def wild(calls: int) -> float:
        time.sleep(1e-3)
        return dice.uniform(1, 5)

    start = time.monotonic()
    rounds = alternate([wild] * 3, seconds=0.5)
    assert 0.5 <= time.monotonic() - start < 20
    assert rounds.count >= MIN_ROUNDS


def test_warm_up_lasts_until_the_times_are_stable() -> None:
    cooling = iter([10 / (1 + n) for n in range(60)] + [0.16] * 100)
    warm = warm_up(lambda calls: next(cooling), seconds=60)
    assert warm.calls >= 60  # two equal windows of ten
    assert warm.call_ms == pytest.approx(0.16, rel=0.1)
    assert warm_up(lambda calls: 7.0, seconds=0) == WarmUp(3, 7.0)


@pytest.fixture
def contested_core() -> Iterator[None]:
    """One core that this thread must share with another process."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs an operating system that binds processes to cores")
    before = os.sched_getaffinity(0)
    core = min(before)
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout
    other.stdout.readline()
    os.sched_setaffinity(0, {core})
    yield
    os.sched_setaffinity(0, before)
    other.kill()
    other.communicate()


def test_an_interrupted_sample_is_taken_again_and_kept_apart(contested_core: None) -> None:
    def busy(calls: int) -> float:
        start = time.perf_counter()
        while time.perf_counter() - start < 1e-3:
            pass
        return 1e3 * (time.perf_counter() - start)

    rounds = alternate([busy] * 3, seconds=1)
    rejected = rounds.rejected_samples_ms + rounds.rejected_baseline_samples_ms + rounds.rejected_control_samples_ms
    assert rejected and max(rejected) > 2  # a time slice of the other lay in it
    kept = rounds.samples_ms + rounds.baseline_samples_ms + rounds.control_samples_ms
    assert sum(value > 2 for value in kept) <= rounds.interrupted_samples + 0.02 * len(kept)
    assert len(kept) == 6 * rounds.count
    assert rounds.other_load is None or rounds.other_load > 0.1


class ScriptedGpu(Gpu):
    """A driver that tells what it is told to; there is none here."""

    def __init__(self, states: list[GpuState]) -> None:
        self.states = states

    def state(self) -> GpuState:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


def test_a_disturbed_block_is_repeated_and_kept_apart() -> None:
    times = iter(float(n) for n in range(1, 10**6))
    hot = GpuState(sm_clock_mhz=900, throttle_reasons=["hw_slowdown"])
    calm = GpuState(sm_clock_mhz=1900)
    gpu = ScriptedGpu([calm, hot, calm, calm])
    rounds = alternate([lambda calls: next(times)] * 3, seconds=0, gpu=gpu)
    disturbed = [block for block in rounds.blocks if block.disturbed]
    assert [block.disturbed for block in disturbed] == ["throttled: hw_slowdown"] * 2  # before one, and after another
    apart = 2 * sum(block.rounds for block in disturbed)
    assert len(rounds.rejected_samples_ms) >= apart
    assert rounds.count == sum(block.rounds for block in rounds.blocks if not block.disturbed) >= MIN_ROUNDS
    everything = rounds.samples_ms + rounds.baseline_samples_ms
    everything += rounds.rejected_samples_ms + rounds.rejected_baseline_samples_ms
    assert len(set(everything)) == len(everything)
    assert rounds.blocks[0].gpu_before == calm and rounds.blocks[0].gpu_after == hot


def test_what_is_always_disturbed_is_measured_all_the_same() -> None:
    hot = GpuState(throttle_reasons=["sw_power_cap"])
    rounds = alternate([lambda calls: 1.0] * 3, seconds=0, gpu=ScriptedGpu([hot]))
    assert rounds.count >= MIN_ROUNDS
    assert len(rounds.rejected_samples_ms) >= 2 * 10 * MAX_REPEATS
    assert all(block.disturbed for block in rounds.blocks)
