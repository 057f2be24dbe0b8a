"""Limits that no recipe can meet on this machine: said before the first trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.artifact import shipped_bytes, write_model
from autocompress.compress import Compressed
from autocompress.errors import InvalidInput
from autocompress.limits import Limit, show_bytes, show_ms, target_suffix
from autocompress.measure.device import Target
from autocompress.measure.lock import DeviceLock
from autocompress.measure.timers import ring_of, wall_timer
from autocompress.plugins import registry
from autocompress.recipe import Recipe
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
    """Raises InvalidInput for a size or latency of nothing, a size below that of an artifact without weights, and a
    latency far below that of one operator, timed here for a blink.

    Of limits relative to the baseline only a share of nothing is refused. Latencies on a GPU that this process does not
    see are not judged.
    """
    for limit in limits:
        if limit.metric is not None or not limit.upper or limit.subject == "speedup":
            continue
        reason = _reason(limit, task, targets)
        if reason:
            raise InvalidInput(f"limit {limit.text!r} cannot be met: {reason}; allow more")


def _reason(limit: Limit, task: Task, targets: Sequence[Target]) -> str:
    """Why a limit on size or latency is out of reach; empty if it may be met."""
    if limit.bound == 0:
        return "every model takes some " + ("bytes" if limit.subject == "size" else "time")
    if limit.relative:
        return ""
    if limit.subject == "size":
        least = floor_bytes(targets[0])
        return f"an artifact without any weights takes {show_bytes(least)}" if limit.bound < least else ""
    for target in targets:
        judged = target_suffix(str(target), [str(each) for each in targets]) in limit.suffixes
        if judged and (torch.cuda.is_available() or not target.is_cuda):
            least_ms = floor_ms(task, target)
            if limit.bound < SURE * least_ms:
                return f"on {target} a call of one operator takes {show_ms(least_ms)}"
    return ""


def floor_bytes(target: Target) -> int:
    """What an artifact takes that holds nothing but the recipe of the untouched model."""
    with TemporaryDirectory() as folder:
        write_model(Path(folder), Compressed(nn.Module(), ()), Recipe(), target, registry())
        return shipped_bytes(Path(folder))


def floor_ms(task: Task, target: Target) -> float:
    """The fastest of some calls of one operator."""
    with DeviceLock(target).exclusive(), torch.inference_mode():
        timer = wall_timer(_OneOperator(), ring_of(task.inputs(1), target), target)
        return min(timer(1) for _ in range(CALLS))
