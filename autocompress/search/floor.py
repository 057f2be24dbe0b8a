"""Limits that no recipe can meet on this machine: said before the first trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.errors import InvalidInput
from autocompress.limits import Limit, show_ms, target_suffix
from autocompress.measure.device import Target
from autocompress.measure.lock import DeviceLock
from autocompress.measure.timers import ring_of, wall_timer
from autocompress.task import Task
from autocompress.tensors import first_tensor

CALLS = 100
SURE = 0.5
"""What share of the floor that was seen is taken to be out of reach."""


class _OneOperator(nn.Module):
    """The least that a model can do with its inputs: one operator on one number."""

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        return first_tensor([*inputs, *named.values()]).flatten()[:1] + 1


def check_reachable(limits: Sequence[Limit], task: Task, targets: Sequence[Target]) -> None:
    """Raises InvalidInput for a size of nothing, and a latency far below that of one operator, timed here for a blink.

    Limits relative to the baseline are not judged, and neither are those on a GPU that this process does not see.
    """
    for limit in limits:
        if limit.subject == "size" and limit.metric is None and limit.upper and limit.bound == 0:
            raise InvalidInput(f"limit {limit.text!r} cannot be met: no model takes no bytes; allow more")
        if limit.subject != "latency" or limit.metric is not None or limit.relative or not limit.upper:
            continue
        for target in targets:
            if target_suffix(str(target), [str(each) for each in targets]) in limit.suffixes:
                _check_latency(limit, task, target)


def _check_latency(limit: Limit, task: Task, target: Target) -> None:
    if target.is_cuda and not torch.cuda.is_available():
        return
    least_ms = floor_ms(task, target)
    if limit.bound < SURE * least_ms:
        raise InvalidInput(
            f"limit {limit.text!r} cannot be met: on {target} a call of one operator takes {show_ms(least_ms)};"
            " allow more"
        )


def floor_ms(task: Task, target: Target) -> float:
    """The fastest of some calls of one operator."""
    with DeviceLock(target).exclusive(), torch.inference_mode():
        timer = wall_timer(_OneOperator(), ring_of(task.inputs(1), target), target)
        return min(timer(1) for _ in range(CALLS))
