"""The figures of a classifier against torchmetrics, scikit-learn, statsmodels and scipy, on random logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy import special, stats
from sklearn.metrics import log_loss, recall_score
from statsmodels.stats.contingency_tables import mcnemar
from torch import Tensor

from autocompress.damage import Classification, damage
from autocompress.damage.answers import calibration_error
from autocompress.errors import InvalidInput
from autocompress.metric import ACCURACY
from tests.damage.logits import Case, case, cases


def judged(baseline: Tensor, outputs: Tensor, targets: Tensor, margin: float | None = None) -> Classification:
    result = damage(baseline, outputs, targets, [ACCURACY], margin)
    assert not result.not_judged
    (head,) = result.heads
    assert isinstance(head, Classification)
    return head


@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_figures_are_those_of_other_packages(drawn: Case) -> None:
    # Seconds to import: in no process that runs other tests.
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    baseline, outputs, targets = (tensor.double() if tensor.is_floating_point() else tensor for tensor in drawn)
    head, count = judged(*drawn).answers, outputs.shape[1]
    sides = {"before": baseline, "after": outputs}
    for name, logits in sides.items():
        own = {figure: getattr(head, f"{figure}_{name}") for figure in ("ece", "nll")}
        probabilities = special.softmax(logits.numpy(), axis=1)
        accuracy = multiclass_accuracy(logits, targets, count, average="micro")
        ece = multiclass_calibration_error(torch.from_numpy(probabilities), targets, count, n_bins=15)
        assert getattr(head.accuracy, name) == pytest.approx(float(accuracy), abs=1e-6)
        assert own["ece"] == pytest.approx(float(ece), abs=1e-6)  # torchmetrics counts in float32
        assert own["nll"] == pytest.approx(log_loss(targets, probabilities, labels=range(count)), rel=1e-6)
    divergence = stats.entropy(*(special.softmax(logits.numpy(), axis=1) for logits in sides.values()), axis=1)
    assert head.kl_mean == pytest.approx(divergence.mean(), rel=1e-6, abs=1e-12)
    assert head.kl_p99 == pytest.approx(np.quantile(divergence, 0.99), rel=1e-6, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_what_flipped(drawn: Case) -> None:
    baseline, outputs, targets = drawn
    head = judged(*drawn).answers
    before, after = baseline.argmax(1).tolist(), outputs.argmax(1).tolist()
    pairs = list(zip(before, after, targets.tolist(), strict=True))
    assert head.agreement == pytest.approx(sum(old == new for old, new, _ in pairs) / len(pairs))
    assert head.negative_flips == pytest.approx(sum(old == right != new for old, new, right in pairs) / len(pairs))
    assert head.positive_flips == pytest.approx(sum(old != right == new for old, new, right in pairs) / len(pairs))
    assert head.accuracy.change == pytest.approx(head.positive_flips - head.negative_flips)
    assert head.accuracy.low - 1e-12 <= head.accuracy.change <= head.accuracy.high + 1e-12


@settings(max_examples=30, deadline=None)
@given(cases(samples=100, classes=6))
def test_the_classes_are_those_of_other_packages(drawn: Case) -> None:
    baseline, outputs, targets = drawn
    head, count = judged(*drawn), outputs.shape[1]
    present = sorted(set(targets.tolist()))
    assert [item.label for item in head.classes] == present
    assert head.absent_classes == count - len(present)
    for side, logits in (("before", baseline), ("after", outputs)):
        recall = recall_score(targets, logits.argmax(1), labels=present, average=None)
        assert [getattr(item, side) for item in head.classes] == pytest.approx(list(recall))
    for item in head.classes:
        own = targets == item.label
        right = [logits[own].argmax(1) == item.label for logits in (baseline, outputs)]
        lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
        assert item.samples == int(own.sum())
        assert item.p_value == pytest.approx(mcnemar([[0, lost], [won, 0]], exact=True).pvalue)
        assert item.p_value <= item.p_holm <= min(1.0, item.p_value * len(present)) + 1e-12
    changes = [item.change for item in head.classes]
    assert head.worst is None if min(changes) >= 0 else head.worst is not None and head.worst.change == min(changes)


def test_one_class_that_is_lost_is_found() -> None:
    """The average moves by 4 points; one group of users has lost nearly everything."""
    targets = torch.arange(1000) % 20
    baseline = torch.nn.functional.one_hot(targets, 20).float()
    outputs = baseline.clone()
    outputs[(targets == 6) & (torch.arange(1000) >= 200)] = baseline[5]  # what belongs to class 6 is called 5
    head = judged(baseline, outputs, targets)
    assert head.worst is not None
    assert head.worst.label == 6
    assert head.worst.change == pytest.approx(-0.8)
    assert head.worst.p_holm < 1e-9
    assert [item.label for item in head.classes if item.change] == [6]


def test_the_baseline_itself_has_no_damage() -> None:
    baseline, _, targets = case(500, 5, 1.0, 0.0, 0)
    head = judged(baseline, baseline, targets, margin=0.01)
    change = head.answers
    assert (change.agreement, change.negative_flips, change.kl_mean, change.kl_p99) == (1, 0, 0, 0)
    assert head.worst is None
    assert change.verdict is not None and change.verdict.shown


def test_all_logits_equal() -> None:
    equal, targets = torch.zeros(30, 3), torch.arange(30) % 3
    change = judged(equal, equal, targets).answers
    assert change.accuracy.before == pytest.approx(1 / 3)  # the first class wins each tie, as in `torch.argmax`
    assert change.nll_before == pytest.approx(np.log(3))
    assert change.ece_before == pytest.approx(0, abs=1e-12)
    assert change.agreement == 1


@pytest.mark.parametrize("size", [1e4, 1e30, float("inf")])
def test_huge_logits(size: float) -> None:
    targets = torch.tensor([0, 1, 2, 0])
    baseline = torch.nn.functional.one_hot(targets, 3).float() * 1e4
    outputs = torch.nn.functional.one_hot(targets, 3).float()
    outputs[outputs == 1] = size
    outputs[0] = torch.tensor([0, size, 0])
    change = judged(baseline, outputs, targets).answers
    assert (change.accuracy.before, change.accuracy.after) == (1.0, 0.75)
    assert (change.nll_before, change.ece_before, change.ece_after) == (0.0, 0.0, 0.25)
    assert change.nll_after == pytest.approx(min(size, torch.finfo(torch.float32).max) / 4)
    assert np.isfinite(change.kl_mean)


def test_masked_classes() -> None:
    """Classes that are never given have the logit -inf."""
    baseline, outputs, targets = case(50, 4, 1.0, 0.1, 0)
    masked = [torch.cat([logits, torch.full((50, 1), -torch.inf)], dim=1) for logits in (baseline, outputs)]
    whole, part = judged(masked[0], masked[1], targets).answers, judged(baseline, outputs, targets).answers
    assert (whole.kl_mean, whole.nll_after, whole.agreement) == pytest.approx(
        (part.kl_mean, part.nll_after, part.agreement)
    )


def test_one_sample() -> None:
    head = judged(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([0]), margin=0.01)
    assert head.answers.accuracy.change == -1
    assert head.answers.verdict is not None and not head.answers.verdict.shown
    assert [(item.label, item.p_holm) for item in head.classes] == [(0, 1.0)]


def test_padding_is_left_out() -> None:
    baseline, outputs, targets = case(60, 4, 1.0, 1.0, 3)
    padded = torch.where(torch.arange(60) % 3 == 0, -100, targets)
    kept = torch.arange(60) % 3 != 0
    assert judged(baseline, outputs, padded) == judged(baseline[kept], outputs[kept], targets[kept])


def test_half_precision_and_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline, outputs, targets = case(100, 6, 1.0, 0.5, 4)
    whole = judged(baseline.half(), outputs.half(), targets)
    assert whole == judged(baseline.half().double(), outputs.half().double(), targets)
    monkeypatch.setattr("autocompress.damage.answers.CHUNK", 6 * 7)
    monkeypatch.setattr("autocompress.damage.statistics.CHUNK", 1000)
    assert judged(baseline.half(), outputs.half(), targets) == whole


def test_the_bins_of_confidence_are_closed_above() -> None:
    """As Guo et al. have it: 3/15 falls into the third bin, together with what is a little less sure."""
    confidence = np.array([3 / 15, 2.5 / 15])
    assert calibration_error(confidence, np.array([True, False])) == pytest.approx((1 - 5.5 / 15) / 2)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.01, 5.0])
def test_a_margin_that_is_no_share(margin: float) -> None:
    with pytest.raises(InvalidInput, match=r"a margin must lie between 0 and 1 \(0.01 is one point\), but got"):
        damage(*case(5, 3, 1.0, 0.0, 0), [ACCURACY], margin)
