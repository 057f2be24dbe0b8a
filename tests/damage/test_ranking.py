"""Lists of ten against scikit-learn and plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, top_k_accuracy_score
from torch import Tensor
from torch.nn import functional

from autocompress.damage import Classification, Ranking, damage
from autocompress.damage.ranking import gini
from autocompress.metric import Metric
from tests.damage.logits import case

HIT_RATE = Metric("hit_rate", lambda scores, targets: 0.0)


def judged(baseline: Tensor, outputs: Tensor, targets: Tensor, margin: float | None = None) -> Ranking:
    (head,) = damage(baseline, outputs, targets, [], margin, ranking=True).heads
    assert isinstance(head, Ranking)
    return head


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(11, 80), st.sampled_from([0.1, 2.0]), st.integers(0, 10_000))
def test_the_figures_are_those_of_other_packages(samples: int, items: int, noise: float, seed: int) -> None:
    baseline, outputs, targets = case(samples, items, 0.3, noise, seed)
    head = judged(baseline, outputs, targets)
    for side, scores in (("before", baseline), ("after", outputs)):
        wanted = functional.one_hot(targets, items)
        assert getattr(head.ndcg, side) == pytest.approx(ndcg_score(wanted, scores, k=10))
        assert getattr(head.hit_rate, side) == pytest.approx(
            top_k_accuracy_score(targets, scores, k=10, labels=range(items))
        )
    lists = [np.argsort(-scores.numpy(), axis=1)[:, :10].tolist() for scores in (baseline, outputs)]
    shared = [len(set(old) & set(new)) / 10 for old, new in zip(*lists, strict=True)]
    assert head.overlap == pytest.approx(np.mean(shared))
    assert head.same_first == pytest.approx(np.mean([old[0] == new[0] for old, new in zip(*lists, strict=True)]))
    assert head.coverage_before == pytest.approx(len(set(itertools.chain(*lists[0]))) / items)
    assert head.coverage_after == pytest.approx(len(set(itertools.chain(*lists[1]))) / items)
    lost = [target in old and target not in new for old, new, target in zip(*lists, targets.tolist(), strict=True)]
    assert head.negative_flips == pytest.approx(np.mean(lost))
    assert head.ndcg.low - 1e-12 <= head.ndcg.change <= head.ndcg.high + 1e-12


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_gini_is_half_the_mean_difference_by_the_mean(recommended: list[int]) -> None:
    counts = np.bincount(recommended, minlength=10).astype(float)
    expected = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    assert gini(np.array(recommended)[:, None], 10) == pytest.approx(expected)


def test_a_model_that_recommends_the_same_to_all() -> None:
    baseline, _, targets = case(500, 50, 0.3, 0.0, 0)
    same = torch.arange(50.0).expand(500, 50)
    head = judged(baseline, same, targets, margin=0.01)
    assert head.coverage_after == pytest.approx(10 / 50)
    assert head.gini_before < 0.3 < head.gini_after == pytest.approx(0.8)
    assert head.verdict is not None and not head.verdict.shown


def test_all_scores_equal() -> None:
    equal = torch.zeros(20, 30)
    head = judged(equal, equal, torch.arange(20))
    assert (head.overlap, head.same_first, head.hit_rate.change) == (1, 1, 0)


@pytest.mark.parametrize(
    ("name", "lists"),
    [
        ("hit_rate", True), ("HR@10", True), ("hr10", True), ("ndcg@10", True), ("NDCG", True), ("mrr", True),
        ("recall@20", True), ("recall_at_20", True), ("hits", True), ("recall", False), ("precision", False),
        ("white", False), ("accuracy", False), ("through", False), ("map", False), ("loss", False), ("map50", True),
    ],
)  # fmt: skip
def test_the_name_of_a_metric_tells_a_ranking(name: str, lists: bool) -> None:
    drawn = case(20, 30, 1.0, 0.1, 0)
    (head,) = damage(*drawn, [Metric(name, lambda outputs, targets: 1.0)]).heads
    assert isinstance(head, Ranking if lists else Classification)


def test_ten_items_are_no_list_to_choose_from() -> None:
    (head,) = damage(*case(20, 10, 1.0, 0.1, 0), [HIT_RATE]).heads
    assert isinstance(head, Classification)


def test_many_classes_alone_are_no_ranking() -> None:
    (head,) = damage(*case(20, 2000, 1.0, 0.1, 0), []).heads
    assert isinstance(head, Classification)
