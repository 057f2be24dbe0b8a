"""Which outputs belong to which targets, and what kind of answer each output is.

Outputs are paired with targets by their place: the same index or key in both. Where the targets are a single tensor,
it belongs to the one output that fits it, or else to the one called `logits`. The kind follows from shapes and dtypes:

| targets | outputs | kind |
|---|---|---|
| classes (N,) | (N, C) | classification, or ranking where a task's metric is one of lists (HR, NDCG, MRR, recall@k) |
| classes (N, T, ...), -100 is padding | (N, T, ..., C), or (N, C, T, ...) as cross-entropy takes it | tokens |
| yes and no: whole numbers (N, ...) that are all 0 or 1 | one logit each | classification or tokens of two classes |
| probabilities (N, C): rows that sum to 1 | (N, C) | classification, by the most probable class |
| numbers (N, ...) | the same shape | regression |

What fits none of these is not judged, and told why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autocompress.metric import Metric

PADDING = -100
LIST_LENGTH = 10
"""Items of a list that is recommended."""
_LIST_METRIC = re.compile(r"(^|[^a-z])(hits?|hit_?rate|hr|n?dcg|mrr)($|[^a-z])|(recall|precision|map)(@|_at_|_?)\d")


class NotJudged(ValueError):
    """Outputs that cannot be judged by the targets, and why."""


@dataclass(frozen=True)
class Head:
    """One output of both models with its targets, all made to fit: logits (N, ..., C), or numbers (N, ...)."""

    name: str
    """Its place in the outputs, such as `0` or `logits`; empty for outputs that are one tensor."""
    kind: str
    """`classification`, `tokens`, `ranking` or `regression`."""
    read_as: str
    """What the figures take outputs and targets for, in words."""
    baseline: Tensor
    outputs: Tensor
    targets: Tensor


def pair(outputs: Any, targets: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The targets of each output by the output's place, and the outputs that have none, with the reason."""
    answers, wanted = tensors_by_place(outputs), tensors_by_place(targets)
    if len(wanted) == 1 and not wanted.keys() & answers.keys() - {""}:
        (only,) = wanted.values()
        chosen, reason = _only_fit(answers, only)
        wanted = pairs = {chosen: only} if chosen is not None else {}
    else:
        reason = f"there are no targets at its place, only at {', '.join(wanted) or 'none'}"
        pairs = {place: target for place, target in wanted.items() if place in answers}
    left = {place: reason for place in answers if place not in pairs}
    return pairs, left | {place: "the model gives no output there" for place in wanted if place not in pairs}


def judge(name: str, baseline: Tensor, outputs: Tensor | None, targets: Tensor, ranking: bool) -> Head:
    """The head with its kind. Raises NotJudged, saying why."""
    if outputs is None or outputs.shape != baseline.shape:
        got = "are missing" if outputs is None else f"are {tuple(outputs.shape)}"
        raise NotJudged(f"the model's outputs {got} where the baseline's are {tuple(baseline.shape)}")
    if not baseline.is_floating_point() or not outputs.is_floating_point():
        raise NotJudged(f"outputs must be logits or numbers, but are {baseline.dtype}")
    if baseline.isnan().any() or outputs.isnan().any():
        raise NotJudged("outputs hold NaN")
    if not targets.numel():
        raise NotJudged("there are no targets")
    if targets.is_floating_point():
        return _of_numbers(name, baseline, outputs, targets)
    return _of_classes(name, baseline, outputs, targets.long(), ranking)


def is_ranking(metrics: Iterable[Metric]) -> bool:
    """Whether some metric's name is that of a figure of lists: `HR@10`, `hit_rate`, `ndcg`, `mrr`, `recall@20`."""
    return any(_LIST_METRIC.search(metric.name.lower()) for metric in metrics)


def tensors_by_place(value: Any, place: str = "") -> dict[str, Tensor]:
    """All tensors in a nested value by their place: indices and keys, joined by dots."""
    if isinstance(value, Tensor):
        return {place: value}
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, tuple | list):
        items = enumerate(value)
    found: dict[str, Tensor] = {}
    for key, item in items:
        found |= tensors_by_place(item, f"{place}.{key}" if place else str(key))
    return found


def _only_fit(answers: Mapping[str, Tensor], targets: Tensor) -> tuple[str | None, str]:
    """The place of the output that the only targets belong to, and why no other is judged."""
    fitting = [place for place, answer in answers.items() if len(answers) == 1 or _fits(answer, targets)]
    chosen = fitting[0] if len(fitting) == 1 else "logits" if "logits" in fitting else None
    if chosen is not None:
        return chosen, f"the only targets {tuple(targets.shape)} belong to {chosen}"
    what = f"{len(fitting)} outputs fit" if fitting else "no output fits"
    return None, f"{what} the only targets {tuple(targets.shape)}: give targets at the same places as outputs"


