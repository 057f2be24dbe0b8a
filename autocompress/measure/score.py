"""Everything a trial is judged by."""

from __future__ import annotations

from torch import nn

from autocompress.measure.accuracy import check_finite, evaluate
from autocompress.measure.device import Target
from autocompress.measure.latency import Latency, measure_latency
from autocompress.task import Task


def score(
    model: nn.Module, baseline: nn.Module, size_bytes: int, task: Task, target: Target, seconds: float
) -> tuple[dict[str, float], Latency]:
    """The scores of what ships, and the samples behind the latency. Raises NotANumber, naming the score."""
    scores = evaluate(model, task.validation, task, target)
    latency = measure_latency(model, baseline, task.inputs(target.batch_size), target, seconds)
    scores["size_bytes"] = size_bytes
    for name in ("latency_ms", "baseline_latency_ms", "speedup", "speedup_low", "speedup_high", "resolution"):
        scores[name] = getattr(latency, name)
    check_finite(scores)
    return scores, latency
