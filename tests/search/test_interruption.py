"""Searches that are stopped, killed and continued, as whole programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

ROOT = Path(__file__).parents[2]
SPACE = "methods: {faulty: {fault: [none, pause]}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def command(folder: Path, trials: int) -> list[str]:
    search = ["search", "tests.search.searching:task", "--space", str(folder / "space.yaml"), "--limit", "size <= 1 GB"]
    where = ["--runs", str(folder / "runs"), "--target", "cpu@1", "--trials", str(trials), "--latency-seconds", "0.1"]
    where += ["--hardware-seconds", "0"]
    return [sys.executable, "-m", "autocompress", *search, *where, "--json"]


@contextmanager
def started(folder: Path, site: Path, trials: int) -> Iterator[subprocess.Popen[str]]:
    """The search in a process group of its own, and all of it gone at the end."""
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(folder, trials), cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_trials(folder: Path, count: int) -> None:
    """Until the driver has recorded the end of that many trials; a trial's folder is there a moment earlier."""
    diary, end = folder / "runs" / "tiny" / "events.jsonl", time.monotonic() + 120
    while not diary.is_file() or diary.read_text(encoding="utf-8").count('"event": "finished"') < count:
        assert time.monotonic() < end, "no trials finished"
        time.sleep(0.05)


def finish(folder: Path, site: Path, trials: int) -> dict[str, object]:
    """The result of the same command, run to its end."""
    with started(folder, site, trials) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    found: dict[str, object] = json.loads(out)
    return found


def states(folder: Path) -> list[TrialState]:
    study = optuna.load_study(study_name="autocompress", storage=f"sqlite:///{folder / 'runs' / 'tiny' / 'study.db'}")
    return [trial.state for trial in study.get_trials()]


def finished_trials(folder: Path) -> dict[str, int]:
    trials = folder / "runs" / "tiny" / "trials"
    return {path.name: path.stat().st_mtime_ns for path in trials.glob("[0-9]*")}


def test_ctrl_c_ends_with_what_there_is_and_the_same_command_continues(folder: Path, plugin_site: Path) -> None:
    with started(folder, plugin_site, 400) as process:
        wait_for_trials(folder, 4)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "the same command continues" in err
    done = json.loads(out)["trials"]
    assert 4 <= done < 400
    assert TrialState.RUNNING not in states(folder)
    before = finished_trials(folder)
    assert finish(folder, plugin_site, done + 2)["trials"] == done + 2
    assert before.items() <= finished_trials(folder).items()


def test_after_kill_9_nothing_finished_is_run_again(folder: Path, plugin_site: Path) -> None:
    with started(folder, plugin_site, 400) as process:
        wait_for_trials(folder, 4)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    before = finished_trials(folder)
    target = len(before) + 3
    assert finish(folder, plugin_site, target)["trials"] == target
    assert before.items() <= finished_trials(folder).items()
    assert TrialState.RUNNING not in states(folder)


def test_a_second_driver_is_refused(folder: Path, plugin_site: Path) -> None:
    with started(folder, plugin_site, 400):
        wait_for_trials(folder, 1)
        with started(folder, plugin_site, 400) as second:
            _, err = second.communicate(timeout=100)
    assert second.returncode == 1
    assert err.strip().splitlines()[-1].startswith("error: run ")
    assert "is in use by another search" in err
