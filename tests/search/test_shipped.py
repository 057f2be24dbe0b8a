"""A trial for several devices. `cpu:0` is the CPU by another name, and so a second device on any machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from autocompress import ACCURACY, Artifact, Metric, Recipe, Recovery, Step, Target, Task
from autocompress.compress import finalize, resolve, train_recipe
from autocompress.folders import device_folder, trial_folder
from autocompress.outcome import Outcome
from autocompress.plugins import registry
from autocompress.run import Trial
from autocompress.search.shipped import by_device, worst
from autocompress.search.trial import TrialContext, TrialRunner
from autocompress.testing_tasks import images

TARGETS = (Target("cpu"), Target("cpu:0", 8), Target("cpu", 4))
PACKED = Recipe(steps=(Step(method="int8_weight_only"),))


@pytest.fixture
def ended(task: Task, tmp_path: Path) -> tuple[Path, Outcome]:
    context = TrialContext(task, TARGETS, tmp_path, seed=0, minutes_per_trial=None, latency_seconds=0.05)
    return trial_folder(tmp_path, 3), TrialRunner(context).run(3, PACKED)


def test_each_device_gets_an_artifact_of_its_own(ended: tuple[Path, Outcome], task: Task) -> None:
    folder, outcome = ended
    trial = Trial(3, PACKED, outcome, None, folder, task.model)
    assert [trial.artifact(device).path for device in (None, "cpu", "cpu:0")] == [folder, folder, folder / "cpu-0"]
    made_for = [json.loads((path / "recipe.json").read_text())["target"] for path in (folder, folder / "cpu-0")]
    assert made_for == ["cpu@1", "cpu:0@8"]
    inputs, outputs = torch.randn(5, 8), []
    for device in (None, "cpu"):
        outputs.append(trial.load(device=device)(inputs))
    Artifact(folder / "cpu-0").verify()
    outputs.append(Artifact(folder / "cpu-0").load(task.model, Target("cpu"))(inputs))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_each_target_is_measured_and_the_size_is_the_largest(ended: tuple[Path, Outcome]) -> None:
    folder, outcome = ended
    assert set(json.loads((folder / "latency.json").read_text())) == {"cpu@1", "cpu:0@8", "cpu@4"}
    assert {"latency_ms", "latency_ms[cpu:0@8]", "latency_ms[cpu@4]"} <= set(outcome.scores)
    sizes = [Artifact(path).size_bytes for path in (folder, folder / "cpu-0")]
    assert outcome.scores["size_bytes"] == max(sizes)


def test_a_trained_model_can_be_finalized_for_one_device_after_another() -> None:
    recipe = Recipe(steps=(Step(method="int8_weight_only"),), recovery=Recovery(epochs=1))
    task, plugins = images(), registry()
    trained = train_recipe(task, resolve(recipe, plugins, task), registry=plugins, target=TARGETS[0])
    first, second = (finalize(trained, target, keep=keep) for target, keep in ((TARGETS[0], True), (TARGETS[1], False)))
    inputs = task.inputs(4)
    with torch.no_grad():
        assert torch.equal(first.model(inputs), second.model(inputs))


def test_the_first_targets_device_comes_first() -> None:
    assert by_device(TARGETS) == [[TARGETS[0], TARGETS[2]], [TARGETS[1]]]
    assert device_folder(Path("trial"), "cuda:1", "cpu") == Path("trial/cuda-1")


def test_quality_is_that_of_the_worst_device() -> None:
    loss = Metric("loss", lambda outputs, targets: 0.0, higher_is_better=False)
    found = worst([{"accuracy": 0.9, "loss": 3.0}, {"accuracy": 0.8, "loss": 2.0}], (ACCURACY, loss))
    assert found == {"accuracy": 0.8, "loss": 3.0}
