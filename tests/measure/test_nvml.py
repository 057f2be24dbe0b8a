"""What a GPU's driver tells, and what is said where there is none."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from autocompress import Target
from autocompress.measure.nvml import Gpu, GpuState, disturbance

CALM = GpuState(sm_clock_mhz=1900, other_processes=[7], working_processes=[])


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (CALM, ""),
        (GpuState(sm_clock_mhz=1850), ""),
        (GpuState(sm_clock_mhz=2000), ""),
        (GpuState(), ""),  # a driver that tells nothing
        (GpuState(sm_clock_mhz=1500), "the clock fell from 1900 to 1500 MHz"),
        (GpuState(throttle_reasons=["sw_power_cap", "hw_slowdown"]), "throttled: hw_slowdown, sw_power_cap"),
        (GpuState(working_processes=[7, 9]), "other processes worked: 7, 9"),
    ],
)
def test_what_disturbs(after: GpuState, said: str) -> None:
    assert disturbance(CALM, after) == said


def test_throttling_that_ended_disturbed_too() -> None:
    assert disturbance(GpuState(throttle_reasons=["hw_slowdown"]), CALM) == "throttled: hw_slowdown"


class NvmlError(Exception):
    pass


class NotFound(NvmlError):
    pass


class Driver:
    """Answers as NVML does on a card whose power cannot be read; there is none here."""

    NVMLError, NVMLError_NotFound = NvmlError, NotFound
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nobody_worked = False

    def nvmlDeviceGetClockInfo(self, handle: object, kind: int) -> int:  # noqa: N802
        return {1: 1410, 2: 1215}[kind]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: object) -> int:  # noqa: N802
        return 0x1 | 0x4 | 0x40  # idle, power cap, heat

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int:  # noqa: N802
        return 61

    def nvmlDeviceGetPowerUsage(self, handle: object) -> int:  # noqa: N802
        raise NvmlError("Not Supported")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in (os.getpid(), 5, 6)]

    def nvmlDeviceGetProcessUtilization(self, handle: object, since: int) -> list[SimpleNamespace]:  # noqa: N802
        if self.nobody_worked:
            raise NotFound
        busy = {os.getpid(): 90, 5: 40, 6: 0}
        return [SimpleNamespace(pid=pid, smUtil=use, timeStamp=since + 1) for pid, use in busy.items()]


def with_driver(driver: Driver) -> Gpu:
    gpu = Gpu.__new__(Gpu)
    gpu._nvml, gpu._handle, gpu._seen_us = driver, object(), 0
    return gpu


def test_a_reading_names_what_the_driver_could_not_say() -> None:
    state = with_driver(Driver()).state()
    assert (state.sm_clock_mhz, state.memory_clock_mhz, state.temperature_c) == (1410, 1215, 61)
    assert state.throttle_reasons == ["sw_power_cap", "hw_thermal_slowdown"]
    assert (state.power_w, state.missing) == (None, {"power_w": "Not Supported"})
    assert (state.other_processes, state.working_processes) == ([5, 6], [5])


def test_no_kernel_of_anybody_is_no_missing_answer() -> None:
    driver = Driver()
    driver.nobody_worked = True
    state = with_driver(driver).state()
    assert state.working_processes == [] and "working_processes" not in state.missing


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_driver_is_told_in_words() -> None:
    with pytest.raises(OSError, match="NVML cannot be asked: "):
        Gpu(Target("cuda:0"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_driver_is_read() -> None:
    state = Gpu(Target("cuda:0")).state()
    assert state.sm_clock_mhz and state.temperature_c
