"""Numbers against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor

from autocompress.damage import Regression, damage


def judged(baseline: Tensor, outputs: Tensor, targets: Tensor) -> Regression:
    (head,) = damage(baseline, outputs, targets, [], margin=0.01).heads
    assert isinstance(head, Regression)
    return head


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 200), st.sampled_from([(), (1,), (3,)]), st.floats(-1e3, 1e3), st.integers(0, 10_000))
def test_the_figures_are_those_of_other_packages(samples: int, shape: tuple[int], offset: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets, noise, more = (torch.randn(samples, *shape, generator=generator, dtype=torch.double) for _ in range(3))
    targets = targets + offset
    baseline = targets + 0.3 * noise
    outputs = baseline + 0.1 * more + 0.05
    head = judged(baseline, outputs, targets)
    flat = {name: x.reshape(samples, -1).numpy() for name, x in (("before", baseline), ("after", outputs))}
    wanted = targets.reshape(samples, -1).numpy()
    for side, values in flat.items():
        assert getattr(head.absolute_error, side) == pytest.approx(mean_absolute_error(wanted, values))
        assert getattr(head, f"bias_{side}") == pytest.approx((values - wanted).mean(), abs=1e-9)
        assert getattr(head, f"rmse_{side}") == pytest.approx(
            root_mean_squared_error(wanted.ravel(), values.ravel()), rel=1e-6
        )
        assert getattr(head, f"r2_{side}") == pytest.approx(
            r2_score(wanted, values, multioutput="variance_weighted"), abs=1e-6
        )
    moved = np.abs(flat["after"] - flat["before"])
    assert head.change_p99 == pytest.approx(np.quantile(moved, 0.99), rel=1e-6)
    assert head.correlation == pytest.approx(
        stats.pearsonr(flat["before"].ravel(), flat["after"].ravel()).statistic, abs=1e-6
    )


def test_a_shift_of_all_outputs_is_bias() -> None:
    targets = torch.linspace(0, 1, 50)
    head = judged(targets, targets + 0.5, targets)
    assert (head.bias_before, head.bias_after) == pytest.approx((0, 0.5))
    assert (head.change_mean, head.change_p99) == pytest.approx((0.5, 0.5))
    assert head.correlation == pytest.approx(1)


def test_what_is_constant_has_no_correlation_and_no_variance() -> None:
    head = judged(torch.full((9,), 2.0), torch.arange(9.0), torch.full((9,), 3.0))
    assert (head.correlation, head.r2_before, head.r2_after) == (None, None, None)


def test_one_sample() -> None:
    head = judged(torch.tensor([1.0]), torch.tensor([2.5]), torch.tensor([3.0]))
    assert (head.absolute_error.change, head.correlation, head.r2_after) == (-1.5, None, None)


def test_outputs_of_width_one_are_those_of_the_targets() -> None:
    values = torch.randn(3, 20)
    column = judged(values[0][:, None], values[1][:, None], values[2])
    assert column == judged(values[0], values[1], values[2])
