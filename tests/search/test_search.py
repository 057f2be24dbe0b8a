"""Whole searches: real Ray, real SQLite, real failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from optuna.samplers import PartialFixedSampler, RandomSampler
from optuna.trial import TrialState

from autocompress import Budget, Recipe, Run, SearchSpace, Step, Task, load, search
from tests.conftest import tiny_data, tiny_model

pytestmark = pytest.mark.usefixtures("faulty")

FAULTS = ("raise", "nan", "kill", "hang", "exit", "nothing")
SPACE = SearchSpace(methods={"faulty": {"fault": ["none", *FAULTS]}})


def recipe(fault: str, n: int) -> Recipe:
    return Recipe(steps=(Step(method="faulty", params={"fault": fault, "n": n}),))


GOOD = [recipe("none", n) for n in range(13)]
BAD = [recipe(fault, 7) for fault in FAULTS]


def run_twenty(task: Task, folder: Path, trials: int = 20, workers: int = 2, **options: Any) -> Run:
    """A baseline, 13 good recipes and 6 that fail, two at a time."""
    recipes = [*GOOD[:3], *BAD, *GOOD[3:]]
    budget = Budget(trials=trials, minutes_per_trial=1)
    return search(
        task,
        space=SPACE,
        recipes=recipes,
        budget=budget,
        runs=folder,
        limits=[],
        target="cpu@1",
        workers=workers,
        latency_seconds=0.05,
        hardware_seconds=0,
        probe_seconds=0,
        **options,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def twenty(folder: Path) -> Run:
    return run_twenty(module_task(), folder)


def module_task() -> Task:
    return Task(
        model=tiny_model, train=tiny_data(64, 1), validation=tiny_data(32, 2), test=tiny_data(32, 3), name="twenty"
    )


def states(run: Run) -> list[TrialState]:
    study = optuna.load_study(study_name="autocompress", storage=f"sqlite:///{run.path / 'study.db'}")
    return [trial.state for trial in study.get_trials()]


def test_failures_end_as_causes_and_the_rest_as_results(twenty: Run) -> None:
    counts = twenty.trials["state"].value_counts().to_dict()
    failed = {"raise": 2, "nan": 1, "killed": 1, "timeout": 1, "no_effect": 1}
    assert counts == {"ok": 14} | {f"failed:{cause}": count for cause, count in failed.items()}
    assert TrialState.RUNNING not in states(twenty)


def of_fault(run: Run, fault: str) -> pd.Series[Any]:
    """The row of the trial that failed so."""
    return run.trials[run.trials["recipe"].str.contains(f"fault={fault},")].iloc[0]


def test_a_failure_names_method_plugin_and_cause_and_keeps_a_log(twenty: Run) -> None:
    row = of_fault(twenty, "raise")
    assert row["error"] == "RuntimeError: broken on purpose"
    assert (row["method"], row["plugin"]) == ("faulty", "faulty-plugin 1.5")
    log = twenty.path / "trials" / f"{row.name:05d}" / "log.txt"
    assert "with a second line" in log.read_text()


def test_a_killed_worker_leaves_a_folder_that_says_so(twenty: Run) -> None:
    row = of_fault(twenty, "kill")
    assert "killed by a signal" in row["error"]
    assert (twenty.path / "trials" / f"{row.name:05d}" / "outcome.json").is_file()


def test_a_trial_that_hangs_leaves_where_it_was(twenty: Run) -> None:
    row = of_fault(twenty, "hang")
    assert "took longer than 1 min" in row["error"]
    assert "finalize" in (twenty.path / "trials" / f"{row.name:05d}" / "hang.txt").read_text()


def test_a_trial_that_failed_does_not_share_its_process_with_the_next(twenty: Run) -> None:
    order = [number for number in twenty.trials.index if "faulty" in twenty.trials["recipe"][number]]
    process = {number: process_of(twenty, number) for number in order}
    failed = [number for number in order if twenty.trials["state"][number].startswith("failed:")]
    assert len(set(process.values())) < len(order)  # others share theirs
    assert [n for n in failed for later in order if later > n and process[later] == process[n]] == []


def process_of(run: Run, number: int) -> str:
    """The line `process <id>` that the faulty method prints into the trial's log."""
    log = (run.path / "trials" / f"{number:05d}" / "log.txt").read_text()
    return next(line for line in log.splitlines() if line.startswith("process "))


