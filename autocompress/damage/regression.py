"""Damage to numbers that a model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from autocompress.damage.heads import Head
from autocompress.damage.statistics import Difference, Floats, difference


@dataclass(frozen=True)
class Regression:
    """Damage in the unit of the targets."""

    kind: ClassVar[str] = "regression"
    head: str
    read_as: str
    samples: int
    bias_before: float
    bias_after: float
    """Mean of output - target."""
    absolute_error: Difference
    """Mean absolute error (MAE)."""
    rmse_before: float
    rmse_after: float
    r2_before: float | None
    r2_after: float | None
    """Share of the targets' variance that is explained, over all columns; None where the targets are constant."""
    change_mean: float
    change_p99: float
    """Of |model's output - baseline's output|."""
    correlation: float | None
    """Pearson's, of the model's outputs with the baseline's; None where one of them is constant."""


def regression(head: Head, seed: int) -> Regression:
    """Of numbers and targets (N, ...)."""
    before, after, targets = (
        tensor.double().flatten(1).numpy() if tensor.ndim > 1 else tensor.double()[:, None].numpy()
        for tensor in (head.baseline, head.outputs, head.targets)
    )
    errors = before - targets, after - targets
    absolute = [np.abs(error).mean(axis=1) for error in errors]
    moved = np.abs(after - before)
    return Regression(
        head=head.name,
        read_as=head.read_as,
        samples=len(targets),
        bias_before=float(errors[0].mean()),
        bias_after=float(errors[1].mean()),
        absolute_error=difference(absolute[0], absolute[1], seed=seed),
        rmse_before=_rms(errors[0]),
        rmse_after=_rms(errors[1]),
        r2_before=_r2(errors[0], targets),
        r2_after=_r2(errors[1], targets),
        change_mean=float(moved.mean()),
        change_p99=float(np.quantile(moved, 0.99)),
        correlation=_correlation(before.ravel(), after.ravel()),
    )


def _rms(values: Floats) -> float:
    return float(np.sqrt((values**2).mean()))


def _r2(errors: Floats, targets: Floats) -> float | None:
    total = float(((targets - targets.mean(axis=0)) ** 2).sum())
    return 1 - float((errors**2).sum()) / total if total else None


def _correlation(first: Floats, second: Floats) -> float | None:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])
