"""Limits below what any model can reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress import Recipe, Step, Target, Task
from autocompress.artifact import shipped_bytes, write_model
from autocompress.compress import compress
from autocompress.errors import InvalidInput
from autocompress.limits import parse_limits
from autocompress.plugins import registry
from autocompress.search.floor import check_reachable, floor_bytes, floor_ms

TARGETS = (Target("cpu"), Target("cpu", 8))


def check(task: Task, text: str) -> None:
    check_reachable(parse_limits([text], task.metrics, [str(target) for target in TARGETS]), task, TARGETS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("size <= 0 B", "every model takes some bytes"),
        ("size <= 0% of baseline", "every model takes some bytes"),
        ("size <= 10 B", r"an artifact without any weights takes \d+ B"),
        ("latency <= 0% of baseline", "every model takes some time"),
        ("latency <= 0.000001 us", "on cpu@1 a call of one operator takes"),
        ("latency[cpu@8] <= 0.000001 us", "on cpu@8 a call of one operator takes"),
    ],
)
def test_what_no_model_can_reach_is_said(text: str, reason: str, task: Task) -> None:
    with pytest.raises(InvalidInput, match=f"cannot be met: {reason}.*; allow more"):
        check(task, text)


@pytest.mark.parametrize(
    "text", ["size <= 1 kB", "size <= 1% of baseline", "latency <= 1 s", "speedup >= 10x", "latency <= 1% of baseline"]
)
def test_what_may_be_reached_is_not(text: str, task: Task) -> None:
    check(task, text)


def test_one_operator_takes_more_than_nothing(task: Task) -> None:
    assert 1e-5 < floor_ms(task, TARGETS[0]) < 1000


def test_the_smallest_artifact_is_smaller_than_any(task: Task, tmp_path: Path) -> None:
    recipe = Recipe(steps=(Step(method="int8_weight_only"),))
    compressed = compress(task, recipe, registry=registry(), target=TARGETS[0])
    write_model(tmp_path, compressed, recipe, TARGETS[0], registry())
    assert 100 < floor_bytes(TARGETS[0]) < shipped_bytes(tmp_path)
