"""What a device can do at most, measured: arithmetic by type, memory bandwidth, launches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from autocompress.errors import first_line
from autocompress.measure.device import Target, hardware_name
from autocompress.measure.lock import DeviceLock
from autocompress.measure.threads import threads

DTYPES = ("float32", "tf32", "float16", "bfloat16", "int8", "float8_e4m3fn")
"""Types of matrix products. TF32 is float32 with products of 10 bits, on tensor cores."""
_SIZES = {"cpu": (128, 256, 512, 1024, 2048, 4096), "cuda": (1024, 2048, 4096, 8192, 16384)}
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**32}
"""Far beyond any cache."""
_LAUNCHES = 1000

Timer = Callable[[Callable[[], Any], int], float]
"""Seconds of a call, from so many calls in a row."""


@dataclass(frozen=True)
class DeviceLimits:
    """The best that was seen of each: a peak, so that what is above it is an error or another kernel."""

    hardware: str
    device: str
    threads: int
    matmul_flops_per_s: dict[str, float]
    """By type, the largest over sizes of square products by PyTorch's own kernels; another runtime's may be faster."""
    matmul_size: dict[str, int]
    """Rows of the square matrices at which that was reached."""
    not_measured: dict[str, str]
    """Types without a number, and why."""
    bandwidth_bytes_per_s: float
    """Of a large copy, reading and writing counted."""
    launch_us: float
    """Of the cheapest operator on one element, launched from eager PyTorch."""
    graph_launch_us: float | None
    """Of the same within a CUDA graph; None on a CPU."""
    seconds: float
    """How long the probe took."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def probe_device(target: Target, seconds: float = 30.0) -> DeviceLimits:
    """Measures the limits of the target's device, alone on it, with the target's threads; its batch does not matter.

    Takes about `seconds` at most, of which 3 are enough for a CPU: with more, larger matrices and more repeats.
    """
    device, clock = target.torch_device, time.monotonic()
    share = seconds / (len(_types(device)) + 3)
    with DeviceLock(target).exclusive(), threads(target.threads), torch.inference_mode():
        timer = _cuda_seconds if target.is_cuda else _cpu_seconds
        peaks, sizes, missing = _matmul_peaks(device, timer, share)
        return DeviceLimits(
            hardware=hardware_name(target),
            device=target.device,
            threads=target.threads,
            matmul_flops_per_s=peaks,
            matmul_size=sizes,
            not_measured=missing,
            bandwidth_bytes_per_s=_bandwidth(device, timer, share),
            launch_us=_launch(device, share),
            graph_launch_us=_graph_launch(device, share) if target.is_cuda else None,
            seconds=time.monotonic() - clock,
        )


def _types(device: torch.device) -> tuple[str, ...]:
    """The types that this kind of device may have products for."""
    return DTYPES if device.type == "cuda" else tuple(name for name in DTYPES if name not in ("tf32", "float8_e4m3fn"))


def _matmul_peaks(
    device: torch.device, timer: Timer, seconds: float
) -> tuple[dict[str, float], dict[str, int], dict[str, str]]:
    peaks: dict[str, float] = {}
    sizes: dict[str, int] = {}
    missing = {name: f"PyTorch has no product of this type on {device.type}" for name in DTYPES}
    for name in _types(device):
        try:
            with _products_as(name):
                peaks[name], sizes[name] = _matmul_peak(name, device, timer, seconds)
            del missing[name]
        except Exception as error:  # whatever a kernel that is missing raises
            missing[name] = f"the product fails on this device: {first_line(error)}"
    return peaks, sizes, missing


def _matmul_peak(name: str, device: torch.device, timer: Timer, seconds: float) -> tuple[float, int]:
    """The highest FLOPs a second, and the size it was reached at; sizes grow while time allows."""
    best, best_size, end = 0.0, 0, time.monotonic() + seconds
    for size in _SIZES[device.type]:
        try:
            duration = _best(_product(name, size, device), timer, min(end, time.monotonic() + seconds / 4))
        except torch.OutOfMemoryError:
            if not best:
                raise
            break
        rate = 2 * size**3 / duration
        if rate > best:
            best, best_size = rate, size
        if time.monotonic() + 3 * 8 * duration > end:  # the next size takes 8 times as long, and is run thrice
            break
    return best, best_size


def _product(name: str, size: int, device: torch.device) -> Callable[[], Tensor]:
    """A product of two square matrices of a type."""
    if name == "int8":
        codes = torch.randint(-8, 8, (2, size, size), dtype=torch.int8, device=device)
        return lambda: torch._int_mm(codes[0], codes[1].t())
    values = torch.randn(2, size, size, device=device)
    if name == "float8_e4m3fn":
        eighths, scale = values.to(torch.float8_e4m3fn), torch.ones((), device=device)
        return lambda: torch._scaled_mm(eighths[0], eighths[1].t(), scale, scale, out_dtype=torch.bfloat16)
    left, right = values.to(torch.float32 if name == "tf32" else getattr(torch, name))
    return lambda: torch.mm(left, right)


@contextlib.contextmanager
def _products_as(name: str) -> Iterator[None]:
    """Products of float32 as such, or with TF32's precision."""
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "tf32" if name == "tf32" else "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before


def _bandwidth(device: torch.device, timer: Timer, seconds: float) -> float:
    """Bytes a second of a copy within the device's memory, read and written."""
    size = _COPY_BYTES[device.type]
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 4)
    source, copy = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / _best(lambda: copy.copy_(source), timer, time.monotonic() + seconds)


def _launch(device: torch.device, seconds: float) -> float:
    """Microseconds from one launch to the next, as the host issues them."""
    element = torch.zeros(1, device=device)

    def launches(run: Callable[[], Any], repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / repeats

    return 1e6 * _best(element.zero_, launches, time.monotonic() + seconds, repeats=_LAUNCHES)


def _graph_launch(device: torch.device, seconds: float) -> float:
    """Microseconds from one kernel to the next within a CUDA graph."""
    element, graph = torch.zeros(1, device=device), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_LAUNCHES):
            element.add_(1)
    return 1e6 * _best(graph.replay, _cuda_seconds, time.monotonic() + seconds) / _LAUNCHES


def _best(run: Callable[[], Any], timer: Timer, end: float, repeats: int = 1) -> float:
    """The least time of a call, in seconds, of three samples at least and until the clock says `end`."""
    run()
    times = [timer(run, repeats) for _ in range(2)]
    while len(times) < 3 or time.monotonic() < end:
        times.append(timer(run, repeats))
    return min(times)


def _cpu_seconds(run: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def _cuda_seconds(run: Callable[[], Any], repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / repeats / 1e3
