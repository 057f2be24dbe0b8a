"""What all distillation losses share: the teachers, their answers, and the batches without labels."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autocompress import Loss, Task
from autocompress.data import Samples, batches
from autocompress.task import build
from autocompress.tensors import call, first_tensor, to_device
from autocompress_distillation.memory import Answers, remembered
from autocompress_distillation.outputs import Path, tensors_of


class Teachers(nn.Module):
    """The task's teachers, or else the trained model, which do not learn."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        models = [build(teacher).cpu() for teacher in task.teachers] or [task.trained_model()]
        self.models = nn.ModuleList(models).eval()

    @torch.no_grad()
    def forward(self, inputs: Any, paths: Sequence[Path]) -> Answers:
        """The mean of their outputs at these places."""
        answers = [tensors_of(call(model, inputs)) for model in self.models]
        return {path: torch.stack([answer[path] for answer in answers]).mean(dim=0) for path in paths}


class TeacherLoss(Loss):
    """`weight` x the distance from the teachers + `own_weight` x the task's own loss.

    With unlabelled data the distance is the mean of that on the batch and that on as many unlabelled inputs.
    """

    def __init__(self, task: Task, weight: float, own_weight: float, paths: Sequence[Path] = ()) -> None:
        """`paths` are the places of the outputs that the teachers are asked for."""
        super().__init__()
        self.task, self.weight, self.own_weight, self.paths = task, weight, own_weight, tuple(paths)
        self.teachers = Teachers(task)
        self._student: Callable[[Any], Any] | None = None
        self._known: Answers | None = None
        self._unlabelled: Iterator[Any] | None = None

    def teach(self, inputs: Any, outputs: Any, targets: Any | None, rows: Tensor | None) -> Tensor:
        """The distance, a scalar. Unlabelled inputs have neither targets nor rows in the training data."""
        raise NotImplementedError

    def attach(self, model: nn.Module) -> None:
        self._student = functools.partial(call, model)  # which no submodule of this loss may be
        if self.paths:
            device = next(model.parameters()).device
            known = remembered(self.task, functools.partial(self.teachers, paths=self.paths), self.paths, device)
            self._known = known and {path: answers.to(device) for path, answers in known.items()}

    def detach(self) -> None:
        self._student = self._known = self._unlabelled = None

    def forward(self, inputs: Any, outputs: Any, targets: Any) -> Tensor:
        distance = self.teach(inputs, outputs, targets, self.rows)
        if self._student and has_unlabelled(self.task):
            more = self._more(inputs)
            distance = (distance + self.teach(more, self._student(more), None, None)) / 2
        return self.weight * distance + self.own_weight * self.task.loss(outputs, targets)

    def answers(self, inputs: Any, rows: Tensor | None) -> Answers:
        """What the teachers give at `paths`: from memory where that has the training data's rows."""
        if self._known is not None and rows is not None:
            return {path: answers[rows] for path, answers in self._known.items()}
        asked: Answers = self.teachers(inputs, self.paths)
        return asked

    def _more(self, inputs: Any) -> Any:
        """As many unlabelled inputs as these, on their device."""
        example = first_tensor(inputs)
        if self._unlabelled is None:
            self._unlabelled = unlabelled_batches(self.task, len(example))
        return to_device(next(self._unlabelled), example.device)


def has_unlabelled(task: Task) -> bool:
    return task.unlabelled is not None and len(task.unlabelled) > 0


def unlabelled_batches(task: Task, batch_size: int) -> Iterator[Any]:
    """Batches of the unlabelled inputs without end, in an order that is new in each epoch and the same each time."""
    assert task.unlabelled is not None
    # The user's `collate` knows pairs only: any target will do.
    pairs = _Pairs(task.unlabelled, target=task.train[0][1])
    for epoch in itertools.count():
        for inputs, _ in batches(pairs, batch_size, shuffle=True, seed=epoch, collate=task.collate):
            yield inputs


class _Pairs:
    """Inputs, each with the same target."""

    def __init__(self, inputs: Samples, target: Any) -> None:
        self._inputs, self._target = inputs, target

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> Any:
        return self._inputs[index], self._target
