"""The recovery: the training between reshape and finalize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.data import batch_rows, loader_of
from autocompress.measure.lock import DeviceLock
from autocompress.method import Loss, Schedule
from autocompress.recipe import Recovery
from autocompress.task import Task
from autocompress.tensors import call, to_device


class TaskLoss(Loss):
    """The task's own loss: labels alone."""

    def __init__(self, function: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Any, outputs: Any, targets: Any) -> Tensor:
        return self.function(outputs, targets)


def train(
    model: nn.Module,
    losses: Sequence[Loss],
    task: Task,
    recovery: Recovery,
    *,
    device: torch.device,
    seed: int = 0,
    lock: DeviceLock,
    schedules: Sequence[Schedule] = (),
) -> nn.Module:
    """The model after `recovery.epochs` of AdamW under a one-cycle schedule (Smith & Topin 2019), on `device`.

    The loss is the sum of `losses`; `schedules` hear how far the training is. What runs a model holds the device's lock
    shared, so that no latency is measured meanwhile: each step, and each loss when it is attached.
    Sets torch's global seed: the same call gives the same model.
    """
    model = model.to(device).train()
    for loss in losses:
        loss.to(device).eval().requires_grad_(False)
        with lock.shared():
            loss.attach(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recovery.learning_rate)
    steps = recovery.epochs * len(batch_rows(task.train, recovery.batch_size, shuffle=True))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recovery.learning_rate, total_steps=steps + 1)
    torch.manual_seed(seed)  # of dropout; the order of the data has a seed of its own
    for epoch in range(recovery.epochs):
        order = batch_rows(task.train, recovery.batch_size, shuffle=True, seed=seed + epoch)
        loader = loader_of(task.train, order, task.collate)
        total = torch.zeros((), device=device)
        for rows, (inputs, targets) in zip(order, loader, strict=True):
            for loss in losses:
                loss.rows = torch.tensor(rows)
            with lock.shared():
                for tell in schedules:
                    tell(schedule.last_epoch / steps)
                total += _step(model, losses, optimizer, to_device(inputs, device), to_device(targets, device))
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
            schedule.step()
        print(f"epoch {epoch + 1}/{recovery.epochs}: loss {total.item() / len(loader):.4f}")
    for tell in schedules:
        tell(1.0)
    for loss in losses:
        loss.detach()
    return model.eval()


def _step(
    model: nn.Module, losses: Sequence[Loss], optimizer: torch.optim.Optimizer, inputs: Any, targets: Any
) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    outputs = call(model, inputs)
    loss = torch.stack([term(inputs, outputs, targets) for term in losses]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()
