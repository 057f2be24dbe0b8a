"""Which outputs belong to which targets, and as what they are judged: a rule for each, and no silent guess."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autocompress.damage import Damage, damage

LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])
NUMBERS = torch.linspace(-1, 1, 6)


def kinds(outputs: Any, targets: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Kind by head, and what is not judged."""
    result: Damage = damage(outputs, outputs, targets, [])
    return {head.head: head.kind for head in result.heads}, result.not_judged


@pytest.mark.parametrize(
    ("outputs", "targets", "kind", "read_as"),
    [
        (LOGITS, CLASSES, "classification", "logits of 3 classes"),
        (LOGITS, CLASSES.to(torch.uint8), "classification", "logits of 3 classes"),
        (torch.randn(6, 4, 3), CLASSES[:, None].expand(6, 4), "tokens", "logits of 3 classes at each place"),
        (torch.randn(6, 3, 4, 5), CLASSES[:, None, None].expand(6, 4, 5), "tokens", "logits of 3 classes at each"),
        (NUMBERS, NUMBERS, "regression", "numbers"),
        (NUMBERS[:, None], NUMBERS, "regression", "numbers"),
        (NUMBERS, CLASSES, "regression", "numbers, of which the targets are whole ones"),
        (5 * NUMBERS, CLASSES % 2, "classification", "one logit of yes each, as the targets are all 0 or 1"),
        (5 * NUMBERS[:, None], CLASSES > 0, "classification", "one logit of yes each"),
        (NUMBERS, (NUMBERS > 0).float(), "classification", "one logit of yes each"),
        (NUMBERS.abs(), (NUMBERS > 0).float(), "classification", "one probability of yes each"),
        (LOGITS, (LOGITS > 0).float(), "tokens", "one logit of yes each"),
        (LOGITS, (3 * LOGITS).softmax(1), "classification", "logits of 3 classes, the target the most probable one"),
    ],
)
def test_the_kind(outputs: Tensor, targets: Tensor, kind: str, read_as: str) -> None:
    result = damage(outputs, outputs, targets, [])
    (head,) = result.heads
    assert head.kind == kind
    assert head.read_as.startswith(read_as)
    assert not result.not_judged


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    (head,) = damage(outputs, outputs, targets, []).heads
    assert head.kind in ("classification", "tokens")
    share: float = head.answers.accuracy.after  # type: ignore[union-attr]
    return share


def test_yes_and_no() -> None:
    """A logit above 0 says yes, and so does a probability above a half."""
    wanted = torch.tensor([0.0, 1.0, 1.0, 0.0])
    logits = torch.tensor([-3.0, 0.2, -0.2, 9.0])
    assert accuracy(logits, wanted) == 0.5
    assert accuracy(logits.sigmoid(), wanted) == 0.5
    assert accuracy(logits[:, None], wanted) == 0.5
    assert accuracy(torch.stack([logits, logits]), torch.stack([wanted, 1 - wanted])) == 0.5


@pytest.mark.parametrize(
    ("outputs", "targets", "reason"),
    [
        (LOGITS, torch.tensor([0, 1, 3, 0, 1, 2]), "targets must be classes 0..2 or -100, but hold 3"),
        (LOGITS, torch.tensor([0, 1, -1, 0, 1, 2]), "targets must be classes 0..2 or -100, but hold -1"),
        (LOGITS, torch.full((6,), -100), "all targets are padding (-100)"),
        (LOGITS, CLASSES[:4], "outputs (6, 3) do not fit int64 targets (4,)"),
        (LOGITS, NUMBERS, "outputs (6, 3) do not fit float32 targets (6,)"),
        (NUMBERS, NUMBERS.log(), "targets hold NaN or infinite numbers"),
        (NUMBERS.log().nan_to_num(0), NUMBERS + torch.inf, "targets hold NaN or infinite numbers"),
        ((NUMBERS + 1).log(), NUMBERS, "outputs hold infinite numbers"),
        (NUMBERS.log(), NUMBERS, "outputs hold NaN"),
        (CLASSES, CLASSES, "outputs must be logits or numbers, but are torch.int64"),
        (NUMBERS, CLASSES - 100, "targets are numbers and hold -100, which may be one of them or padding"),
        (LOGITS[:0], CLASSES[:0], "there are no targets"),
    ],
)
def test_what_cannot_be_judged_is_told(outputs: Tensor, targets: Tensor, reason: str) -> None:
    result = damage(outputs, outputs, targets, [])
    assert (result.heads, result.not_judged) == ((), {"": reason})
    assert result.lines() == [f"Not judged: the outputs, {reason}."]


def test_outputs_belong_to_targets_at_their_place() -> None:
    assert kinds((LOGITS, NUMBERS), (CLASSES, NUMBERS)) == ({"0": "classification", "1": "regression"}, {})
    assert kinds({"a": NUMBERS, "b": LOGITS}, {"b": CLASSES, "a": NUMBERS})[0] == {
        "b": "classification",
        "a": "regression",
    }
    assert kinds({"a": [LOGITS, NUMBERS]}, {"a": [CLASSES, NUMBERS]})[0] == {
        "a.0": "classification",
        "a.1": "regression",
    }


def test_outputs_without_targets_are_told() -> None:
    found, left = kinds({"a": LOGITS, "b": NUMBERS, "c": NUMBERS}, {"a": CLASSES, "b": NUMBERS, "d": NUMBERS})
    assert found == {"a": "classification", "b": "regression"}
    assert left == {
        "c": "there are no targets at its place, only at a, b, d",
        "d": "the model gives no output there",
    }


def test_the_only_targets_belong_to_the_only_output_that_fits() -> None:
    found, left = kinds({"value": torch.randn(2, 6), "classes": LOGITS}, CLASSES)
    assert found == {"classes": "classification"}
    assert left == {"value": "the only targets (6,) belong to classes"}
    assert kinds({"classes": LOGITS}, {"labels": CLASSES})[0] == {"classes": "classification"}


def test_of_several_that_fit_it_is_the_one_called_logits() -> None:
    states = torch.randn(6, 16)
    assert kinds({"states": states, "logits": LOGITS}, CLASSES)[0] == {"logits": "classification"}
    found, left = kinds((LOGITS, states), CLASSES)
    assert found == {}
    reason = "2 outputs fit the only targets (6,): give targets at the same places as outputs"
    assert left == {"0": reason, "1": reason}


def test_a_model_with_other_outputs_is_told() -> None:
    result = damage((LOGITS, NUMBERS), (LOGITS[:, :2],), (CLASSES, NUMBERS), [])
    assert result.not_judged == {
        "0": "the model's outputs are (6, 2) where the baseline's are (6, 3)",
        "1": "the model's outputs are missing where the baseline's are (6,)",
    }