def _fits(answer: Tensor, targets: Tensor) -> bool:
    try:
        judge("", answer, answer, targets, False)
    except NotJudged:
        return False
    return True


def _of_classes(name: str, baseline: Tensor, outputs: Tensor, targets: Tensor, ranking: bool) -> Head:
    if _squeezed(baseline).shape == targets.shape:
        return _of_whole_numbers(name, _squeezed(baseline), _squeezed(outputs), targets)
    if baseline.shape[:-1] != targets.shape:
        if baseline.ndim < 3 or baseline.shape[:1] + baseline.shape[2:] != targets.shape:
            raise _no_fit(baseline, targets)
        baseline, outputs = baseline.movedim(1, -1), outputs.movedim(1, -1)
    classes = baseline.shape[-1]
    judged = targets[targets != PADDING]
    if not len(judged):
        raise NotJudged("all targets are padding (-100)")
    if judged.min() < 0 or judged.max() >= classes:
        wrong = int(judged.min() if judged.min() < 0 else judged.max())
        raise NotJudged(f"targets must be classes 0..{classes - 1} or -100, but hold {wrong}")
    if targets.ndim > 1:
        return Head(name, "tokens", f"logits of {classes} classes at each place", baseline, outputs, targets)
    if ranking and classes > LIST_LENGTH:
        words = f"scores of {classes} items, as a metric of the task is one of lists"
        return Head(name, "ranking", words, baseline, outputs, targets)
    return Head(name, "classification", f"logits of {classes} classes", baseline, outputs, targets)


def _of_whole_numbers(name: str, baseline: Tensor, outputs: Tensor, targets: Tensor) -> Head:
    judged = targets[targets != PADDING]
    if len(judged) and judged.min() >= 0 and judged.max() <= 1:
        return _yes_or_no(name, baseline, outputs, targets)
    if len(judged) < targets.numel():
        raise NotJudged("targets are numbers and hold -100, which may be one of them or padding")
    return _regression(name, baseline, outputs, targets, "numbers, of which the targets are whole ones")


def _of_numbers(name: str, baseline: Tensor, outputs: Tensor, targets: Tensor) -> Head:
    if _squeezed(baseline).shape == _squeezed(targets).shape:
        baseline, outputs, targets = _squeezed(baseline), _squeezed(outputs), _squeezed(targets)
    if baseline.shape != targets.shape:
        raise _no_fit(baseline, targets)
    if not targets.isfinite().all():
        raise NotJudged("targets hold NaN or infinite numbers")
    if targets.ndim > 1 and (targets == PADDING).any():
        baseline, outputs, targets = (tensor[targets != PADDING] for tensor in (baseline, outputs, targets))
        return _regression(name, baseline, outputs, targets, "numbers, without those whose target is the padding -100")
    if targets.ndim == 2 and targets.min() >= 0 and torch.allclose(targets.sum(dim=1), targets.new_ones(())):
        words = f"logits of {targets.shape[1]} classes, the target the most probable one, as targets sum to 1"
        return Head(name, "classification", words, baseline, outputs, targets.argmax(dim=1))
    if ((targets == 0) | (targets == 1)).all():
        return _yes_or_no(name, baseline, outputs, targets.long())
    return _regression(name, baseline, outputs, targets, "numbers")


def _regression(name: str, baseline: Tensor, outputs: Tensor, targets: Tensor, words: str) -> Head:
    if not (baseline.isfinite().all() and outputs.isfinite().all()):
        raise NotJudged("outputs hold infinite numbers")
    return Head(name, "regression", words, baseline, outputs, targets)


def _yes_or_no(name: str, baseline: Tensor, outputs: Tensor, targets: Tensor) -> Head:
    """One logit is the same as the logits 0 and itself of two classes."""
    is_share = all(x.min() >= 0 and x.max() <= 1 for x in (baseline, outputs))
    if is_share:
        baseline, outputs = (torch.logit(x.double(), eps=1e-12) for x in (baseline, outputs))
    words = f"one {'probability' if is_share else 'logit'} of yes each, as the targets are all 0 or 1"
    logits = [torch.stack([torch.zeros_like(x), x], dim=-1) for x in (baseline, outputs)]
    return Head(name, "classification" if targets.ndim == 1 else "tokens", words, logits[0], logits[1], targets)


def _squeezed(tensor: Tensor) -> Tensor:
    """(N, ..., 1) as (N, ...)."""
    return tensor.squeeze(-1) if tensor.ndim > 1 and tensor.shape[-1] == 1 else tensor


def _no_fit(outputs: Tensor, targets: Tensor) -> NotJudged:
    kind = str(targets.dtype).removeprefix("torch.")
    return NotJudged(f"outputs {tuple(outputs.shape)} do not fit {kind} targets {tuple(targets.shape)}")
