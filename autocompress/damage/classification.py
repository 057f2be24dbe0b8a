"""Damage to a classifier: also by class, where an average hides what one group of users loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from autocompress.damage.answers import AnswerChange, Answers, answer_change, compare_answers
from autocompress.damage.heads import PADDING, Head
from autocompress.damage.statistics import holm, mcnemar_p


@dataclass(frozen=True)
class ClassChange:
    """One class's accuracy (its recall) before and after."""

    label: int
    samples: int
    before: float
    after: float
    p_value: float
    """Of the exact paired test (McNemar 1947)."""
    p_holm: float
    """The same, corrected for the number of classes (Holm 1979)."""

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Classification:
    """Damage to one answer a sample."""

    kind: ClassVar[str] = "classification"
    head: str
    read_as: str
    answers: AnswerChange
    absent_classes: int
    """Classes of the outputs that no target has."""
    classes: tuple[ClassChange, ...]

    @property
    def worst(self) -> ClassChange | None:
        """The class that lost most; None when none lost."""
        worst = min(self.classes, key=lambda item: (item.change, item.p_value))
        return worst if worst.change < 0 else None


def classification(head: Head, margin: float | None, seed: int) -> Classification:
    """Of logits (N, C) and classes (N,)."""
    judged = head.targets != PADDING
    answers = compare_answers(head.baseline[judged], head.outputs[judged], head.targets[judged])
    changes = class_changes(answers)
    return Classification(
        head=head.name,
        read_as=head.read_as,
        answers=answer_change(answers, None, margin, seed),
        absent_classes=head.baseline.shape[1] - len(changes),
        classes=changes,
    )


def class_changes(answers: Answers) -> tuple[ClassChange, ...]:
    """Each class that some target has, in order."""
    labels, place = np.unique(answers.targets, return_inverse=True)
    samples = np.bincount(place)
    right = [np.bincount(place, weights=side.right) for side in (answers.before, answers.after)]
    losses, gains = (np.bincount(place, weights=answers.gained == sign) for sign in (-1, 1))
    p_values = [mcnemar_p(int(lost), int(won)) for lost, won in zip(losses, gains, strict=True)]
    corrected = holm(p_values)
    return tuple(
        ClassChange(
            label=int(label),
            samples=int(samples[i]),
            before=float(right[0][i] / samples[i]),
            after=float(right[1][i] / samples[i]),
            p_value=p_values[i],
            p_holm=corrected[i],
        )
        for i, label in enumerate(labels)
    )
