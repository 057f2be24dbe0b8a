"""What two models answer to the same questions: who is right, how sure, and how far apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autocompress.damage.statistics import Difference, Floats, Verdict, difference, not_worse

BINS = 15
CHUNK = 4_000_000
"""Logits that are turned to float64 at once."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class AnswerChange:
    """How the answers of a classifier, or of a language model token by token, changed with compression."""

    answers: int
    agreement: float
    """Share of answers that are the baseline's."""
    negative_flips: float
    """Share of answers that were right and became wrong (Yan et al. 2021)."""
    positive_flips: float
    """Share that was wrong and became right."""
    kl_mean: float
    kl_p99: float
    """Kullback-Leibler divergence from the baseline's probabilities to the model's, in nats an answer."""
    ece_before: float
    ece_after: float
    """Expected calibration error in 15 bins of confidence, 0-1 (Guo et al. 2017)."""
    nll_before: float
    nll_after: float
    """Mean negative log-likelihood of the targets, in nats."""
    accuracy: Difference
    verdict: Verdict | None
    """Whether accuracy is not worse than by the margin; None without a margin."""


@dataclass(frozen=True)
class Side:
    """One model's answers to R questions, each (R,)."""

    answer: Integers
    right: NDArray[np.bool_]
    confidence: Floats
    """Probability of its own answer."""
    nll: Floats
    """Negative log-likelihood of the target."""


@dataclass(frozen=True)
class Answers:
    """Both models' answers to R questions."""

    targets: Integers
    before: Side
    after: Side
    kl: Floats
    """(R,)"""

    @property
    def gained(self) -> Floats:
        """+1 for wrong that became right, -1 for right that became wrong, else 0 (R,)."""
        return self.after.right.astype(np.float64) - self.before.right


def compare_answers(baseline: Tensor, logits: Tensor, targets: Tensor) -> Answers:
    """Of logits (R, C) and classes (R,); computed in float64. Infinite logits, as masks are, count as the largest."""
    rows = max(1, CHUNK // logits.shape[1])
    chunks = [slice(start, start + rows) for start in range(0, len(targets), rows)]
    parts = [_answers(baseline[chunk], logits[chunk], targets[chunk]) for chunk in chunks]
    joined = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    before, after = (
        Side(joined[f"{side}_answer"], joined[f"{side}_right"], joined[f"{side}_confidence"], joined[f"{side}_nll"])
        for side in ("before", "after")
    )
    return Answers(targets.long().numpy(), before, after, joined["kl"])


def answer_change(answers: Answers, sequence: Integers | None, margin: float | None, seed: int) -> AnswerChange:
    """The figures; `sequence` (R,) says which of the answers hang together, None that all are independent."""
    gained, before, after = answers.gained, answers.before, answers.after
    units = np.arange(len(gained)) if sequence is None else sequence
    sizes = unit_sizes(units)
    accuracy = difference(by_unit(before.right, units), by_unit(after.right, units), sizes, seed)
    losses, gains = int((gained < 0).sum()), int((gained > 0).sum())
    verdict = None
    if margin is not None:
        verdict = not_worse(accuracy, margin, len(sizes), losses, gains, independent=sequence is None)
    return AnswerChange(
        answers=len(gained),
        agreement=float((before.answer == after.answer).mean()),
        negative_flips=losses / len(gained),
        positive_flips=gains / len(gained),
        kl_mean=float(answers.kl.mean()),
        kl_p99=float(np.quantile(answers.kl, 0.99)),
        ece_before=calibration_error(before.confidence, before.right),
        ece_after=calibration_error(after.confidence, after.right),
        nll_before=float(before.nll.mean()),
        nll_after=float(after.nll.mean()),
        accuracy=accuracy,
        verdict=verdict,
    )


def by_unit(values: NDArray[np.bool_] | Floats, units: Integers) -> Floats:
    """Sums (N,) over the answers (R,) of each unit that has any."""
    sums = np.bincount(units, weights=values).astype(np.float64)
    return sums[np.bincount(units) > 0]


def unit_sizes(units: Integers) -> Floats:
    """How many answers each unit has (N,)."""
    sizes = np.bincount(units)
    return sizes[sizes > 0].astype(np.float64)


def calibration_error(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """Mean distance between confidence and accuracy over equal bins (low, high] of confidence."""
    places = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(places, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _answers(baseline: Tensor, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    before, after = _log_probabilities(baseline), _log_probabilities(logits)
    found = {"kl": (before.exp() * (before - after)).sum(dim=1).clamp_min(0)}
    for name, own, log_probabilities in (("before", baseline, before), ("after", logits, after)):
        answer = own.argmax(dim=1)  # of the logits themselves: near ones may be one number as log-probabilities
        found[f"{name}_answer"], found[f"{name}_right"] = answer, answer == targets
        found[f"{name}_confidence"] = log_probabilities.gather(1, answer[:, None])[:, 0].exp()
        found[f"{name}_nll"] = -log_probabilities.gather(1, targets.long()[:, None])[:, 0]
    return found


def _log_probabilities(logits: Tensor) -> Tensor:
    largest = torch.finfo(torch.float32).max
    return logits.double().clamp(-largest, largest).log_softmax(dim=1)
