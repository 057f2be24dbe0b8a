"""The recovery: the training between reshape and finalize."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import OneCycleLR

from autocompress.checkpoint import (
    Checkpoint,
    load_optimizer,
    on_cpu,
    optimizer_state,
    put_back,
    random_state,
    restore_random,
)
from autocompress.data import batch_rows, loader_of
from autocompress.errors import InvalidInput
from autocompress.measure.lock import DeviceLock
from autocompress.measure.memory import free_memory_bytes
from autocompress.method import Loss, Schedule
from autocompress.recipe import Recovery
from autocompress.stall import Stall
from autocompress.task import Task
from autocompress.tensors import call, to_device
from autocompress.training_memory import fitted, training_memory


class TaskLoss(Loss):
    """The task's own loss: labels alone."""

    def __init__(self, function: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Any, outputs: Any, targets: Any) -> Tensor:
        return self.function(outputs, targets)


def no_schedules() -> Sequence[Schedule]:
    return ()


class Halted(Exception):
    """The training is as far as was asked for, and can go on from there."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(f"after epoch {checkpoint.epochs}")
        self.checkpoint = checkpoint


def train(
    model: nn.Module,
    losses: Sequence[Loss],
    task: Task,
    recovery: Recovery,
    *,
    device: torch.device,
    seed: int = 0,
    lock: DeviceLock,
    schedules: Callable[[], Sequence[Schedule]] = no_schedules,
    start: Checkpoint | None = None,
    until: int | None = None,
) -> nn.Module:
    """The model after `recovery.epochs` of AdamW under a one-cycle schedule (Smith & Topin 2019), on `device`.

    The loss is the sum of `losses`; what `schedules` gives hears how far the training is. What runs a model holds the
    device's lock shared, so that no latency is measured meanwhile: each step, and each loss when it is attached.
    Sets torch's global seed: the same call gives the same model.

    On CUDA it is trained in mixed precision, with the batch size halved until the free memory is expected to do. When
    it is too small all the same, the model is trained once more from the start with half the batch size. When the
    training loss stalls, the rest of the schedule is run through in one epoch (see `Stall`), unless there are
    schedules, which count on theirs. All of it is said on stdout.

    It goes on from `start`, where one is given, to the same result as if it had never been halted (the same bits on a
    CPU). Raises Halted after the epoch `until`, with the model trained so far, unless it stalls; what schedules keep
    to themselves is not part of a checkpoint, so trainings with schedules are not to be halted.

    Raises InvalidInput for what cannot be trained.
    """
    check_trainable(model, task)
    model = model.to(device)
    before = on_cpu(_state(model), "model")
    training = _Training(model, losses, task, device, seed, lock, schedules, until)
    if start is not None:  # memory may have been short
        recovery = recovery.model_copy(update={"batch_size": start.state["batch_size"]})
    elif (free_bytes := free_memory_bytes(device)) is not None:
        with lock.shared():
            memory = training_memory(model, task, losses, mixed_precision(device))
        recovery = fitted(recovery, memory, free_bytes)
    try:
        return training.run(recovery, start)
    except torch.OutOfMemoryError:
        if recovery.batch_size == 1:
            raise
    # Outside the handler, whose traceback holds what filled the memory.
    smaller = recovery.model_copy(update={"batch_size": recovery.batch_size // 2})
    print(f"out of memory at batch size {recovery.batch_size}: once more from the start at {smaller.batch_size}")
    model.zero_grad(set_to_none=True)
    put_back(_state(model), "model", before)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return training.run(smaller)


def check_trainable(model: nn.Module, task: Task) -> None:
    """Raises InvalidInput for a model without free parameters, gradients that AdamW cannot take, or a single sample
    where a batch norm has to measure its variance.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        frozen = "all are frozen: unfreeze some (`requires_grad_()`), or"
        raise InvalidInput(
            "a training needs a model with parameters that it may change, but"
            f" {frozen if list(model.parameters()) else 'it has none:'} use methods that act after the training"
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse and module.weight.requires_grad:
            raise InvalidInput(
                f"AdamW takes no sparse gradients, but {name or 'the model'} gives them: set its `sparse` to False"
            )
    if len(task.train) < 2 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise InvalidInput(
            "a training of batch norms needs two samples or more, since one has no variance, but there is one"
        )


@dataclass(frozen=True)
class _Training:
    model: nn.Module
    losses: Sequence[Loss]
    task: Task
    device: torch.device
    seed: int
    lock: DeviceLock
    schedules: Callable[[], Sequence[Schedule]]
    until: int | None

    def run(self, recovery: Recovery, start: Checkpoint | None = None) -> nn.Module:
        self.model.train()
        try:
            for loss in self.losses:
                loss.to(self.device).eval().requires_grad_(False)
                with self.lock.shared():
                    loss.attach(self.model)
            self._epochs(recovery, self.schedules(), start)
        finally:
            for loss in self.losses:
                loss.detach()
        return self.model.eval()

    def _epochs(self, recovery: Recovery, schedules: Sequence[Schedule], start: Checkpoint | None) -> None:
        optimizer = Optimizer(self.model, self.losses, recovery.learning_rate, self.device)
        steps = recovery.epochs * len(self._order(recovery, 0))
        rate = OneCycleLR(optimizer.adam, recovery.learning_rate, total_steps=steps + 1)
        stall = Stall(recovery.epochs)
        torch.manual_seed(self.seed)  # of dropout; the order of the data has a seed of its own
        pace = 1  # steps of the learning rate for each step of the training
        if start is not None:
            self._restore(start, optimizer, rate, stall)
            if start.epochs == self.until:
                raise Halted(start)
        for epoch in range(0 if start is None else start.epochs, recovery.epochs):
            order = self._order(recovery, epoch)
            loader = loader_of(self.task.train, order, self.task.collate)
            total = torch.zeros((), device=self.device)
            for rows, (inputs, targets) in zip(order, loader, strict=True):
                for loss in self.losses:
                    loss.rows = torch.tensor(rows)
                with self.lock.shared():
                    for tell in schedules:
                        tell(rate.last_epoch / steps)
                    total += optimizer.step(to_device(inputs, self.device), to_device(targets, self.device))
                    if self.device.type == "cuda":
                        torch.cuda.synchronize(self.device)
                for _ in range(pace):
                    rate.step()
            mean = total.item() / len(order)
            print(f"epoch {epoch + 1}/{recovery.epochs}: loss {mean:.4f}")
            if pace > 1:
                break
            if not schedules and stall.after(epoch, mean):
                pace = recovery.epochs - epoch - 1
                print(f"{stall}: the learning rate goes down in one more epoch, which saves {pace - 1}")
            elif epoch + 1 == self.until:
                raise Halted(self._checkpoint(epoch + 1, recovery, optimizer, rate, stall))
        for tell in schedules:
            tell(1.0)

    def _checkpoint(
        self, epochs: int, recovery: Recovery, optimizer: Optimizer, rate: OneCycleLR, stall: Stall
    ) -> Checkpoint:
        moments, groups = optimizer_state(optimizer.adam)
        seeds, generators = random_state(self.device)
        state = {
            "epochs": epochs,
            "batch_size": recovery.batch_size,
            "groups": groups,
            "scaler": optimizer.scaler.state_dict(),
            "rate": rate.state_dict(),
            "stall": vars(stall),
            "random": generators,
        }
        return Checkpoint(on_cpu(_state(self.model), "model") | moments | seeds, copy.deepcopy(state))

    def _restore(self, start: Checkpoint, optimizer: Optimizer, rate: OneCycleLR, stall: Stall) -> None:
        state = copy.deepcopy(dict(start.state))
        put_back(_state(self.model), "model", start.tensors)
        load_optimizer(optimizer.adam, start.tensors, state["groups"])
        optimizer.scaler.load_state_dict(state["scaler"])
        rate.load_state_dict(state["rate"])
        vars(stall).update(state["stall"])
        restore_random(self.device, start.tensors, state["random"])

    def _order(self, recovery: Recovery, epoch: int) -> list[list[int]]:
        return batch_rows(self.task.train, recovery.batch_size, shuffle=True, seed=self.seed + epoch)


class Optimizer:
    """AdamW on the sum of the losses; on CUDA in mixed precision (Micikevicius et al. 2018)."""

    def __init__(self, model: nn.Module, losses: Sequence[Loss], learning_rate: float, device: torch.device) -> None:
        self.adam = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad], lr=learning_rate
        )
        self._model, self._losses, self._device = model, losses, device
        self._dtype = mixed_precision(device)
        # float16 alone has so narrow a range that gradients vanish in it unless the loss is scaled.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self._dtype is torch.float16)

    def step(self, inputs: Any, targets: Any) -> Tensor:
        """One step on a batch; gives its loss."""
        self.adam.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            outputs = call(self._model, inputs)
            loss = torch.stack([term(inputs, outputs, targets) for term in self._losses]).sum()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.adam)
        self.scaler.update()
        return loss.detach()


def mixed_precision(device: torch.device) -> torch.dtype | None:
    """The half precision of a training there: bfloat16 where the hardware computes in it, float16 on an older GPU.

    None on a CPU, which trains in the model's own precision.
    """
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _state(model: nn.Module) -> list[Tensor]:
    """All its tensors, also the buffers that no state dict holds."""
    return [*model.parameters(), *model.buffers()]
