"""Distillation from the teacher's decisions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Subset

from autocompress import Loss, NotApplicable, Parameter, Plan, Target, Task
from autocompress.data import batches
from autocompress_distillation.logits import WEIGHT, LogitLoss, LogitMethod
from autocompress_distillation.memory import reads_the_same
from autocompress_distillation.outputs import IGNORED, Lesson, Logits
from autocompress_distillation.teacher import Teachers, has_unlabelled

_COMPARED, _BATCH_SIZE = 32, 16


class HardLabels(LogitMethod):
    """Trains towards the class that the teacher gives each sample, mixed with the task's own loss.

    Worth its name only where labels are noisy, or the samples augmented or without labels: a teacher that fits the
    labels of its own training data repeats them, and this is then plain training. Lee 2013, "Pseudo-Label".
    """

    name = "hard_labels"

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`weight`: of the teacher's labels; the rest is the task's own loss."""
        return {"weight": WEIGHT}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable without class logits, or when the teacher has nothing to add to the labels."""
        super().check(task, target)
        if not has_unlabelled(task) and reads_the_same(task) and _agrees(task):
            raise NotApplicable(
                f"{self.name} needs a teacher that says something else than the labels, but it agrees with those of"
                f" {min(_COMPARED, len(task.train))} training samples, which are not augmented: give `unlabelled` data"
            )

    def loss(self, plan: Plan, task: Task) -> Loss:
        return HardLabelLoss(task, plan["weight"])


class HardLabelLoss(LogitLoss):
    """Cross entropy with the teacher's most likely class."""

    def distance(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        return functional.cross_entropy(student, teacher.argmax(dim=-1))


def _agrees(task: Task) -> bool:
    """Whether the teachers give a sample of the training data the very classes that are its targets."""
    rows = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0))[:_COMPARED].tolist()
    chosen: Subset[object] = Subset(task.train, rows)  # type: ignore[arg-type]
    places, teachers = Lesson.of(task).logits(), Teachers(task)
    for inputs, targets in batches(chosen, _BATCH_SIZE, collate=task.collate):
        answers = teachers(inputs, [logits.path for logits in places])
        if not all(_same(logits, logits.rows(answers), targets) for logits in places):
            return False
    return True


def _same(logits: Logits, answers: Tensor, targets: object) -> bool:
    classes = logits.classes(targets)
    return bool(((answers.argmax(dim=-1) == classes) | (classes == IGNORED)).all())
