"""Latency: the figures follow from the samples, and more work takes longer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress import Target
from autocompress.measure.latency import CHECK_EVERY, MIN_ROUNDS, Latency, bootstrap_interval, measure_latency

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


def test_the_figures_follow_from_the_samples(slower: Latency) -> None:
    own, other = np.array(slower.samples_ms), np.array(slower.baseline_samples_ms)
    assert len(own) == len(other) == slower.rounds
    assert slower.latency_ms == np.median(own)
    assert slower.baseline_latency_ms == np.median(other)
    assert slower.speedup == np.median(other / own)
    assert (slower.speedup_low, slower.speedup_high) == bootstrap_interval(other / own)
    assert slower.speedup_low <= slower.speedup <= slower.speedup_high
    assert (own > 0).all() and (other > 0).all()


def test_the_record_says_where_and_how_long(slower: Latency) -> None:
    assert slower.target == "cpu@64"
    assert slower.hardware
    assert slower.rounds >= MIN_ROUNDS == 30
    assert slower.rounds % CHECK_EVERY == 0
    assert Latency(**slower.plain()) == slower


class Probe(nn.Module):
    """Notes how it is called; it takes two inputs."""

    def __init__(self, fails_after: int | None = None) -> None:
        super().__init__()
        self.threads: set[int] = set()
        self.inference: set[bool] = set()
        self.calls, self.fails_after = 0, fails_after

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.threads.add(torch.get_num_threads())
        self.inference.add(torch.is_inference_mode_enabled())
        self.calls += 1
        if self.calls == self.fails_after:
            raise RuntimeError("out of luck")
        return x + y


def test_measuring_ends_when_the_time_is_up() -> None:
    model, baseline = Probe(), Probe()
    latency = measure_latency(model, baseline, (torch.ones(2), torch.ones(2)), CPU, seconds=0)
    assert latency.rounds == MIN_ROUNDS
    assert min(model.calls, baseline.calls) > MIN_ROUNDS


@pytest.mark.parametrize("inputs", [(torch.ones(2), torch.ones(2)), {"x": torch.ones(2), "y": torch.ones(2)}])
def test_models_run_for_inference_on_the_targets_threads(inputs: Any) -> None:
    model, baseline, before = Probe(), Probe(), torch.get_num_threads()
    measure_latency(model, baseline, inputs, Target("cpu", 1, threads=before + 1), seconds=0)
    assert model.threads == baseline.threads == {before + 1}
    assert model.inference == {True}
    assert torch.get_num_threads() == before


def test_a_model_that_fails_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="out of luck"):
        measure_latency(
            Probe(fails_after=5), Probe(), (torch.ones(2), torch.ones(2)), Target("cpu", 1, threads=before + 1), 0
        )
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


def test_the_interval_is_the_same_for_the_same_values() -> None:
    values = np.random.default_rng(1).normal(1.3, 0.1, 40)
    assert bootstrap_interval(values) == bootstrap_interval(values.copy())
    assert bootstrap_interval(np.full(30, 1.25)) == (1.25, 1.25)


def test_the_interval_covers_the_median_and_shrinks_with_more_samples() -> None:
    rng = np.random.default_rng(2)
    few = [bootstrap_interval(rng.lognormal(0.3, 0.2, 40)) for _ in range(200)]
    covered = sum(low <= np.exp(0.3) <= high for low, high in few)
    assert 180 <= covered < 200  # 95 % of 200 is 190; an interval that is far too wide covers all
    many = [bootstrap_interval(rng.lognormal(0.3, 0.2, 640)) for _ in range(50)]
    widths = [float(np.mean([high - low for low, high in intervals])) for intervals in (few, many)]
    assert widths[1] < 0.4 * widths[0]  # a quarter, by the square root of 16
