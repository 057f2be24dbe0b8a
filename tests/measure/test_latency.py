"""Latency: the figures follow from the samples, and more work takes longer."""

from __future__ import annotations

import gc
import json
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress import Target
from autocompress.measure.latency import Latency, measure_latency
from autocompress.measure.rounds import MIN_ROUNDS
from autocompress.measure.statistics import Figures, figures
from autocompress.measure.timers import RING, RING_BYTES, ring_of

CPU = Target("cpu")


def layers(count: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(384, 384) for _ in range(count))).eval()


@pytest.fixture(scope="module")
def slower() -> Latency:
    """Four times the work of its baseline."""
    return measure_latency(layers(8), layers(2), torch.randn(64, 384), Target("cpu", 64), seconds=0.2)


def test_more_work_takes_longer(slower: Latency) -> None:
    assert slower.speedup < 0.6
    assert slower.speedup_high < 1
    assert slower.latency_ms > slower.baseline_latency_ms
    assert slower.throughput_per_s == pytest.approx(64e3 / slower.latency_ms)
    assert slower.latency_low_ms <= slower.latency_ms <= slower.latency_high_ms <= slower.p99_ms


def test_the_figures_follow_from_the_samples(slower: Latency) -> None:
    again = figures(slower.samples_ms, slower.baseline_samples_ms, slower.control_samples_ms, batch_size=64)
    assert again == Figures(**{field.name: getattr(slower, field.name) for field in fields(Figures)})
    samples = slower.samples_ms, slower.baseline_samples_ms, slower.control_samples_ms
    assert {len(taken) for taken in samples} == {2 * slower.rounds}
    assert min(slower.samples_ms + slower.baseline_samples_ms) > 0


def test_the_record_says_where_and_how(slower: Latency) -> None:
    assert (slower.target, slower.method, slower.input_copies) == ("cpu@64", "wall clock", RING)
    assert slower.hardware
    assert slower.rounds == sum(block.rounds for block in slower.blocks) >= MIN_ROUNDS == 30
    assert slower.warm_up_calls >= 6
    assert slower.other_load is None or 0 <= slower.other_load <= 1
    assert slower.device_time is None and slower.peak_memory_bytes is None
    assert "peak memory is not known: the allocator of a CPU keeps none" in slower.notes
    plain = json.loads(json.dumps(slower.plain()))
    assert set(plain) == {field.name for field in fields(Latency)}
    assert plain["samples_ms"] == slower.samples_ms
    assert plain["verdict"] == slower.verdict


class Probe(nn.Module):
    """Notes how it is called; it takes two inputs."""

    def __init__(self, fails_after: int | None = None) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self.inference: set[bool] = set()
        self.collects: set[bool] = set()
        self.places: list[int] = []
        self.calls, self.fails_after = 0, fails_after

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.threads.add(torch.get_num_threads())
        self.inference.add(torch.is_inference_mode_enabled())
        self.collects.add(gc.isenabled())
        self.places.append(x.data_ptr())
        self.calls += 1
        if self.calls == self.fails_after:
            raise RuntimeError("out of luck")
        return x + y


def pair() -> tuple[Tensor, Tensor]:
    return torch.ones(2), torch.ones(2)


def test_measuring_ends_when_the_time_is_up() -> None:
    model, baseline = Probe(), Probe()
    latency = measure_latency(model, baseline, pair(), CPU, seconds=0)
    assert latency.rounds == MIN_ROUNDS
    assert min(model.calls, baseline.calls) > MIN_ROUNDS


@pytest.mark.parametrize("inputs", [pair(), dict(zip("xy", pair(), strict=True))])
def test_models_run_for_inference_on_the_targets_threads(inputs: Any) -> None:
    model, baseline, before = Probe(), Probe(), torch.get_num_threads()
    measure_latency(model, baseline, inputs, Target("cpu", 1, threads=before + 1), seconds=0)
    assert model.threads == baseline.threads == {before + 1}
    assert model.inference == {True} and model.collects == {False}
    assert torch.get_num_threads() == before and gc.isenabled()


class Copied(Probe):
    """Keeps the copies that are made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[Probe] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        self.copies.append(Probe())
        return self.copies[-1]


class NoCopy(Probe):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise TypeError("holds a lock")


def test_the_control_is_a_copy_of_the_baseline_or_the_record_says_that_it_is_not() -> None:
    model, baseline = Probe(), Copied()
    latency = measure_latency(model, baseline, pair(), CPU, seconds=0)
    (control,) = baseline.copies
    assert control.calls > MIN_ROUNDS
    assert not any("A/A" in note for note in latency.notes)
    latency = measure_latency(model, NoCopy(), pair(), CPU, seconds=0)
    said = "the A/A run is of one module, which favours the baseline, since a copy failed: TypeError: holds a lock"
    assert said in latency.notes


def test_a_model_that_fails_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="out of luck"):
        measure_latency(Probe(fails_after=5), Probe(), pair(), Target("cpu", 1, threads=before + 1), 0)
    assert torch.get_num_threads() == before and gc.isenabled()
    assert not torch.is_inference_mode_enabled()


def test_calls_take_copies_of_the_inputs_in_turn() -> None:
    model = Probe()
    measure_latency(model, Probe(), pair(), CPU, seconds=0)
    assert len(set(model.places)) == RING
    assert all(first != second for first, second in zip(model.places, model.places[1:], strict=False))


def test_large_inputs_have_fewer_copies() -> None:
    large = torch.zeros(RING_BYTES // 4 // 3)  # a third of what all may take
    assert [len(ring_of(inputs, CPU)) for inputs in (large, [large, large], torch.ones(1))] == [3, 2, RING]
