"""The command line: what it prints, and that a user's mistake is one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autocompress import __version__, cli
from autocompress.plugins import registry

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from autocompress import Task

data = TensorDataset(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
task = Task(model=nn.Linear(4, 3), train=data, validation=data, test=data)
number = 3
"""


def test_plugins_list_names_every_plugin_and_method() -> None:
    shown = CliRunner().invoke(cli.app, ["plugins", "list"])
    assert shown.exit_code == 0
    for plugin in registry().plugins:
        assert f"{plugin.distribution} {plugin.version}" in shown.stdout
    for method in registry().methods.values():
        assert re.search(rf" {method.technique} +{method.name} *$", shown.stdout, re.MULTILINE)


def test_plugins_list_as_json() -> None:
    shown = CliRunner().invoke(cli.app, ["plugins", "list", "--json"])
    rows = json.loads(shown.stdout)
    assert {method["name"] for row in rows for method in row["methods"]} == set(registry().methods)
    pruning = next(row for row in rows if row["plugin"] == "pruning")
    assert (pruning["distribution"], pruning["version"]) == ("autocompress", __version__)
    assert (pruning["status"], pruning["reason"]) == ("ok", "")
    assert {"name": "structured_magnitude", "technique": "pruning"} in pruning["methods"]


@pytest.mark.parametrize("arguments", [[], ["plugins"]])
def test_without_a_verb_the_help_is_shown(arguments: list[str]) -> None:
    assert "Usage: " in CliRunner().invoke(cli.app, arguments).output


MISTAKES = {
    "no such task file": (["search", "nowhere.py:task"], "'nowhere.py' cannot be imported: FileNotFoundError: no such"),
    "a reference without a name": (["search", "mine.py"], "a task is named package.module:name or file.py:name, but"),
    "an unknown name": (["search", "mine.py:tsk"], "'mine.py' has no 'tsk'; did you mean 'task'?"),
    "something that is no task": (["search", "mine.py:number"], "must be a Task or a function that gives one, but"),
    "a limit without a unit": (["search", "mine.py:task", "--limit", "size <= 4"], "limit 'size <= 4' has no unit: "),
    "contradicting limits": (
        ["search", "mine.py:task", "--limit", "size <= 4 MB", "--limit", "size >= 5 MB"],
        "limits contradict each other: 'size >= 5 MB' and 'size <= 4 MB'; leave one out",
    ),
    "an unknown space": (["search", "mine.py:task", "--space", "quikstart"], "unknown search space 'quikstart'; did"),
    "an unknown target": (["search", "mine.py:task", "--target", "gpu"], "a target is DEVICE[@BATCH[xTHREADS]] like"),
    "a run's name with a slash": (["search", "mine.py:task", "--name", "a/b"], "a run's name is letters, digits, '.',"),
    "no workers": (["search", "mine.py:task", "--workers", "0"], "workers must be at least 1, but got 0"),
    "no trials": (["search", "mine.py:task", "--trials", "0"], "budget: trials: Input should be greater than or"),
    "negative hours": (["search", "mine.py:task", "--hours", "-1"], "budget: hours: Input should be greater than 0"),
    "a run like it that is none": (["search", "mine.py:task", "--like", "runs/none"], "runs/none is no run: it has no"),
    "the status of no run": (["status", "runs/none"], "runs/none is no run: it has no run.json"),
    "the best of no run": (["best", "runs/none"], "runs/none is no run: it has no run.json"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(TASK)
    return tmp_path


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line(
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["autocompress", *arguments])
    monkeypatch.setattr("autocompress.task_reference.modules_from_files", [])
    monkeypatch.setitem(sys.modules, "mine", sys)  # so that it is put back afterwards
    with pytest.raises(SystemExit) as exited:
        cli.main()
    out, err = capfd.readouterr()
    assert exited.value.code == 1
    assert out == ""
    assert err.startswith("error: ") and message in err
    assert err.count("\n") == 1
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("mistake", ["a limit without a unit", "the status of no run"])
def test_a_mistake_in_a_process_of_its_own(mistake: str, folder: Path) -> None:
    arguments, message = MISTAKES[mistake]
    ended = subprocess.run(
        [sys.executable, "-m", "autocompress", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ") and message in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_ctrl_c_before_the_first_trial_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine_interrupted.py"
    file.write_text("def task():\n    raise KeyboardInterrupt\n")
    monkeypatch.setattr(sys, "argv", ["autocompress", "search", f"{file}:task"])
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr("autocompress.task_reference.modules_from_files", [])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 130
    assert capfd.readouterr() == ("", "interrupted; the same command continues\n")
    del sys.modules["autocompress_task_mine_interrupted"]
