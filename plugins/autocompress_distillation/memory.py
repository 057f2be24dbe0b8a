"""The teachers' answers to all training samples, asked for once in a process."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from autocompress import Task
from autocompress.data import batches
from autocompress.effect import output_error
from autocompress.tensors import concatenate, to_device
from autocompress_distillation.outputs import Path, tensors_of

Answers = dict[Path, Tensor]
"""Outputs of the teachers by place (B, ...)."""

LIMIT_BYTES = 256 * 2**20
"""Answers that are larger are asked for again in each step."""

_PROBED = 32
_BATCH_SIZE = 64

_memory: dict[int, dict[tuple[Any, ...], Answers | None]] = {}
"""By the task's identity, since tasks need not be hashable, and for as long as it lives."""


def remembered(
    task: Task, ask: Callable[[Any], Answers], paths: Sequence[Path], device: torch.device
) -> Answers | None:
    """`ask` of all training samples (len(train), ...), on the CPU; from memory after the first time.

    None where it cannot stand for asking again: the answers are too large, or a sample's answer is not always the same
    because its reading is random or its batch has a say in it (padding).
    """
    if id(task) not in _memory:
        _memory[id(task)] = {}
        weakref.finalize(task, _memory.pop, id(task), None)
    known, key = _memory[id(task)], (tuple(paths), device)
    if key not in known:

        def ask_there(inputs: Any) -> Answers:
            return {path: answer.cpu() for path, answer in ask(to_device(inputs, device)).items()}

        known[key] = _ask_all(task, ask_there) if _may_be_kept(task, ask_there) else None
    return known[key]


def reads_the_same(task: Task) -> bool:
    """Whether training samples give the same inputs when they are read again: not so where they are augmented."""
    rows = _probed_rows(task)
    once, again = (tensors_of(_read(task, rows)) for _ in range(2))
    return once.keys() == again.keys() and all(torch.equal(once[path], again[path]) for path in once)


def _may_be_kept(task: Task, ask: Callable[[Any], Answers]) -> bool:
    if not reads_the_same(task):
        return False
    rows = _probed_rows(task)
    half = (len(rows) + 1) // 2
    together, apart = ask(_read(task, rows)), ask(_read(task, rows[:half]))
    same_in_another_batch = output_error(
        list(apart.values()), [answer[:half] for answer in together.values()]
    )  # a matrix product's last bits may depend on the batch size
    each = sum(answer.nbytes for answer in together.values()) / len(rows)
    return same_in_another_batch < 1e-3 and each * len(task.train) <= LIMIT_BYTES


def _ask_all(task: Task, ask: Callable[[Any], Answers]) -> Answers | None:
    """In one order and batch size, so that answers do not depend on which recipe came first."""
    found: list[Answers] = []
    for inputs, _ in batches(task.train, _BATCH_SIZE, collate=task.collate):
        found.append(ask(inputs))
        if any(found[-1][path].shape[1:] != first.shape[1:] for path, first in found[0].items()):
            return None  # padded to another length than the samples before
    answers: Answers = concatenate(found)
    return answers if all(len(answer) == len(task.train) for answer in answers.values()) else None


def _probed_rows(task: Task) -> list[int]:
    """The same few samples each time, from all over the training data."""
    rows: list[int] = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0))[:_PROBED].tolist()
    return rows


def _read(task: Task, rows: list[int]) -> Any:
    chosen: Any = Subset(task.train, rows)  # type: ignore[arg-type]
    inputs, _ = next(iter(batches(chosen, len(rows), collate=task.collate)))
    return inputs
