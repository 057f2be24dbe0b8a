"""Whole searches: real Ray, real SQLite, real failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState

from autocompress import Budget, Recipe, Run, SearchSpace, Step, Target, Task, load, search
from autocompress.search import default_workers
from tests.conftest import tiny_data, tiny_model

pytestmark = pytest.mark.usefixtures("faulty")

SPACE = SearchSpace(methods={"faulty": {"fault": ["none", "raise", "nan", "kill"]}})


def recipe(fault: str, n: int) -> Recipe:
    return Recipe(steps=(Step(method="faulty", params={"fault": fault, "n": n}),))


GOOD = [recipe("none", n) for n in range(16)]
BAD = [recipe(fault, 7) for fault in ("raise", "nan", "kill")]


def run_twenty(task: Task, folder: Path, trials: int = 20) -> Run:
    """A baseline, 16 good recipes and 3 that fail, two at a time."""
    recipes = [*GOOD[:3], *BAD, *GOOD[3:]]
    budget = Budget(trials=trials)
    return search(
        task,
        space=SPACE,
        recipes=recipes,
        budget=budget,
        runs=folder,
        limits=[],
        target="cpu@1",
        latency_seconds=0.05,
        hardware_seconds=0,
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


def test_a_gpu_runs_one_trial_at_a_time_unless_told_otherwise() -> None:
    assert default_workers(Target("cuda:0", batch_size=64)) == 1
    assert default_workers(Target("cpu")) == os.cpu_count()


def test_failures_end_as_causes_and_the_rest_as_results(twenty: Run) -> None:
    counts = twenty.trials["state"].value_counts().to_dict()
    assert counts == {"ok": 17, "failed:raise": 1, "failed:nan": 1, "failed:killed": 1}
    assert TrialState.RUNNING not in states(twenty)


def test_a_failure_names_method_plugin_and_cause_and_keeps_a_log(twenty: Run) -> None:
    row = twenty.trials[twenty.trials["state"] == "failed:raise"].iloc[0]
    assert row["error"] == "RuntimeError: broken on purpose"
    assert (row["method"], row["plugin"]) == ("faulty", "faulty-plugin 1.5")
    log = twenty.path / "trials" / f"{row.name:05d}" / "log.txt"
    assert "with a second line" in log.read_text()


def test_a_killed_worker_leaves_a_folder_that_says_so(twenty: Run) -> None:
    row = twenty.trials[twenty.trials["state"] == "failed:killed"].iloc[0]
    assert "killed by a signal" in row["error"]
    assert (twenty.path / "trials" / f"{row.name:05d}" / "outcome.json").is_file()


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


def test_more_trials_run_only_what_is_new(twenty: Run, folder: Path) -> None:
    more = run_twenty(module_task(), folder, trials=25)
    assert len(more.trials) == 25
    assert list(more.trials.index[:20]) == list(twenty.trials.index)
    keys = [recipe.key for recipe, _ in more.all_trials.values()]
    assert len(set(keys)) == 25
    assert TrialState.RUNNING not in states(more)


def test_hangs_exits_and_no_ops_end_as_causes(tmp_path: Path) -> None:
    space = SearchSpace(methods={"faulty": {"fault": ["none", "hang", "exit", "nothing"]}})
    recipes = [recipe(fault, 1) for fault in ("hang", "exit", "nothing", "none")]
    run = search(
        module_task(),
        space=space,
        recipes=recipes,
        budget=Budget(trials=5, minutes_per_trial=0.1),
        runs=tmp_path,
        limits=[],
        target="cpu@1",
        latency_seconds=0.05,
        hardware_seconds=0,
    )
    counts = run.trials["state"].value_counts().to_dict()
    assert counts == {"ok": 2, "failed:timeout": 1, "failed:raise": 1, "failed:no_effect": 1}
    hung = run.trials[run.trials["state"] == "failed:timeout"].iloc[0]
    assert "took longer than 0.1 minutes" in hung["error"]
    assert "finalize" in (run.path / "trials" / f"{hung.name:05d}" / "hang.txt").read_text()


def test_a_test_split_that_cannot_be_scored_costs_only_its_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = tiny_data(32, 3)
    spoilt.tensors[0][5] = float("nan")
    task = replace(module_task(), test=spoilt)
    run = search(
        task,
        space=SPACE,
        budget=Budget(trials=1),
        runs=tmp_path,
        limits=[],
        latency_seconds=0.05,
        hardware_seconds=0,
    )
    assert list(run.trials["state"]) == ["ok"] and run.test_scores == {}
    told = "trial 0 could not be judged once more: NotANumber: the model's outputs must be numbers, but hold NaN"
    assert told in capsys.readouterr().err


def test_what_a_task_file_prints_is_no_part_of_the_json(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text("from tests.search.searching import task\nprint('hello')\n")
    ended = subprocess.run(
        [sys.executable, "-m", "autocompress", "search", "chatty.py:task", "--space", "quickstart", "--trials", "1",
         "--latency-seconds", "0.05", "--hardware-seconds", "0", "--json"],
        capture_output=True, text=True, timeout=240, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    data = json.loads(ended.stdout)
    assert data["trials"] and data["proposed"]["0"] == {"origin": "the baseline"}
    assert "structured_magnitude" not in data["left_out"]
    assert "hello" in ended.stderr
