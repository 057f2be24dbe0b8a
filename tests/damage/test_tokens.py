"""Language models: by token, with intervals over sequences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torch import Tensor

from autocompress.damage import Tokens, damage
from tests.damage.logits import case


def sequences(count: int, length: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (count, length, 7) of two models and tokens (count, length), padded to lengths of their own."""
    baseline, outputs, targets = case(count * length, 7, 1.0, 0.5, seed)
    lengths = torch.randint(1, length + 1, (count, 1), generator=torch.Generator().manual_seed(seed))
    padded = torch.where(torch.arange(length) < lengths, targets.view(count, length), -100)
    return baseline.view(count, length, 7), outputs.view(count, length, 7), padded


def judged(baseline: Tensor, outputs: Tensor, targets: Tensor, margin: float | None = None) -> Tokens:
    (head,) = damage(baseline, outputs, targets, [], margin).heads
    assert isinstance(head, Tokens)
    return head


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 10_000))
def test_the_figures_are_those_of_other_packages(count: int, length: int, seed: int) -> None:
    baseline, outputs, targets = sequences(count, length, seed)
    head = judged(baseline, outputs, targets)
    from torchmetrics.functional.text import perplexity  # seconds to import

    ratio = perplexity(outputs, targets, ignore_index=-100) / perplexity(baseline, targets, ignore_index=-100)
    assert head.perplexity_ratio == pytest.approx(float(ratio), rel=1e-4)
    real = targets != -100
    probabilities = outputs[real].double().softmax(dim=1)
    nll = log_loss(targets[real], probabilities / probabilities.sum(1, keepdim=True), labels=range(7))
    assert head.bits.after == pytest.approx(nll / math.log(2))
    assert head.answers.nll_after == pytest.approx(nll)
    assert head.answers.answers == int(real.sum())
    assert head.sequences == count
    assert head.perplexity_ratio_low <= head.perplexity_ratio * (1 + 1e-9)
    assert head.perplexity_ratio <= head.perplexity_ratio_high * (1 + 1e-9)


def test_padding_is_no_answer() -> None:
    baseline, outputs, targets = sequences(20, 8, 1)
    padding = torch.full((20, 5), -100)
    noise = torch.randn(20, 5, 7)
    longer = judged(torch.cat([baseline, noise], 1), torch.cat([outputs, -noise], 1), torch.cat([targets, padding], 1))
    assert longer == judged(baseline, outputs, targets)


def test_a_sequence_without_answers_is_none() -> None:
    baseline, outputs, targets = sequences(20, 8, 2)
    targets[3] = -100
    kept = torch.arange(20) != 3
    assert judged(baseline, outputs, targets) == judged(baseline[kept], outputs[kept], targets[kept])


def test_few_long_sequences_show_nothing() -> None:
    """30 texts are 30 samples, however many tokens they have."""
    baseline, _, targets = case(30 * 100, 7, 1.0, 0.0, 0)
    logits, tokens = baseline.view(30, 100, 7), targets.view(30, 100)
    verdict = judged(logits, logits, tokens, margin=0.01).answers.verdict
    assert verdict is not None and not verdict.shown
    assert verdict.reason == "30 sequences are too few for 1 point: it takes 368 even without a loss"
    many = judged(baseline.view(600, 5, 7), baseline.view(600, 5, 7), targets.view(600, 5), margin=0.01).answers.verdict
    assert many is not None and many.shown and many.p_value is None


def test_classes_may_stand_in_the_second_dimension() -> None:
    """As cross-entropy and segmentation have it."""
    baseline, outputs, targets = case(8 * 20, 7, 1.0, 0.5, 5)
    last = [logits.view(8, 4, 5, 7) for logits in (baseline, outputs)]
    wanted = targets.view(8, 4, 5)
    assert judged(last[0].movedim(-1, 1), last[1].movedim(-1, 1), wanted) == judged(last[0], last[1], wanted)


def test_a_hopeless_model_has_a_finite_perplexity() -> None:
    baseline = torch.zeros(2, 2, 3)
    outputs = torch.tensor([0.0, 1e6, 0.0]).expand(2, 2, 3)
    assert judged(baseline, outputs, torch.zeros(2, 2, dtype=torch.long)).perplexity_ratio == 2.0**1023
