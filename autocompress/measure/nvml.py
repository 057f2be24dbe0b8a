"""The state of a GPU as its driver tells it: clocks, throttling, heat, power, and who else works there."""

from __future__ import annotations

import importlib
import os
import time
from dataclasses import dataclass, field
from typing import Any

from autocompress.errors import first_line
from autocompress.measure.device import Target
from autocompress.measure.lock import physical_name

CLOCK_FALL = 0.05
"""A block is disturbed when the clock of the multiprocessors fell by more than this share."""
DISTURBING = {
    "sw_power_cap": 0x04,
    "hw_slowdown": 0x08,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake": 0x80,
}
"""NVML's reasons for lower clocks that disturb, by bit; being idle or clocks that the user has set do not."""


@dataclass(frozen=True)
class GpuState:
    """One reading; None or empty where the driver has no answer, which `missing` then tells."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle_reasons: list[str] = field(default_factory=list)
    """Those of `DISTURBING` that hold."""
    temperature_c: int | None = None
    power_w: float | None = None
    other_processes: list[int] | None = None
    """Ids of other processes with a context on the device; most of them idle."""
    working_processes: list[int] | None = None
    """Ids of other processes whose kernels ran since the reading before."""
    missing: dict[str, str] = field(default_factory=dict)
    """Field by field, what the driver said instead."""


class Gpu:
    """A GPU behind its driver. Raises OSError, with the reason, when there is no driver to ask."""

    def __init__(self, target: Target) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            uuid = physical_name(target).removeprefix("gpu-")
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except Exception as error:  # no library, no driver, or a device that it does not list
            raise OSError(f"NVML cannot be asked: {first_line(error)}") from error
        self._seen_us = time.time_ns() // 1000

    def free_bytes(self) -> int:
        """Of its memory; raises OSError where the driver does not tell."""
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).free)
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML does not tell the free memory: {first_line(error)}") from error

    def state(self) -> GpuState:
        nvml, handle, missing = self._nvml, self._handle, dict[str, str]()

        def ask(name: str, question: Any) -> Any:
            try:
                return question()
            except nvml.NVMLError as error:
                missing[name] = str(error)
                return None

        bits = ask("throttle_reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)) or 0
        milliwatts = ask("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return GpuState(
            sm_clock_mhz=ask("sm_clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=ask("memory_clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            throttle_reasons=[name for name, bit in DISTURBING.items() if bits & bit],
            temperature_c=ask(
                "temperature_c", lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            ),
            power_w=None if milliwatts is None else milliwatts / 1000,
            other_processes=ask("other_processes", self._others),
            working_processes=ask("working_processes", self._working),
            missing=missing,
        )

    def _others(self) -> list[int]:
        return _without_us([process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)])

    def _working(self) -> list[int]:
        since, self._seen_us = self._seen_us, time.time_ns() // 1000
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(self._handle, since)
        except self._nvml.NVMLError_NotFound:  # no kernel of any process ran
            return []
        return _without_us([sample.pid for sample in samples if sample.smUtil and sample.timeStamp > since])


def disturbance(before: GpuState, after: GpuState) -> str:
    """What disturbed the block between two readings, in words; empty when nothing did."""
    reasons = sorted({*before.throttle_reasons, *after.throttle_reasons})
    if reasons:
        return f"throttled: {', '.join(reasons)}"
    if before.sm_clock_mhz and after.sm_clock_mhz and after.sm_clock_mhz < (1 - CLOCK_FALL) * before.sm_clock_mhz:
        return f"the clock fell from {before.sm_clock_mhz} to {after.sm_clock_mhz} MHz"
    if after.working_processes:
        return f"other processes worked: {', '.join(map(str, after.working_processes))}"
    return ""


def _without_us(pids: list[int]) -> list[int]:
    """In a container NVML gives the ids of the host, among which this process cannot be told: one of them is left out.

    Then every list is right in its length, and its ids may hold ours in place of another.
    """
    others = sorted(set(pids))
    if os.getpid() in others:
        others.remove(os.getpid())
        return others
    return others[1:]
