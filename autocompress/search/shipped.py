"""What a trial left to ship: an artifact for each device, how it is loaded again, and what it scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.artifact import load_model, shipped_bytes
from autocompress.folders import device_folder
from autocompress.limits import target_suffix
from autocompress.measure.accuracy import check_finite, evaluate
from autocompress.measure.device import Target
from autocompress.measure.latency import Latency, measure_latency
from autocompress.metric import Metric
from autocompress.plugins import registry
from autocompress.task import Task

SCORED = ("latency_ms", "baseline_latency_ms", "speedup", "speedup_low", "speedup_high")
"""What of a latency is a score of the trial."""


def by_device(targets: Sequence[Target]) -> list[list[Target]]:
    """The targets of each device, the first target's device first."""
    groups: dict[str, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.device, []).append(target)
    return list(groups.values())


def load_shipped(folder: Path, student: str | None, task: Task, targets: Sequence[Target]) -> dict[str, nn.Module]:
    """The models that a trial's folder holds, by device, from what was saved."""
    return {
        first.device: load_model(
            device_folder(folder, first.device, targets[0].device),
            task.source(student),
            registry(),
            first,
            native_code=True,  # this search compiled it
        )
        for first, *_ in by_device(targets)
    }


def score_shipped(
    models: Mapping[str, nn.Module],
    baselines: Mapping[str, nn.Module],
    task: Task,
    targets: Sequence[Target],
    seconds: float,
) -> tuple[dict[str, float], dict[str, Latency]]:
    """Quality on the validation split, the worst of all devices, and the latency on each target.

    Raises NotANumber, naming the score.
    """
    scores = worst(
        [evaluate(models[first.device], task.validation, task, first) for first, *_ in by_device(targets)], task.metrics
    )
    latencies = {str(target): latency(models, baselines, task, target, seconds) for target in targets}
    return {**scores, **latency_scores(latencies)}, latencies


def latency(
    models: Mapping[str, nn.Module], baselines: Mapping[str, nn.Module], task: Task, target: Target, seconds: float
) -> Latency:
    inputs = task.inputs(target.batch_size)
    return measure_latency(models[target.device], baselines[target.device], inputs, target, seconds)


def latency_scores(latencies: Mapping[str, Latency]) -> dict[str, float]:
    """The figures of each target by name, which of all but the first ends in the target."""
    targets = list(latencies)
    scores = {
        f"{name}{target_suffix(target, targets)}": getattr(latencies[target], name)
        for target in targets
        for name in SCORED
    }
    check_finite(scores)
    return scores


def largest_bytes(folder: Path, targets: Sequence[Target]) -> int:
    """Bytes on disk of the files that must ship to a device, of the largest where they differ."""
    folders = [device_folder(folder, first.device, targets[0].device) for first, *_ in by_device(targets)]
    return max(map(shipped_bytes, folders))


def worst(scores: Sequence[Mapping[str, float]], metrics: Sequence[Metric]) -> dict[str, float]:
    """Of each metric the worst of several evaluations."""
    return {
        metric.name: (min if metric.higher_is_better else max)(score[metric.name] for score in scores)
        for metric in metrics
    }


def plain(latencies: Mapping[str, Latency]) -> dict[str, Any]:
    """With the raw samples, by target."""
    return {target: latency.plain() for target, latency in latencies.items()}