def test_trial_0_is_the_baseline_scored_the_same_way(twenty: Run) -> None:
    assert twenty.baseline.number == 0
    assert twenty.baseline.recipe == Recipe()
    assert set(twenty.baseline.scores) == set(twenty.trial(int(twenty.front.index[0])).scores)


def test_every_trial_says_why_and_so_does_the_diary(twenty: Run) -> None:
    assert list(twenty.trials["proposed"]) == ["the baseline", *["given by the user"] * 19]
    events = [json.loads(line) for line in (twenty.path / "events.jsonl").read_text().splitlines()]
    diary = {event["trial"]: event["proposed"] for event in events if event["event"] == "started"}
    assert {number: diary[number] for number in range(20)} == twenty.proposed
    assert twenty.left_out == {}


def test_the_front_and_the_baseline_are_scored_on_the_test_split(twenty: Run) -> None:
    assert set(twenty.test_scores) == {0, *twenty.front.index}
    assert twenty.trials["test_accuracy"].notna().sum() == len(twenty.test_scores)


def test_an_artifact_of_the_run_loads_and_runs(twenty: Run, tmp_path: Path) -> None:
    best = twenty.best()
    best.save(tmp_path / "saved")
    x = torch.randn(5, 8)
    torch.testing.assert_close(load(tmp_path / "saved", tiny_model)(x), best.load()(x))


def test_the_same_call_again_runs_nothing(twenty: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.stat().st_mtime_ns for path in (twenty.path / "trials").iterdir())
    again = run_twenty(module_task(), folder)
    assert before == sorted(path.stat().st_mtime_ns for path in (twenty.path / "trials").iterdir())
    assert again.trials.equals(twenty.trials)
    assert "continuing: 20 of 20 trials are done" in capsys.readouterr().err


def test_more_trials_run_only_what_is_new_and_another_sampler_proposes_it(twenty: Run, folder: Path) -> None:
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        sampler = PartialFixedSampler({"acceleration": "faulty", "faulty.fault": "none"}, RandomSampler(seed=0))
    more = run_twenty(module_task(), folder, trials=25, workers=1, sampler=sampler)
    assert len(more.trials) == 25
    assert list(more.trials.index[:20]) == list(twenty.trials.index)
    keys = [recipe.key for recipe, _ in more.all_trials.values()]
    assert len(set(keys)) == 25
    assert [more.proposed[number]["origin"] for number in more.trials.index[20:]] == ["PartialFixedSampler"] * 5
    assert TrialState.RUNNING not in states(more)


CHATTY = """
import tests.search.searching

print("hello")

def task():
    found = tests.search.searching.task()
    found.test.tensors[0][5] = float("nan")
    return found
"""


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The command line on a task file that prints, and whose test split cannot be scored."""
    where = tmp_path_factory.mktemp("chatty")
    (where / "chatty.py").write_text(CHATTY)
    return subprocess.run(
        [sys.executable, "-m", "autocompress", "search", "chatty.py:task", "--space", "quickstart", "--trials", "1",
         "--workers", "1", "--latency-seconds", "0.05", "--hardware-seconds", "0", "--json"],
        capture_output=True, text=True, timeout=240, cwd=where,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def test_what_a_task_file_prints_is_no_part_of_the_json(chatty: subprocess.CompletedProcess[str]) -> None:
    assert chatty.returncode == 0, chatty.stderr
    assert json.loads(chatty.stdout)["trials"] == 1
    assert "hello" in chatty.stderr


def test_the_json_tells_why_trials_were_proposed_and_methods_left_out(
    chatty: subprocess.CompletedProcess[str],
) -> None:
    data = json.loads(chatty.stdout)
    assert data["proposed"]["0"] == {"origin": "the baseline"}
    assert "structured_magnitude" not in data["left_out"]


def test_a_test_split_that_cannot_be_scored_costs_only_its_scores(chatty: subprocess.CompletedProcess[str]) -> None:
    assert json.loads(chatty.stdout)["best"]["test_scores"] == {}
    told = "trial 0 could not be judged once more: NotANumber: the model's outputs must be numbers, but hold NaN"
    assert told in chatty.stderr
