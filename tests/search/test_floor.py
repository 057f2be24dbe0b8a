"""Limits below what any model can reach."""

from __future__ import annotations

import pytest

from autocompress import Target, Task
from autocompress.errors import InvalidInput
from autocompress.limits import parse_limits
from autocompress.search.floor import check_reachable, floor_ms

TARGETS = (Target("cpu"), Target("cpu", 8))


def check(task: Task, text: str) -> None:
    check_reachable(parse_limits([text], task.metrics, [str(target) for target in TARGETS]), task, TARGETS)


@pytest.mark.parametrize("text", ["size <= 0 B", "latency <= 0.000001 us", "latency[cpu@8] <= 0.000001 us"])
def test_what_no_model_can_reach_is_said(text: str, task: Task) -> None:
    with pytest.raises(InvalidInput, match="cannot be met: .*; allow more"):
        check(task, text)


@pytest.mark.parametrize("text", ["size <= 1 B", "latency <= 1 s", "speedup >= 10x", "latency <= 1% of baseline"])
def test_what_may_be_reached_is_not(text: str, task: Task) -> None:
    check(task, text)


def test_one_operator_takes_more_than_nothing(task: Task) -> None:
    assert 1e-5 < floor_ms(task, TARGETS[0]) < 1000
