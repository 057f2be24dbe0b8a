"""How much of each metric of the task is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autocompress.metric import Metric


@dataclass(frozen=True)
class Retention:
    """One metric before and after."""

    metric: str
    before: float
    after: float
    retention: float | None
    """After by before, or before by after where lower is better: 1 is all, above 1 is a gain. None: see `reason`."""
    reason: str = ""
    """Why there is no ratio."""


def retention(metric: Metric, baseline_outputs: Any, outputs: Any, targets: Any) -> Retention:
    """Of a whole split's outputs."""
    before, after = (float(metric.function(out, targets)) for out in (baseline_outputs, outputs))
    first, second = (after, before) if metric.higher_is_better else (before, after)
    if before < 0 or after < 0 or second == 0:
        return Retention(metric.name, before, after, None, "no ratio of numbers that are zero or negative")
    return Retention(metric.name, before, after, first / second)


def worst(retentions: Sequence[Retention]) -> Retention | None:
    """The metric of which least is left, among those that have a ratio."""
    return min((item for item in retentions if item.retention is not None), key=_left, default=None)


def _left(item: Retention) -> float:
    return math.inf if item.retention is None else item.retention
