"""Damage to recommendations: lists of the ten items with the highest scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from autocompress.damage.answers import Integers
from autocompress.damage.heads import LIST_LENGTH, PADDING, Head
from autocompress.damage.statistics import Difference, Floats, Verdict, difference, not_worse


@dataclass(frozen=True)
class Ranking:
    """Damage to lists of ten, of which one item is the target."""

    kind: ClassVar[str] = "ranking"
    head: str
    read_as: str
    lists: int
    overlap: float
    """Mean share of the baseline's list that is on the model's, whatever the order."""
    same_first: float
    """Share of lists whose first item is the baseline's."""
    negative_flips: float
    """Share of lists that lost the target."""
    hit_rate: Difference
    """Share of lists that hold the target: HR@10."""
    ndcg: Difference
    """NDCG@10 with one relevant item: 1 / log2(1 + its place), 0 where the list has it not (Järvelin 2002)."""
    coverage_before: float
    coverage_after: float
    """Share of all items that are on any list (Ge et al. 2010)."""
    gini_before: float
    gini_after: float
    """How unevenly items are recommended: 0 all alike, near 1 always the same few (Shani & Gunawardana 2011)."""
    verdict: Verdict | None
    """Whether HR@10 is not worse than by the margin; None without a margin."""


def ranking(head: Head, margin: float | None, seed: int) -> Ranking:
    """Of scores (N, items) and items (N,)."""
    judged = head.targets != PADDING
    before, after = (_lists(scores[judged]) for scores in (head.baseline, head.outputs))
    targets, items = head.targets[judged].numpy(), head.baseline.shape[1]
    gains = [_gain(lists, targets) for lists in (before, after)]
    hits = [(gain > 0).astype(np.float64) for gain in gains]
    hit_rate = difference(hits[0], hits[1], seed=seed)
    losses, won = int((hits[0] > hits[1]).sum()), int((hits[1] > hits[0]).sum())
    count = len(targets)
    return Ranking(
        head=head.name,
        read_as=head.read_as,
        lists=count,
        overlap=float((before[:, :, None] == after[:, None, :]).any(axis=2).mean()),
        same_first=float((before[:, 0] == after[:, 0]).mean()),
        negative_flips=losses / count,
        hit_rate=hit_rate,
        ndcg=difference(gains[0], gains[1], seed=seed),
        coverage_before=len(np.unique(before)) / items,
        coverage_after=len(np.unique(after)) / items,
        gini_before=gini(before, items),
        gini_after=gini(after, items),
        verdict=None if margin is None else not_worse(hit_rate, margin, count, losses, won, independent=True),
    )


def gini(lists: Integers, items: int) -> float:
    """Of how often each of the items is recommended."""
    counts = np.sort(np.bincount(lists.ravel(), minlength=items))
    ranks = np.arange(1, items + 1)
    return float(((2 * ranks - items - 1) * counts).sum() / (items * counts.sum()))


def _lists(scores: Tensor) -> Integers:
    """Items by falling score (N, 10); ties fall as in `torch.topk`."""
    lists: Integers = scores.topk(LIST_LENGTH, dim=1).indices.numpy()
    return lists


def _gain(lists: Integers, targets: Integers) -> Floats:
    gains: Floats = ((lists == targets[:, None]) / np.log2(np.arange(2, LIST_LENGTH + 2))).sum(axis=1)
    return gains
