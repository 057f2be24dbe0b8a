"""Quality on a split: the task's metrics over all of it."""

from __future__ import annotations

import torch
from torch import nn

from autocompress.data import Samples, batches
from autocompress.measure.device import DeviceLock, Target
from autocompress.task import Task
from autocompress.tensors import call, concatenate, to_device

BATCH_SIZE = 256


def evaluate(model: nn.Module, data: Samples, task: Task, target: Target) -> dict[str, float]:
    """Each of the task's metrics by name, over the whole split."""
    device, lock = target.torch_device, DeviceLock(target)
    outputs, targets = [], []
    model.eval()
    with torch.inference_mode():
        for inputs, wanted in batches(data, BATCH_SIZE, collate=task.collate):
            with lock.shared():
                outputs.append(to_device(call(model, to_device(inputs, device)), torch.device("cpu")))
            targets.append(wanted)
    joined, wanted = concatenate(outputs), concatenate(targets)
    return {metric.name: float(metric.function(joined, wanted)) for metric in task.metrics}
