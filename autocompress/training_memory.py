"""The memory that a training takes, told from two small batches, so that its batch size can be chosen to fit."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import Subset

from autocompress.data import batches
from autocompress.recipe import Recovery
from autocompress.task import Task
from autocompress.tensors import call, map_tensors, to_device

FEW, MORE = 2, 4
"""Samples of the two batches: what they differ in is what samples take."""
LOOKED_AT = 64
"""Samples whose sizes are compared."""
COPIES = 4
"""Of each trained weight: itself, its gradient, and the two moments of AdamW."""
HEADROOM = 0.8
"""Share of the free memory that a training may be told to take: kernels need some, and the allocator leaves gaps."""


@dataclass(frozen=True)
class TrainingMemory:
    """What a training is expected to take of its device's memory."""

    fixed_bytes: int
    """Weights with their gradients and moments, buffers, and the teachers of its losses."""
    sample_bytes: int
    """What each sample of a batch leaves for the backward pass."""

    def at(self, batch_size: int) -> int:
        """In bytes."""
        return self.fixed_bytes + batch_size * self.sample_bytes

    def batch_size(self, wanted: int, free_bytes: int) -> int:
        """The wanted one, or halved until it fits what is free; 1 at least."""
        while wanted > 1 and self.at(wanted) > HEADROOM * free_bytes:
            wanted //= 2
        return wanted


def training_memory(
    model: nn.Module, task: Task, others: Iterable[nn.Module] = (), dtype: torch.dtype | None = None
) -> TrainingMemory:
    """What training a model takes beside other modules, where it is, in mixed precision with a `dtype`.

    Two forward passes of a copy count what autograd keeps, each storage once, of the largest sample that was looked at,
    since others are padded to its length. What a backward pass holds for a moment and what a distillation loss keeps of
    its own is not seen: `HEADROOM` is for these.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # reading a sample may draw
        row = _largest_sample(task)
        few, more = (_kept_bytes(copy.deepcopy(model).train(), task, [row] * n, device, dtype) for n in (FEW, MORE))
    sample_bytes = max(more - few, 0) // (MORE - FEW)
    fixed = sum(parameter.nbytes * (COPIES if parameter.requires_grad else 1) for parameter in model.parameters())
    fixed += sum(buffer.nbytes for buffer in model.buffers())
    fixed += sum(tensor.nbytes for other in others for tensor in (*other.parameters(), *other.buffers()))
    return TrainingMemory(fixed + max(few - FEW * sample_bytes, 0), sample_bytes)


def fitted(recovery: Recovery, memory: TrainingMemory, free_bytes: int) -> Recovery:
    """The recovery with a batch size that fits what is free; a smaller one is said on stdout."""
    size = memory.batch_size(recovery.batch_size, free_bytes)
    if size == recovery.batch_size:
        return recovery
    print(
        f"batch size {recovery.batch_size} would take about {memory.at(recovery.batch_size) / 1e9:.2g} GB"
        f" of the {free_bytes / 1e9:.2g} GB that are free: {size} in its place"
    )
    return recovery.model_copy(update={"batch_size": size})


def _kept_bytes(model: nn.Module, task: Task, rows: list[int], device: torch.device, dtype: torch.dtype | None) -> int:
    """What autograd keeps of a forward pass on these samples and the loss, beside the model's own tensors."""
    own = {_address(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.device == device and _address(tensor) not in own:
            kept[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor  # which keeps it, so that no other storage comes to its address

    some: Any = Subset(task.train, rows)  # type: ignore[arg-type]
    with (
        torch.enable_grad(),
        torch.autocast(device.type, dtype, enabled=dtype is not None),
        saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        inputs, targets = next(iter(batches(some, len(rows), collate=task.collate)))
        loss = task.loss(call(model, to_device(inputs, device)), to_device(targets, device))
    del loss
    return sum(kept.values())


def _largest_sample(task: Task) -> int:
    """Where the one with the most numbers is, among some from all over the training data."""
    count = min(LOOKED_AT, len(task.train))
    rows = [index * len(task.train) // count for index in range(count)]
    return max(rows, key=lambda row: _numbers(task.train[row][0]))


def _numbers(value: Any) -> int:
    """How many there are in nested tensors."""
    counts: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        counts.append(tensor.numel())
        return tensor

    map_tensors(note, value)
    return sum(counts)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
