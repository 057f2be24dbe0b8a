"""Quality: the metrics over a whole split, however it falls into batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import Metric, Target, Task
from autocompress.measure.accuracy import BATCH_SIZE, NotANumber, check_finite, evaluate
from autocompress.metric import ACCURACY
from tests.conftest import tiny_data, tiny_model

CPU = Target("cpu")


def spread(outputs: Any, targets: Any) -> float:
    """Of all outputs together: no mean over batches gives it."""
    return float(outputs.max() - outputs.min())


@pytest.mark.parametrize("samples", [1, BATCH_SIZE, BATCH_SIZE + 1, 2 * BATCH_SIZE + 88])
def test_metrics_are_those_of_the_whole_split(samples: int, task: Task) -> None:
    data = tiny_data(samples, 4)
    features, targets = data.tensors
    model = tiny_model().train()
    scores = evaluate(model, data, replace(task, metrics=(ACCURACY, Metric("spread", spread))), CPU)
    with torch.no_grad():
        outputs = model(features)
    assert scores["accuracy"] == pytest.approx((outputs.argmax(1) == targets).double().mean().item())
    assert scores["spread"] == pytest.approx((outputs.max() - outputs.min()).item())
    assert list(scores) == ["accuracy", "spread"]
    assert not model.training


class Both(NamedTuple):
    logits: Tensor
    embedding: Tensor


class Shaped(nn.Module):
    """Gives its outputs in a shape of their own."""

    def __init__(self, shape: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.shape, self.model = shape, tiny_model()

    def forward(self, x: Tensor) -> Any:
        return self.shape(self.model(x), x)


@pytest.mark.parametrize(
    ("shape", "logits"),
    [
        (lambda logits, x: {"logits": logits, "embedding": x}, lambda outputs: outputs["logits"]),
        (lambda logits, x: (x, logits), lambda outputs: outputs[1]),
        (lambda logits, x: [x, {"logits": logits}], lambda outputs: outputs[1]["logits"]),
        (Both, lambda outputs: outputs.logits),
    ],
    ids=["dict", "tuple", "nested", "named tuple"],
)
def test_outputs_of_any_shape_reach_the_metric_whole(
    shape: Callable[[Tensor, Tensor], Any], logits: Callable[[Any], Tensor], task: Task
) -> None:
    metric = Metric("accuracy", lambda outputs, targets: ACCURACY.function(logits(outputs), targets))
    data = tiny_data(BATCH_SIZE + 44, 4)
    scores = evaluate(Shaped(shape), data, replace(task, metrics=(metric,)), CPU)
    assert scores == evaluate(tiny_model(), data, task, CPU)


@pytest.mark.parametrize("shape", [lambda logits, x: logits, lambda logits, x: (x, {"logits": logits})])
def test_one_nan_among_the_outputs_is_refused_though_accuracy_hides_it(shape: Any, task: Task) -> None:
    features, targets = tiny_data(BATCH_SIZE + 44, 4).tensors
    features[-1] = float("nan")
    with pytest.raises(NotANumber, match="the model's outputs must be numbers, but hold NaN"):
        evaluate(Shaped(shape), TensorDataset(features, targets), task, CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_refused_by_name(value: float, task: Task) -> None:
    with pytest.raises(NotANumber, match=f"f1 must be a finite number, but is {value}"):
        evaluate(tiny_model(), task.validation, replace(task, metrics=(Metric("f1", lambda o, t: value),)), CPU)


def test_finite_scores_pass() -> None:
    check_finite({"accuracy": 0.0, "size_bytes": 1e12})
