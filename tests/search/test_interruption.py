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
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

ROOT = Path(__file__).parents[2]
SPACE = "methods: {faulty: {fault: [none, pause]}}\n"


def command(folder: Path, trials: int, workers: int) -> list[str]:
    search = ["search", "tests.search.searching:task", "--space", str(folder / "space.yaml"), "--limit", "size <= 1 GB"]
    where = ["--runs", str(folder / "runs"), "--target", "cpu@1", "--trials", str(trials), "--latency-seconds", "0.1"]
    where += ["--hardware-seconds", "0", "--no-probe", "--workers", str(workers)]
    return [sys.executable, "-m", "autocompress", *search, *where, "--json"]


@contextmanager
def started(folder: Path, site: Path, trials: int, workers: int = 1) -> Iterator[subprocess.Popen[str]]:
    """The search in a process group of its own, and all of it gone at the end."""
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(folder, trials, workers), cwd=ROOT, env=environment, text=True, start_new_session=True,
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


@dataclass(frozen=True)
class Story:
    """One search that is stopped by Ctrl-C, continued, killed, and continued to its end."""

    refused: str
    """What a second driver was told while the first one ran."""
    stopped: dict[str, object]
    """The result after Ctrl-C."""
    told: str
    """And what stood on stderr."""
    states: tuple[list[TrialState], ...]
    """Of all trials: after Ctrl-C, and at the end."""
    finished: tuple[dict[str, int], ...]
    """Trials' folders and when they were written: after Ctrl-C, after the kill, and at the end."""
    ended: dict[str, object]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, plugin_site: Path) -> Story:
    folder = tmp_path_factory.mktemp("story")
    (folder / "space.yaml").write_text(SPACE)
    with started(folder, plugin_site, 400) as process:
        wait_for_trials(folder, 1)
        with started(folder, plugin_site, 400) as second:
            _, refused = second.communicate(timeout=200)
        assert second.returncode == 1
        wait_for_trials(folder, 4)
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    stopped, states_then, after_ctrl_c = json.loads(out), states(folder), finished_trials(folder)
    with started(folder, plugin_site, 400, workers=2) as process:
        wait_for_trials(folder, len(after_ctrl_c) + 2)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    after_kill = finished_trials(folder)
    ended = finish(folder, plugin_site, len(after_kill) + 3)
    finished = (after_ctrl_c, after_kill, finished_trials(folder))
    return Story(refused, stopped, told, (states_then, states(folder)), finished, ended)


def test_a_second_driver_is_refused(story: Story) -> None:
    last = story.refused.strip().splitlines()[-1]
    assert last.startswith("error: run ")
    assert "is in use by another search" in last


def test_ctrl_c_ends_with_what_there_is(story: Story) -> None:
    assert "Traceback" not in story.told
    assert "the same command continues" in story.told
    trials = story.stopped["trials"]
    assert isinstance(trials, int) and 4 <= trials < 400


def test_after_ctrl_c_the_same_command_continues(story: Story) -> None:
    after_ctrl_c, after_kill, _ = story.finished
    assert after_ctrl_c.items() <= after_kill.items()
    assert len(after_kill) >= len(after_ctrl_c) + 2


def test_after_kill_9_nothing_finished_is_run_again(story: Story) -> None:
    _, after_kill, at_the_end = story.finished
    assert story.ended["trials"] == len(after_kill) + 3
    assert after_kill.items() <= at_the_end.items()


def test_no_trial_is_left_as_if_it_ran(story: Story) -> None:
    for states_then in story.states:
        assert TrialState.RUNNING not in states_then
