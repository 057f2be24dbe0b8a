"""A run's folder: one driver, one search, and a diary. No Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from autocompress import Budget, Metric, Recipe, Run, SearchSpace, Step, Target, Task
from autocompress.errors import RunError
from autocompress.final import Final
from autocompress.limits import parse_limits
from autocompress.metric import ACCURACY
from autocompress.search.folder import open_run
from autocompress.search.settings import Settings

SPACE = SearchSpace(
    description="Small: a few bits, and a learning rate that YAML writes in its own way.",
    methods={"pack": {"bits": [2, 4]}, "cut": {"ratio": {"low": 0.25}}, "teach": None},
    recovery={"learning_rate": {"low": 1e-5, "high": 1e-2}},
    recipes=(Recipe(steps=(Step(method="pack", params={"bits": 4}),)),),
)


@pytest.fixture
def settings(task: Task, tmp_path: Path) -> Settings:
    return Settings(
        task=task,
        space=SPACE,
        limits=parse_limits(["accuracy_drop <= 1%", "size <= 1 MB"], task.metrics),
        budget=Budget(trials=5),
        targets=(Target("cpu"),),
        run=tmp_path / "runs" / "mine",
        recipes=(),
        seed=0,
        workers=1,
        hardware_seconds=0,
        latency_seconds=0.1,
        progress=False,
    )


def open_and_close(settings: Settings) -> None:
    with open_run(settings):
        pass


def test_a_new_folder_says_what_it_belongs_to(settings: Settings) -> None:
    open_and_close(settings)
    run = Run(settings.run)
    assert run.record.fingerprint == settings.task.fingerprint
    assert run.config.space == SPACE
    assert [limit.text for limit in run.limits] == ["accuracy_drop <= 1%", "size <= 1 MB"]
    assert (run.config.targets, run.config.seed, run.config.budget) == (("cpu@1",), 0, Budget(trials=5))
    environment = json.loads((settings.run / "env.json").read_text())
    assert set(environment["packages"]) >= {"torch", "optuna", "ray", "autocompress"}
    assert environment["plugins"]["pruning"].startswith("autocompress ")
    assert (settings.run / "trials").is_dir()
    assert [path for path in settings.run.iterdir() if path.name.endswith(".partial")] == []


def test_the_same_search_continues_with_another_budget(settings: Settings) -> None:
    open_and_close(settings)
    open_and_close(replace(settings, budget=Budget(trials=9), workers=2, latency_seconds=1.0))
    assert Run(settings.run).config.budget == Budget(trials=9)


def test_a_folder_whose_driver_died_before_it_was_claimed_is_a_new_one(settings: Settings) -> None:
    (settings.run / "trials").mkdir(parents=True)
    (settings.run / "config.yaml").write_text("half")
    open_and_close(settings)
    assert Run(settings.run).config.space == SPACE


def other_model() -> nn.Module:
    return nn.Linear(8, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": SearchSpace()}, r"different space \(see its config.yaml\): choose another --name$"),
        ({"seed": 1}, r"different seed, 0 and not 1 \(see its config.yaml\): choose another --name$"),
        (
            {"targets": (Target("cpu", 8),)},
            r"different targets, cpu@1 and not cpu@8 \(see its config.yaml\): choose another --name$",
        ),
        (
            {"limits": parse_limits(["size <= 2 MB"], [ACCURACY])},
            r"different limits, accuracy_drop <= 1%, size <= 1 MB and not size <= 2 MB \(see its config.yaml\):"
            r" choose another --name, or select from it without searching:"
            r" autocompress best .*mine --limit '...'$",
        ),
    ],
    ids=["space", "seed", "target", "limits"],
)
def test_another_search_is_refused(change: dict[str, Any], message: str, settings: Settings) -> None:
    open_and_close(settings)
    before = (settings.run / "config.yaml").read_text()
    with pytest.raises(RunError, match=f"^run '.*mine' was made with {message}"):
        open_and_close(replace(settings, **change))
    assert (settings.run / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    "change",
    [{"model": other_model()}, {"name": "other"}, {"metrics": (ACCURACY, Metric("f1", min))}],
    ids=["model", "name", "metrics"],
)
def test_another_task_is_refused(change: dict[str, Any], settings: Settings) -> None:
    open_and_close(settings)
    with pytest.raises(RunError, match="was made with another model, loss, data or metrics: choose another --name"):
        open_and_close(replace(settings, task=replace(settings.task, **change)))


def test_a_folder_of_another_format_is_refused(settings: Settings) -> None:
    open_and_close(settings)
    record = json.loads((settings.run / "run.json").read_text())
    (settings.run / "run.json").write_text(json.dumps({**record, "format": 2}))
    with pytest.raises(RunError, match="has format 2, but this autocompress writes 1"):
        open_and_close(settings)


HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("holds", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run."""
    settings.run.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(settings.run / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_a_second_driver_is_refused_until_the_first_is_gone(holder: subprocess.Popen[str], settings: Settings) -> None:
    with pytest.raises(RunError, match="run '.*mine' is in use by another search: wait for it, or choose another"):
        open_and_close(settings)
    assert not (settings.run / "run.json").exists()
    holder.kill()
    holder.wait(60)
    open_and_close(settings)
    assert (settings.run / "run.json").exists()


@pytest.mark.parametrize("place", ["", "runs", "runs/mine", "runs/mine/trials"])
def test_a_place_that_cannot_be_written_is_told(place: str, settings: Settings, tmp_path: Path) -> None:
    if not place:
        settings = replace(settings, run=Path("/proc/no/such/run"))
    else:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    with pytest.raises(RunError, match=r"run '.*' cannot be written \([\w ]+\): choose another folder"):
        open_and_close(settings)


def test_the_diary_has_a_line_an_event(settings: Settings) -> None:
    with open_run(settings) as folder:
        folder.event("finished", trial=3, state="ok")
    open_and_close(settings)
    lines = (settings.run / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == ["opened", "finished", "closed", "opened", "closed"]
    assert (events[1]["trial"], events[1]["state"]) == (3, "ok")
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)


def test_a_driver_that_fails_lets_go_of_the_run(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), open_run(settings):
        raise ZeroDivisionError
    open_and_close(settings)


def test_finals_and_surroundings_are_read_back(settings: Settings) -> None:
    surroundings = {"limits": {}, "baseline": {"unknown": "why"}, "free": {}}
    finals = {
        0: Final({"accuracy": 0.9}, {"speedup": 1.0}, {}, {}, {}),
        12: Final({"accuracy": 0.8}, {"speedup": 2.0}, {}, {}, {}, {}),
    }
    with open_run(settings) as folder:
        for number, final in finals.items():
            folder.write_final(number, final)
        folder.write_surroundings({"cpu@1": surroundings})
    run = Run(settings.run)
    assert run.finals == finals
    assert run.test_scores == {0: {"accuracy": 0.9}, 12: {"accuracy": 0.8}}
    assert run.surroundings == {"cpu@1": surroundings}


def test_a_run_that_lost_its_study_is_refused(settings: Settings) -> None:
    open_and_close(settings)
    (settings.run / "trials" / "00000").mkdir()
    with pytest.raises(RunError, match="has lost its study.db, and so its results: choose another --name"):
        open_and_close(settings)
