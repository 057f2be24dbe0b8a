"""`autocompress.bench` and its verb: what is measured beside what, the table, and one line for each mistake."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import autocompress
from autocompress import Artifact, Recipe, Recovery, Step, Target, Task, cli
from autocompress.artifact import seal, write_model
from autocompress.compress import compress, resolve
from autocompress.errors import ArtifactError, InvalidInput
from autocompress.measure.device import hardware_name
from autocompress.measure.statistics import Verdict
from autocompress.plugins import registry
from tests.conftest import tiny_data, tiny_model

CPU = Target("cpu")
VERDICTS = "|".join(Verdict)
FILE = """
from torch import nn
from tests.search.searching import task

def model():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

class Net(nn.Linear):
    def __init__(self):
        super().__init__(8, 3)

trained = model()
number = 3

def broken():
    raise RuntimeError("no checkpoint here")
"""


def wide() -> nn.Module:
    """(B, 8) -> (B, 3), slow enough that half of it is faster."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 768), nn.ReLU(), nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 3))


@pytest.fixture(scope="module")
def wide_task() -> Task:
    return Task(model=wide, train=tiny_data(16, 1), validation=tiny_data(16, 2), test=tiny_data(16, 3))


@pytest.fixture(scope="module")
def artifact(wide_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Most channels of the wide model are removed."""
    folder = tmp_path_factory.mktemp("artifact")
    step = Step(method="structured_magnitude", params={"ratio": 0.9, "round_to": 8})
    recipe = resolve(Recipe(steps=(step,), recovery=Recovery(epochs=0)), registry(), wide_task)
    compressed = compress(wide_task, recipe, registry=registry(), target=CPU)
    write_model(folder, compressed, recipe, CPU, registry())
    seal(folder)
    return folder


def test_an_artifact_is_measured_beside_the_model_it_was_made_of(artifact: Path, wide_task: Task) -> None:
    small, large = autocompress.bench(artifact, wide_task, targets=["cpu@1", "cpu@16"], seconds=0.1)
    assert [small.target, large.target] == ["cpu@1", "cpu@16"]
    for latency in (small, large):
        assert latency.speedup > 1.2
    assert large.throughput_per_s == pytest.approx(16e3 / large.latency_ms)


def test_a_model_alone_is_measured_beside_itself() -> None:
    [latency] = autocompress.bench(tiny_model, inputs=torch.randn(1, 8), targets=[Target("cpu", 4)], seconds=0.1)
    assert latency.target == "cpu@4"
    assert latency.speedup == pytest.approx(1, abs=0.3)


def test_the_tasks_model_is_the_baseline_of_another(wide_task: Task) -> None:
    [latency] = autocompress.bench(tiny_model(), wide_task, targets=["cpu"], seconds=0.1)
    assert latency.speedup > 1.2
    [latency] = autocompress.bench(task=wide_task, targets=["cpu"], seconds=0.1)
    assert latency.speedup == pytest.approx(1, abs=0.3)


def test_mistakes_in_python(artifact: Path, wide_task: Task) -> None:
    with pytest.raises(InvalidInput, match="there must be something to measure, but got neither a model nor a task"):
        autocompress.bench()
    with pytest.raises(InvalidInput, match="a model without a task needs inputs, but got none"):
        autocompress.bench(tiny_model)
    with pytest.raises(InvalidInput, match="name the task, like --task my_task.py:task"):
        autocompress.bench(Artifact(artifact))
    with pytest.raises(ArtifactError, match="could not be rebuilt on the given model"):
        other = Task(model=tiny_model, train=tiny_data(4, 1), validation=tiny_data(4, 2), test=tiny_data(4, 3))
        autocompress.bench(artifact, other, targets=["cpu"])


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["autocompress", "bench", *arguments])
    monkeypatch.setattr("autocompress.task_reference.modules_from_files", [])
    cli.main()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path


def test_the_verb_prints_a_table(
    artifact: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wide.py").write_text(WIDE)
    arguments = [str(artifact), "--task", "wide.py:task", "--target", "cpu@1", "--target", "cpu@8x2"]
    with pytest.raises(SystemExit) as exited:
        run([*arguments, "--seconds", "0.1"], monkeypatch)
    assert exited.value.code == 0
    lines = {line.strip().split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert hardware_name(CPU) in lines["device"]
    assert lines["batch"].split()[1:] == ["1", "8"]
    assert lines["threads"].split()[1:] == ["1", "2"]
    assert re.fullmatch(rf"verdict +({VERDICTS}) +({VERDICTS}) *", lines["verdict"])
    assert lines["speedup (95 % interval)"].count("x (") == 2
    for name in ("baseline latency", "latency", "95 % interval", "p90", "p99", "throughput", "not measurable below"):
        assert len(lines[name].strip().split("  ")) > 2


WIDE = """
from autocompress import Task
from tests.conftest import tiny_data
from tests.test_bench import wide
task = Task(model=wide, train=tiny_data(4, 1), validation=tiny_data(4, 2), test=tiny_data(4, 3))
"""


@pytest.mark.parametrize("subject", ["model", "Net", "trained"])
def test_a_reference_is_measured_beside_itself(
    subject: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        run([f"mine.py:{subject}", "--shape", "8", "--target", "cpu@2", "--seconds", "0.05", "--json"], monkeypatch)
    assert exited.value.code == 0
    [record] = json.loads(capsys.readouterr().out)
    assert record["target"] == "cpu@2" and len(record["samples_ms"]) == 2 * record["rounds"]


def test_a_task_is_a_reference_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        run(["mine.py:task", "--target", "cpu", "--seconds", "0.05", "--json"], monkeypatch)
    assert exited.value.code == 0
    assert json.loads(capsys.readouterr().out)[0]["target"] == "cpu@1"


MISTAKES = {
    "no such folder": (["runs/none"], "runs/none is no artifact: it has no MANIFEST.json"),
    "a run": (["a_run"], "a_run is a run, of which one trial can be measured: name it, like a_run/trials/00000"),
    "an artifact without a task": (["ARTIFACT"], "an artifact is measured beside the model it was made of, but "),
    "the task of another": (["ARTIFACT", "--task", "mine.py:task"], "could not be rebuilt on the given model: "),
    "no such file": (["nowhere.py:model"], "'nowhere.py' cannot be imported: FileNotFoundError: no such file"),
    "an unknown name": (["mine.py:modle"], "'mine.py' has no 'modle'; did you mean 'model'?"),
    "another form": (["mine.py:"], "a model or task is named package.module:name or file.py:name, but got 'mine.py:'"),
    "no model": (["mine.py:number"], "must be a model, a task or a function that gives one, but got int"),
    "a factory that raises": (["mine.py:broken"], "must give a model or a task, but: RuntimeError: no checkpoint here"),
    "no inputs": (["mine.py:model"], "a model without a task needs inputs, but got none: give their shape, like"),
    "a shape": (["mine.py:model", "--shape", "3,8"], "a shape is that of one sample, like 3x224x224, but got '3,8'"),
    "another shape": (
        ["mine.py:model", "--shape", "5"],
        "the model must take these inputs on cpu@1, but: RuntimeError",
    ),
    "a target": (["mine.py:model", "--shape", "8", "--target", "gpu"], "a target is DEVICE[@BATCH[xTHREADS]] like"),
    "no time": (["mine.py:model", "--shape", "8", "--seconds", "0"], "seconds must be above 0, but got 0"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line(
    arguments: list[str],
    message: str,
    artifact: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "a_run").mkdir()
    (folder / "a_run" / "run.json").write_text("{}")
    with pytest.raises(SystemExit) as exited:
        run([str(artifact) if argument == "ARTIFACT" else argument for argument in arguments], monkeypatch)
    out, err = capsys.readouterr()
    assert (exited.value.code, out) == (1, "")
    assert err.startswith("error: ") and message in err
    assert err.count("\n") == 1
