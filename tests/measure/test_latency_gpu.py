"""What only a GPU can show of a measurement: graph replay, its fallback, the driver's readings, peak memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress import Target
from autocompress.measure.latency import Latency, measure_latency

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TARGET = Target("cuda:0", batch_size=64)


def layers(count: int, width: int = 1024) -> nn.Module:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(count))).eval().cuda()


@pytest.fixture(scope="module")
def slower() -> Latency:
    return measure_latency(layers(16), layers(4), torch.randn(64, 1024), TARGET, seconds=1)


def test_device_time_is_that_of_graph_replay_and_shorter_than_the_call(slower: Latency) -> None:
    assert slower.device_time is not None
    assert slower.device_time.method == "events around CUDA-graph replay"
    assert slower.device_time.speedup < 0.5
    assert slower.device_time.latency_ms < slower.latency_ms


def test_the_drivers_readings_are_kept(slower: Latency) -> None:
    for block in slower.blocks:
        assert block.gpu_before and block.gpu_before.sm_clock_mhz
        assert block.gpu_after and block.gpu_after.temperature_c


def test_peak_memory_holds_the_weights_and_what_a_call_takes(slower: Latency) -> None:
    weights, activation = 4 * 16 * (1024 * 1024 + 1024), 4 * 64 * 1024
    assert slower.peak_memory_bytes is not None and slower.baseline_peak_memory_bytes is not None
    assert weights + activation <= slower.peak_memory_bytes <= weights + 8 * activation
    assert slower.baseline_peak_memory_bytes < slower.peak_memory_bytes


class Waits(nn.Module):
    """Reads a value back, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers(2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.as_tensor(self.inner(x))
        return y if y.sum().item() > 0 else -y


def test_what_cannot_be_captured_is_timed_by_events_and_says_so() -> None:
    latency = measure_latency(Waits(), layers(2), torch.randn(64, 1024), TARGET, seconds=1)
    assert latency.device_time is not None
    assert latency.device_time.method.startswith("events around calls, capture failed: ")
    assert torch.randn(4, device="cuda").sum().isfinite()  # the device still works
