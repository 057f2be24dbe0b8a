"""Quality on a split: the task's metrics over all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.data import Samples, batches
from autocompress.measure.device import Target
from autocompress.measure.lock import DeviceLock
from autocompress.metric import Metric
from autocompress.task import Task
from autocompress.tensors import call, concatenate, map_tensors, to_device

BATCH_SIZE = 256


class NotANumber(ValueError):
    """A score is NaN or infinite."""


@dataclass(frozen=True)
class Answers:
    """All outputs and targets of a split, on the CPU, joined along the first dimension."""

    outputs: Any
    targets: Any


def evaluate(model: nn.Module, data: Samples, task: Task, target: Target) -> dict[str, float]:
    """Each of the task's metrics by name, over the whole split.

    Raises NotANumber when an output holds NaN, since a metric may hide it (the argmax of NaN is a class).
    """
    return scores_of(answers(model, data, task, target), task.metrics)


def answers(model: nn.Module, data: Samples, task: Task, target: Target) -> Answers:
    """What the model answers to every sample of a split. Raises NotANumber when that holds NaN."""
    device, lock = target.torch_device, DeviceLock(target)
    outputs, targets = [], []
    model.eval()
    with torch.inference_mode():
        for inputs, wanted in batches(data, BATCH_SIZE, collate=task.collate):
            with lock.shared():
                outputs.append(to_device(call(model, to_device(inputs, device)), torch.device("cpu")))
            targets.append(wanted)
    joined = concatenate(outputs)
    map_tensors(_check_no_nan, joined)
    return Answers(joined, concatenate(targets, float_padding=-100))


def scores_of(found: Answers, metrics: Sequence[Metric]) -> dict[str, float]:
    """The metrics by name. Raises NotANumber, naming the metric."""
    scores = {metric.name: float(metric.function(found.outputs, found.targets)) for metric in metrics}
    check_finite(scores)
    return scores


def check_finite(scores: Mapping[str, float]) -> None:
    """Raises NotANumber, naming the score, when one is NaN or infinite."""
    for name, value in scores.items():
        if not math.isfinite(value):
            raise NotANumber(f"{name} must be a finite number, but is {value}")


def _check_no_nan(tensor: Tensor) -> Tensor:
    if tensor.isnan().any():
        raise NotANumber("the model's outputs must be numbers, but hold NaN")
    return tensor
