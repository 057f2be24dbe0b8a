"""The whole record, on the outputs of real models."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.damage import Classification, Damage, damage
from autocompress.damage.figures import MOST_CLASSES, class_bars
from autocompress.data import batches
from autocompress.metric import ACCURACY, Metric
from autocompress.task import Task
from autocompress.tensors import call, concatenate
from autocompress.testing_families import char_lstm, dict_inputs, gru4rec, recommender, two_heads, variable_length
from autocompress.testing_tasks import images
from tests.damage.logits import case

KINDS = {
    images: ["classification"],
    variable_length: ["classification"],
    char_lstm: ["tokens"],
    recommender: ["regression"],
    gru4rec: ["classification"],  # its metric is accuracy
    two_heads: ["classification", "regression"],
    dict_inputs: ["classification"],
}


def worse(model: nn.Module) -> nn.Module:
    """Its weights with three digits in place of 24 bits."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            step = parameter.abs().max() / 3
            parameter.copy_((parameter / step).round() * step)
    return model


def outputs(task: Task, model: nn.Module) -> tuple[Any, Any]:
    """Of the test split, with the targets."""
    with torch.inference_mode():
        pairs = [(call(model, inputs), wanted) for inputs, wanted in batches(task.test, 64, collate=task.collate)]
    return concatenate([out for out, _ in pairs]), concatenate([wanted for _, wanted in pairs])


@pytest.mark.parametrize("family", KINDS, ids=lambda family: str(family.__name__))
def test_every_kind_of_model_is_judged(family: Any) -> None:
    task: Task = family()
    baseline = task.trained_model()
    (before, targets), (after, _) = outputs(task, baseline), outputs(task, worse(baseline))
    result = damage(before, after, targets, task.metrics, margin=0.05)
    assert [head.kind for head in result.heads] == KINDS[family]
    assert not result.not_judged
    assert Damage.from_plain(json.loads(json.dumps(result.plain(), allow_nan=False))) == result
    assert result == damage(before, after, targets, task.metrics, margin=0.05)  # the bootstrap has a seed
    for head in result.heads:
        if isinstance(head, Classification) and len(task.metrics) == 1:
            assert head.answers.accuracy.after == pytest.approx(task.objective.function(after, targets))


def test_retention_is_in_the_sense_of_each_metric() -> None:
    share = Metric("share", lambda outputs, targets: float(outputs.mean()))
    loss = Metric("loss", lambda outputs, targets: float(outputs.mean()), higher_is_better=False)
    result = damage(torch.full((4,), 0.5), torch.full((4,), 0.4), torch.arange(4.0), [share, loss])
    assert [item.retention for item in result.retentions] == pytest.approx([0.8, 1.25])
    assert result.worst_metric is not None and result.worst_metric.metric == "share"
    assert result.lines()[-2:] == [
        "Left of the baseline's metrics: share 80.0 % (0.5 -> 0.4), loss 125.0 % (0.5 -> 0.4).",
        "Least is left of share.",
    ]


@pytest.mark.parametrize(("before", "after", "higher"), [(0.0, 0.5, True), (-0.2, 0.3, True), (0.3, 0.0, False)])
def test_what_has_no_ratio_is_told(before: float, after: float, higher: bool) -> None:
    metric = Metric("r2", lambda outputs, targets: float(outputs.mean()), higher)
    result = damage(torch.full((4,), before), torch.full((4,), after), torch.arange(4.0), [metric])
    (item,) = result.retentions
    assert (item.retention, item.reason) == (None, "no ratio of numbers that are zero or negative")
    assert result.worst_metric is None


def classifier() -> tuple[Tensor, Tensor, Tensor]:
    """1000 answers of 10 classes; 18 change: 13 of the right ones become wrong (9 of class 6), 5 become right."""
    targets = torch.arange(1000) % 10
    right = torch.nn.functional.one_hot(targets, 10).float()
    wrong = right.roll(1, dims=1)
    baseline, outputs = right.clone(), right.clone()
    sixes, ones = (torch.nonzero(targets == label)[:, 0] for label in (6, 1))
    outputs[sixes[:9]], outputs[ones[:4]] = wrong[sixes[:9]], wrong[ones[:4]]
    baseline[ones[10:15]] = wrong[ones[10:15]]
    return baseline, outputs, targets


def test_the_sentences() -> None:
    lines = damage(*classifier(), [ACCURACY], margin=0.01).lines()
    assert lines[0] == (
        "98.2 % of 1000 answers agree with the baseline; 1.3 % right became wrong, 0.5 % wrong became right"
        " (worst class 6: -9.0 points of 100 samples, p = .039 after Holm)."
    )
    assert lines[1].startswith("Accuracy 99.5 % -> 98.7 %: -0.8 points (95 % interval -1.")
    assert "; not worse than 1 point: not shown, the interval reaches -1." in lines[1]
    assert lines[-1] == "Left of the baseline's metrics: accuracy 99.2 % (0.995 -> 0.987)."
    assert len(lines) == 4


def test_what_is_not_all_is_not_rounded_to_all() -> None:
    baseline, _, targets = case(20_000, 3, 1.0, 0.0, 0)
    outputs = baseline.clone()
    row = int(torch.nonzero(baseline.argmax(1) == targets)[0])
    outputs[row] = outputs[row].roll(1)
    line = damage(baseline, outputs, targets, []).lines()[0]
    assert line.startswith("over 99.9 % of 20000 answers agree with the baseline; under 0.1 % right became wrong, 0 %")


def test_several_heads_are_named_in_the_sentences() -> None:
    task = two_heads()
    out, targets = outputs(task, task.trained_model())
    lines = damage(out, out, targets, task.metrics).lines()
    assert [line.split(":")[0] for line in lines[:3]] == ["0"] * 3
    assert [line.split(":")[0] for line in lines[3:5]] == ["1"] * 2


def test_the_bars_show_each_class() -> None:
    (head,) = damage(*classifier(), []).heads
    assert isinstance(head, Classification)
    before, after = class_bars(head).data
    assert (before.name, after.name) == ("baseline", "compressed")
    assert (before.x[0], before.y[0], after.y[0]) == ("6", 1.0, 0.91)  # the one that lost most is first
    assert sorted(before.x) == [str(label) for label in range(10)]


def test_of_many_classes_those_that_lost_most_are_shown() -> None:
    (head,) = damage(*case(3000, 100, 1.0, 1.0, 0), []).heads
    assert isinstance(head, Classification) and len(head.classes) == 100
    figure = class_bars(head)
    assert len(figure.data[0].x) == MOST_CLASSES
    assert figure.data[0].x[0] == str(head.worst.label if head.worst else None)
    assert figure.layout.title.text == "Accuracy by class, without the 60 classes that lost least"
