"""How a call is timed: by the wall clock, as its caller feels it, or by the device's own events."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.measure.device import Target
from autocompress.tensors import call, map_tensors, to_device

Timer = Callable[[int], float]
"""Makes that many calls and gives the mean milliseconds of one."""

RING = 8
"""Copies of the inputs that calls take in turn, so that a cache does not hold one input for ever: inputs of a few
hundred kB and more have left a core's own cache when they come round, and smaller ones are where a caller that has
just written them would have them."""
RING_BYTES = 256 * 2**20
"""What the copies may take together; larger inputs, of which two overflow any cache, have two copies."""


def ring_of(inputs: Any, target: Target) -> list[Any]:
    """Copies of the inputs on the target's device, each in memory of its own."""
    here = to_device(inputs, target.torch_device)
    size_bytes = 0

    def copied(tensor: Tensor) -> Tensor:
        nonlocal size_bytes
        size_bytes += tensor.nbytes
        return tensor.clone()

    ring = [map_tensors(copied, here)]
    count = max(2, min(RING, RING_BYTES // max(1, size_bytes)))
    return ring + [map_tensors(torch.clone, here) for _ in range(count - 1)]


def wall_timer(model: nn.Module, ring: Sequence[Any], target: Target) -> Timer:
    """From the call until its result is there: on a GPU each call is waited for."""
    inputs = itertools.cycle(ring)
    wait = torch.cuda.synchronize if target.is_cuda else _no_wait
    device = target.torch_device

    def timed(calls: int) -> float:
        start = time.perf_counter_ns()
        for _ in range(calls):
            call(model, next(inputs))
            wait(device)
        return (time.perf_counter_ns() - start) / calls / 1e6

    return timed


def device_timers(models: Sequence[nn.Module], ring: Sequence[Any]) -> tuple[list[Timer], str]:
    """The device's own time of each model, and in words how it is taken.

    By events around replays of CUDA graphs, one for each input of the ring, which leaves Python and launches out. Where
    one of the models cannot be captured, by events around its calls for both, which leave less out.
    """
    try:
        pool = torch.cuda.graph_pool_handle()  # one memory for all: they run in turn, and no output is read
        launches = [[_captured(model, inputs, pool) for inputs in ring] for model in models]
    except Exception as error:  # whatever a model does that a graph cannot hold
        torch.cuda.synchronize()
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return [_event_timer(_calls(model, ring)) for model in models], f"events around calls, capture failed: {why}"
    return [_event_timer(replays) for replays in launches], "events around CUDA-graph replay"


def _captured(model: nn.Module, inputs: Any, pool: Any) -> Callable[[], Any]:
    """The replay of one call."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what happens only in a first call must not be captured
        for _ in range(3):
            call(model, inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        call(model, inputs)
    return graph.replay


def _calls(model: nn.Module, ring: Sequence[Any]) -> list[Callable[[], Any]]:
    return [lambda inputs=inputs: call(model, inputs) for inputs in ring]  # type: ignore[misc]


def _event_timer(launches: Sequence[Callable[[], Any]]) -> Timer:
    turns = itertools.cycle(launches)

    def timed(calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(calls):
            next(turns)()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / calls

    return timed


def _no_wait(device: torch.device) -> None:
    """On a CPU the result is there when the call returns."""
