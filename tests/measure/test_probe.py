"""The limits of a device."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from autocompress import Target
from autocompress.measure import probe
from autocompress.measure.probe import DTYPES, DeviceLimits, probe_device

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def limits() -> DeviceLimits:
    return probe_device(Target("cpu"), seconds=1)


def test_every_type_has_a_number_or_a_reason(limits: DeviceLimits) -> None:
    assert limits.matmul_flops_per_s.keys() | limits.not_measured.keys() == set(DTYPES)
    assert not limits.matmul_flops_per_s.keys() & limits.not_measured.keys()
    assert limits.matmul_flops_per_s.keys() == limits.matmul_size.keys()
    assert limits.not_measured["tf32"] == "PyTorch has no product of this type on cpu"
    assert "float32" in limits.matmul_flops_per_s


def test_the_numbers_are_of_this_world(limits: DeviceLimits) -> None:
    assert 1e8 < limits.matmul_flops_per_s["float32"] < 1e15
    assert 1e8 < limits.bandwidth_bytes_per_s < 1e13
    assert 0.01 < limits.launch_us < 1000
    assert limits.graph_launch_us is None


def test_it_is_json_and_back(limits: DeviceLimits) -> None:
    assert DeviceLimits(**json.loads(json.dumps(limits.plain()))) == limits


def test_it_leaves_threads_and_precision_as_they_were() -> None:
    before = torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision
    found = probe_device(Target("cpu", threads=2), seconds=0.2)
    assert (found.device, found.threads) == ("cpu", 2)
    assert (torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision) == before


def test_a_type_without_a_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any) -> Any:
        raise NotImplementedError("no kernel for Char")

    monkeypatch.setattr(torch, "_int_mm", missing)
    peaks, sizes, reasons = probe._matmul_peaks(CPU, probe._cpu_seconds, 0.1)
    assert reasons["int8"] == "the product fails on this device: NotImplementedError: no kernel for Char"
    assert "int8" not in peaks | sizes


@pytest.mark.parametrize(("seconds_by_size", "best"), [({128: 0.01, 256: 0.02}, 256), ({128: 1e-4, 256: 1.0}, 128)])
def test_the_peak_is_that_of_the_best_size(seconds_by_size: dict[int, float], best: int) -> None:
    def timer(run: Callable[[], Any], repeats: int) -> float:
        return seconds_by_size[len(run())]

    rate, size = probe._matmul_peak("float32", CPU, timer, seconds=0.5)
    assert size == best
    assert rate == pytest.approx(2 * best**3 / seconds_by_size[best])


def test_the_best_of_repeats_counts() -> None:
    samples = iter([3.0, 1.0, 2.0, 9.0])
    assert probe._best(lambda: None, lambda run, repeats: next(samples), end=time.monotonic() - 1) == 1.0
    assert next(samples) == 9.0  # three were taken


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu() -> None:
    found = probe_device(Target("cuda:0"), seconds=5)
    assert found.matmul_flops_per_s["float16"] > found.matmul_flops_per_s["float32"]
    assert found.graph_launch_us is not None
    assert found.graph_launch_us < found.launch_us
    assert found.hardware == torch.cuda.get_device_name(0)
