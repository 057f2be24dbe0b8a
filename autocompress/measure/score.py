"""Everything a trial is judged by."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from autocompress.measure.accuracy import evaluate
from autocompress.measure.device import Target
from autocompress.measure.latency import Latency, measure_latency
from autocompress.task import Task


class NotANumber(ValueError):
    """A score is NaN or infinite."""


def score(
    model: nn.Module, baseline: nn.Module, size_bytes: int, inputs: Any, task: Task, target: Target, seconds: float
) -> tuple[dict[str, float], Latency]:
    """The scores of what ships, and the samples behind the latency. Raises NotANumber, naming the score."""
    scores = evaluate(model, task.validation, task, target)
    check_finite(scores)
    latency = measure_latency(model, baseline, inputs, target, seconds)
    scores["size_bytes"] = size_bytes
    for name in ("latency_ms", "speedup", "speedup_low", "speedup_high"):
        scores[name] = getattr(latency, name)
    check_finite(scores)
    return scores, latency


def check_finite(scores: dict[str, float]) -> None:
    for name, value in scores.items():
        if not math.isfinite(value):
            raise NotANumber(f"{name} must be a finite number, but is {value}")
