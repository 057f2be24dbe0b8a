"""Latency of what ships, measured beside the baseline."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from autocompress.errors import first_line
from autocompress.measure.device import Target, hardware_name
from autocompress.measure.load import in_words, load_average
from autocompress.measure.lock import DeviceLock
from autocompress.measure.memory import peak_memory_bytes
from autocompress.measure.nvml import Gpu
from autocompress.measure.rounds import MIN_ROUNDS, Block, Rounds, alternate
from autocompress.measure.statistics import Figures, figures
from autocompress.measure.timers import device_timers, ring_of, wall_timer


@dataclass(frozen=True, kw_only=True)
class Comparison(Figures):
    """A paired measurement: its figures and all samples behind them.

    `statistics.figures` gives the figures again from the three lists of samples and the target's batch size.
    """

    method: str
    """How a call was timed."""
    rounds: int
    calls_per_sample: int
    baseline_calls_per_sample: int
    """A sample is the mean over this many calls."""
    warm_up_calls: int
    samples_ms: list[float]
    """Two a round, in the order of their taking."""
    baseline_samples_ms: list[float]
    control_samples_ms: list[float]
    """Of a copy of the baseline, timed as any other model: the A/A run."""
    rejected_samples_ms: list[float]
    """Samples taken again since this process was taken off its core or the GPU was disturbed; in no figure."""
    rejected_baseline_samples_ms: list[float]
    rejected_control_samples_ms: list[float]
    interrupted_samples: int
    """Samples of the figures that were interrupted all the same: repeating them did not help or took too long."""
    blocks: list[Block]
    """Rounds without a break, with the GPU's state before and after."""
    other_load: float | None
    """The share of all cores' time that other processes took, in 0-1; None where it is not known."""


@dataclass(frozen=True, kw_only=True)
class Latency(Comparison):
    """From call to result, by the wall clock, for a model and the baseline on one target, batch and threads included.

    Inputs lie on the device already; on a GPU every call is waited for.
    """

    target: str
    hardware: str
    input_copies: int
    """Calls take them in turn."""
    waited_s: float
    """For the device, until no one else measured or trained on it."""
    load_average: float | None
    """Of the machine over the last minute, when the measurement ended."""
    device_time: Comparison | None
    """On a GPU, the time of its kernels alone, without Python and launches."""
    peak_memory_bytes: int | None
    """Of the GPU: the model's tensors, and the most that one call takes beside them."""
    baseline_peak_memory_bytes: int | None
    notes: list[str] = field(default_factory=list)
    """What a reader should know, and what could not be had and why."""

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def measure_latency(
    model: nn.Module, baseline: nn.Module, inputs: Any, target: Target, seconds: float = 3.0
) -> Latency:
    """Times both models on the same inputs, alternating in random order, with the device to itself.

    Warms up until times are stable; at least 30 rounds; ends when the 95 % interval of the ratio is narrower than 1 %
    or after `seconds`, which on a GPU are shared by the wall clock and the device's own. `rounds` tells the protocol.
    The number of torch's threads is that of the target; which cores they run on is the scheduler's choice, since on a
    loaded machine a thread bound to a busy core stands still beside an idle one.
    """
    notes: list[str] = []
    models = [model, baseline, _control(baseline, notes)]
    with DeviceLock(target).exclusive() as waited_s, _quiet(target), torch.inference_mode():
        ring = ring_of(inputs, target)
        gpu = None
        if target.is_cuda:
            try:
                gpu = Gpu(target)
            except OSError as error:
                notes.append(f"clocks, heat and other processes of the GPU are not known: {error}")
        else:
            notes.append("peak memory is not known: the allocator of a CPU keeps none")
        peaks = [peak_memory_bytes(each, ring[0], target) for each in (model, baseline)]
        share = seconds / 2 if target.is_cuda else seconds
        timers = [wall_timer(each, ring, target) for each in models]
        wall = alternate(timers, share, threads=target.threads, gpu=gpu)
        device_time = _device_time(models, ring, target, share, gpu) if target.is_cuda else None
        average = load_average()
    notes += _notes(wall)
    return Latency(
        **_comparison(wall, target, "wall clock"),
        target=str(target),
        hardware=hardware_name(target),
        input_copies=len(ring),
        waited_s=waited_s,
        load_average=average,
        device_time=device_time,
        peak_memory_bytes=peaks[0],
        baseline_peak_memory_bytes=peaks[1],
        notes=notes,
    )


def _control(baseline: nn.Module, notes: list[str]) -> nn.Module:
    """A copy of the baseline in memory of its own, or the baseline where that cannot be had, which is noted.

    Never made in inference mode: its tensors would be inference tensors, with which every operation starts sooner.
    """
    try:
        with torch.inference_mode(False):
            return copy.deepcopy(baseline)
    except Exception as error:  # the user's model, or no memory for a copy
        notes.append(
            f"the A/A run is of one module, which favours the baseline, since a copy failed: {first_line(error)}"
        )
        return baseline


def _device_time(
    models: list[nn.Module], ring: list[Any], target: Target, seconds: float, gpu: Gpu | None
) -> Comparison:
    timers, method = device_timers(models, ring)
    return Comparison(**_comparison(alternate(timers, seconds, gpu=gpu), target, method))


def _comparison(rounds: Rounds, target: Target, method: str) -> dict[str, Any]:
    """The fields of a Comparison."""
    samples = rounds.samples_ms, rounds.baseline_samples_ms, rounds.control_samples_ms
    computed = figures(*samples, target.batch_size)
    return {**vars(computed), **vars(rounds), "method": method, "rounds": rounds.count}


def _notes(rounds: Rounds) -> list[str]:
    notes = [in_words(rounds.other_load)]
    apart = rounds.rejected_samples_ms, rounds.rejected_baseline_samples_ms, rounds.rejected_control_samples_ms
    rejected = sum(map(len, apart))
    if rounds.count < MIN_ROUNDS:
        notes.append(f"only {rounds.count} rounds: calls take too long for {MIN_ROUNDS} in the time that was given")
    if rejected:
        notes.append(f"{rejected} samples were disturbed and taken again")
    if rounds.interrupted_samples:
        notes.append(f"{rounds.interrupted_samples} of {6 * rounds.count} samples were interrupted by other processes")
    disturbed = [block.disturbed for block in rounds.blocks if block.disturbed]
    if disturbed:
        notes.append(f"{len(disturbed)} of {len(rounds.blocks)} blocks were disturbed, the last one: {disturbed[-1]}")
    return [note for note in notes if note]


@contextmanager
def _quiet(target: Target) -> Iterator[None]:
    """The target's threads and device, and no garbage collection in between."""
    before, collects = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(target.threads)
    gc.collect()
    gc.disable()
    try:
        with torch.cuda.device(target.torch_device) if target.is_cuda else nullcontext():
            yield
    finally:
        torch.set_num_threads(before)
        if collects:
            gc.enable()
