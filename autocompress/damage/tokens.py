"""Damage to a language model, token by token, and to whatever gives many answers a sample.

There is no table by class: a vocabulary has thousands, most of them seen a handful of times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from autocompress.damage.answers import AnswerChange, answer_change, by_unit, compare_answers, unit_sizes
from autocompress.damage.heads import PADDING, Head
from autocompress.damage.statistics import Difference, difference


@dataclass(frozen=True)
class Tokens:
    """Damage to many answers a sample; intervals are over sequences, whose tokens are not independent."""

    kind: ClassVar[str] = "tokens"
    head: str
    read_as: str
    sequences: int
    answers: AnswerChange
    bits: Difference
    """Bits a token: the negative log-likelihood in base 2."""
    perplexity_ratio: float
    perplexity_ratio_low: float
    perplexity_ratio_high: float
    """The model's perplexity by the baseline's: above 1 is worse."""


def tokens(head: Head, margin: float | None, seed: int) -> Tokens:
    """Of logits (N, ..., C) and classes (N, ...), of which -100 is padding."""
    judged = head.targets != PADDING
    answers = compare_answers(head.baseline[judged], head.outputs[judged], head.targets[judged])
    first = torch.arange(len(judged)).view(-1, *[1] * (judged.ndim - 1))
    sequence = first.expand_as(judged)[judged].numpy()
    nats = [by_unit(side.nll, sequence) for side in (answers.before, answers.after)]
    sizes = unit_sizes(sequence)
    bits = difference(nats[0] / math.log(2), nats[1] / math.log(2), sizes, seed)
    return Tokens(
        head=head.name,
        read_as=head.read_as,
        sequences=len(sizes),
        answers=answer_change(answers, sequence, margin, seed),
        bits=bits,
        perplexity_ratio=_power(bits.change),
        perplexity_ratio_low=_power(bits.low),
        perplexity_ratio_high=_power(bits.high),
    )


def _power(bits: float) -> float:
    """2 to the power of the bits, and the largest number where that is too large."""
    return float(np.exp2(min(bits, 1023.0)))
