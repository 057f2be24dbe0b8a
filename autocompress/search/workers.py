"""How many trials run at a time, and the share of a GPU that each is given."""

from __future__ import annotations

import os
from dataclasses import replace

from autocompress.measure.device import Target
from autocompress.measure.nvml import Gpu
from autocompress.parameters import Choice
from autocompress.search.settings import Settings
from autocompress.space import BoundSpace
from autocompress.training_memory import HEADROOM, TrainingMemory, training_memory

MOST_ON_GPU = 4
"""Trials at a time on a GPU, unless told otherwise: kernels wait for each other, and all wait for who measures."""
PROCESS_BYTES = 10**9
"""What a process takes of a GPU beside its tensors: CUDA's context and libraries."""
SMALLEST_SHARE = 0.01
"""Of a GPU: there are never more trials on it."""


def with_workers(settings: Settings, space: BoundSpace) -> Settings:
    """With the number of trials at a time, if that was not said, and the share of the GPU that each takes.

    On a CPU as many as leave each its threads. On a GPU as many as fit its free memory, each with the largest batch of
    the space and the untouched model, and at most 4; one where the driver does not tell what is free.
    """
    target = settings.target
    if not target.is_cuda:
        return replace(settings, workers=settings.workers or default_workers(target))
    if settings.task.has_training:
        memory = training_memory(settings.task.trained_model(), settings.task)
    else:
        memory = TrainingMemory(0, 0)
    fits = trials_that_fit(memory, _largest_batch(space), _free_bytes(target))
    return replace(
        settings, workers=settings.workers or min(fits, MOST_ON_GPU, os.cpu_count() or 1), gpu_share=1 / fits
    )


def default_workers(target: Target) -> int:
    """On a CPU: as many as leave each its threads."""
    return max(1, (os.cpu_count() or 1) // target.threads)


def trials_that_fit(memory: TrainingMemory, batch_size: int, free_bytes: int | None) -> int:
    """How many trainings the free memory of a GPU holds at a time; one where that is not known."""
    if free_bytes is None:
        return 1
    each = PROCESS_BYTES + memory.at(batch_size)
    return min(max(1, int(HEADROOM * free_bytes / each)), round(1 / SMALLEST_SHARE))


def _largest_batch(space: BoundSpace) -> int:
    batch = space.recovery["batch_size"]
    return int(max(batch.options) if isinstance(batch, Choice) else batch.high)


def _free_bytes(target: Target) -> int | None:
    try:
        return Gpu(target).free_bytes()
    except OSError:
        return None
