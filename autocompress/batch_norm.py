"""Batch norm's running statistics, once more from the training data."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.data import batch_rows, loader_of
from autocompress.measure.lock import DeviceLock
from autocompress.task import Task
from autocompress.tensors import call, to_device

SAMPLES = 2048
"""Training samples that are looked at, or all where there are fewer; without any, those of the calibration data."""
BATCH_SIZE = 64


@torch.no_grad()
def recalibrate(model: nn.Module, task: Task, *, device: torch.device, lock: DeviceLock, seed: int = 0) -> int:
    """Measures mean and variance of each batch norm again, in place; returns how many it measured.

    A model that lost channels gives its layers other inputs than those that the statistics were taken of, and scored
    with the old ones it seems worse than it is: Li et al. 2017, "Revisiting Batch Normalization For Practical Domain
    Adaptation"; Li et al. 2020, "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning". All other
    layers stay in eval mode, dropout too; the mean over the batches is taken, none weighs more. Batch norms that the
    model's own `train()` leaves in eval mode are frozen, and stay as they are. The model comes back in eval mode.
    """
    norms, data = _running(model), task.train if task.has_training else task.calibration
    if not norms or data is None:
        return 0
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    rows = batch_rows(data, BATCH_SIZE, shuffle=True, seed=seed)[: SAMPLES // BATCH_SIZE]
    for inputs, _ in loader_of(data, rows, task.collate):
        with lock.shared():
            call(model, to_device(inputs, device))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    print(f"{len(norms)} batch norms recalibrated on {sum(map(len, rows))} samples")
    return len(norms)


def _running(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms whose running statistics training would change."""
    model.train()
    found = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    model.eval()
    return found
