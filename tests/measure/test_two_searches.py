"""Two searches at once on one device, as whole programs: who holds it when, and what their trials leave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from autocompress import Target
from autocompress.measure.lock import LOG_VARIABLE
from autocompress.measure.statistics import Figures, figures

ROOT = Path(__file__).parents[2]
SPACE = """
methods: {structured_magnitude: }
recovery: {epochs: 3, learning_rate: 0.01, batch_size: 4}
"""


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    """A search of three trials, which train in many small steps and measure for half a second."""
    arguments = ["tests.search.searching:task", "--space", str(folder / "space.yaml"), "--limit", "size <= 1 GB"]
    arguments += ["--trials", "3", "--workers", "1", "--target", "cpu@1", "--latency-seconds", "0.5"]
    arguments += ["--hardware-seconds", "0"]
    environment = {LOG_VARIABLE: str(folder / "locks.jsonl"), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "autocompress", "search", *arguments, "--runs", str(folder), "--name", name],
        cwd=ROOT, env=os.environ | environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where the locks lie too, so that what else measures on this machine stays out of it; short, for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ac"))
    (folder / "space.yaml").write_text(SPACE)
    both = [start(folder, name) for name in ("one", "other")]
    try:
        for search in both:
            _, err = search.communicate(timeout=240)
            assert search.returncode == 0, err
        yield folder
    finally:
        for search in both:
            search.kill()
            search.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def test_none_measures_while_the_other_trains_or_measures(folder: Path) -> None:
    holds = [json.loads(line) for line in (folder / "locks.jsonl").read_text().splitlines()]
    assert {hold["device"] for hold in holds} == {"cpu"}
    measured = [hold for hold in holds if hold["mode"] == "exclusive"]
    workers = {hold["pid"] for hold in measured}
    assert len(workers) == 4 and len(measured) > 6  # of each search three trials, and a process that judges finalists
    for hold in measured:
        assert hold["to"] - hold["from"] > 0.02
        others = [other for other in holds if other["pid"] != hold["pid"]]
        overlapping = [other for other in others if other["from"] < hold["to"] and hold["from"] < other["to"]]
        assert not overlapping
    shared = [hold for hold in holds if hold["mode"] == "shared"]
    assert {hold["pid"] for hold in shared} >= workers
    spans = [[hold for hold in holds if hold["pid"] == worker] for worker in workers]
    ends = [(held[0]["from"], held[-1]["to"]) for held in spans]
    at_once = [one for one in ends for other in ends if one != other and one[0] < other[1] and other[0] < one[1]]
    assert at_once, "the searches ran one after the other, so nothing was shown"


def latencies(folder: Path) -> list[dict[str, Any]]:
    """Those of the trials, on their one target."""
    files = sorted(folder.glob("*/trials/*/latency.json"))
    return [json.loads(file.read_text())["cpu@1"] for file in files]


def test_a_reader_computes_the_figures_of_a_trial_again_from_its_samples(folder: Path) -> None:
    records = latencies(folder)
    assert len(records) == 6
    for record in records:
        batch_size = Target.parse(record["target"]).batch_size
        again = figures(record["samples_ms"], record["baseline_samples_ms"], record["control_samples_ms"], batch_size)
        assert {field.name: record[field.name] for field in fields(Figures)} == vars(again)
        assert record["latency_low_ms"] < record["latency_ms"] < record["latency_high_ms"]


def test_the_scores_of_a_trial_are_those_of_its_record(folder: Path) -> None:
    for file in folder.glob("*/trials/*/latency.json"):
        record = json.loads(file.read_text())["cpu@1"]
        scores = json.loads((file.parent / "metrics.json").read_text())
        for name in ("latency_ms", "baseline_latency_ms", "speedup", "speedup_low", "speedup_high", "resolution"):
            assert scores[name] == record[name]
