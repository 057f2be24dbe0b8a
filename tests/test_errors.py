"""Every bad input that was thought of, and the one line it gets: docs/errors.md holds what this file sees.

python -m tests.test_errors        # writes docs/errors.md anew
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from optuna.samplers import CmaEsSampler, GridSampler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autocompress import (
    AutocompressError,
    Budget,
    Metric,
    Recipe,
    Recovery,
    SearchSpace,
    Step,
    Target,
    Task,
    load,
    search,
)
from autocompress.artifact import Artifact, seal, write_model
from autocompress.compress import compress, resolve
from autocompress.data import NoSamples
from autocompress.limits import check_against_baseline, parse_limits
from autocompress.outcome import Outcome
from autocompress.plugins import registry
from autocompress.run import OUTCOME, RECIPE, Run
from autocompress.task_reference import load_task
from tests.conftest import tiny_data, tiny_model

DOCUMENT = Path(__file__).parents[1] / "docs" / "errors.md"
HEAD = """# Errors

Every bad input that the tests try, and the line it gets. On the command line the line follows `error: `, the exit code
is 1, and there is no traceback; in Python the line is the text of an `autocompress.AutocompressError`. Nothing is
trained before these checks. What is read from a file is checked alike; a `Budget` or `SearchSpace` made in Python with
an impossible value raises pydantic's `ValidationError`. This file is written by `python -m tests.test_errors` and held
by `tests/test_errors.py`.
"""


def task(**changes: Any) -> Task:
    good = Task(model=tiny_model, train=tiny_data(64, 1), validation=tiny_data(32, 2), test=tiny_data(32, 3))
    return replace(good, name="demo", **changes)


def searching(**arguments: Any) -> None:
    changes = arguments.pop("task", {})
    search(task(**changes), **{"target": "cpu@1", "progress": False, **arguments})


def space(text: str) -> None:
    """A search over a space that is written in a file."""
    Path("space.yaml").write_text(text)
    searching(space="space.yaml")


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class NoLength:
    def __getitem__(self, index: int) -> Any:
        raise IndexError


def broken_factory() -> nn.Module:
    raise RuntimeError("no checkpoint here")


def broken_metric(outputs: Any, targets: Any) -> float:
    raise ValueError("needs two classes")


def other_shape() -> nn.Module:
    return nn.Linear(5, 3)


def untrained() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def another_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(8, 3)


SHARED_MODEL = tiny_model()


def used_run(**arguments: Any) -> None:
    """A search where another one already was."""
    searching_until_ray()
    searching(**arguments)


def searching_until_ray() -> None:
    """What a search leaves before its first trial."""
    from autocompress.search.folder import open_run
    from autocompress.search.settings import Settings

    limits = parse_limits(["accuracy_drop <= 1%"], task().metrics)
    settings = Settings(
        task(), SearchSpace(), limits, Budget(), (Target("cpu"),), Path("runs/demo"), (), 0, 1, 1.0, 0, False
    )
    with open_run(settings):
        pass


def unscored_run() -> None:
    searching_until_ray()
    Run("runs/demo").best()


def locked_run() -> None:
    Path("runs/demo").mkdir(parents=True)
    with FileLock("runs/demo/.lock"):
        searching()


def file_in_the_way() -> None:
    Path("runs").write_text("not a folder")
    searching()


def scored_run() -> Run:
    """A run with a baseline and one trial, without the work."""
    from optuna.trial import TrialState, create_trial

    from autocompress.search.mirror import open_storage

    searching_until_ray()
    import optuna

    study = optuna.create_study(
        storage=open_storage("sqlite:///runs/demo/study.db"),
        study_name="autocompress",
        directions=["maximize", "minimize", "minimize"],
    )
    pruned = Recipe(steps=(Step(method="structured_magnitude", params={"ratio": 0.5}),))
    for recipe, accuracy, size, speedup in ((Recipe(), 0.9, 1e6, 1.0), (pruned, 0.85, 4e5, 1.5)):
        scores = {"accuracy": accuracy, "size_bytes": size, "latency_ms": 1 / speedup, "speedup": speedup}
        attributes = {RECIPE: recipe.plain(), OUTCOME: vars(Outcome("ok", scores))}
        values = [accuracy, size, 1 / speedup]
        study.add_trial(create_trial(state=TrialState.COMPLETE, values=values, user_attrs=attributes))
    return Run("runs/demo")


def saved_model() -> Path:
    """An artifact of the untouched model."""
    folder, target = Path("model"), Target("cpu")
    folder.mkdir()
    made = compress(task(), Recipe(), registry=registry(), target=target)
    write_model(folder, made, Recipe(), target, registry())
    seal(folder)
    return folder


def damaged() -> None:
    weights = saved_model() / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    load("model", tiny_model)


def missing_file() -> None:
    (saved_model() / "weights.safetensors").unlink()
    load("model", tiny_model)


def saved_over() -> None:
    Artifact(saved_model()).save("model")


def reference(text: str) -> Callable[[], Any]:
    def call() -> None:
        Path("tasks.py").write_text("task = 3\ndef make_task():\n    raise RuntimeError('no data')\n")
        load_task(text)

    return call


def limits(*texts: str) -> Callable[[], Any]:
    return lambda: searching(limits=list(texts))


def against_baseline(*texts: str) -> None:
    baseline = {"accuracy": 0.9, "misses": 0.0, "size_bytes": 1e6, "latency_ms": 2.0, "speedup": 1.0}
    misses = Metric("misses", broken_metric, higher_is_better=False)
    check_against_baseline(parse_limits(texts, (*task().metrics, misses)), baseline)


def recipe(*steps: Step) -> None:
    resolve(Recipe(steps=steps), registry(), task())


VALUES = TensorDataset(torch.zeros(4, 8), torch.zeros(4))
TRAINED = Recipe(steps=(Step(method="structured_magnitude"),), recovery=Recovery(epochs=2))
OUTSIDE = Recipe(steps=(Step(method="structured_magnitude", params={"ratio": 0.9}),))

CASES: dict[str, dict[str, Callable[[], Any]]] = {
    "The task": {
        "empty validation data": lambda: searching(task={"validation": TensorDataset(torch.zeros(0, 8))}),
        "data without a length": lambda: searching(task={"train": NoLength()}),
        "a model that cannot be copied": lambda: searching(task={"model": Locked()}),
        "a factory that raises": lambda: searching(task={"model": broken_factory}),
        "a factory that gives no model": lambda: searching(task={"model": lambda: 3}),
        "a factory that gives one object for ever": lambda: searching(task={"model": lambda: SHARED_MODEL}),
        "a factory that gives untrained weights": lambda: searching(task={"model": untrained}),
        "a weights file that is not there": lambda: searching(task={"weights": "baseline.safetensors"}),
        "a model of another input": lambda: searching(task={"model": other_shape}),
        "a metric that fails": lambda: searching(task={"metrics": (Metric("auc", broken_metric),)}),
        "no metric": lambda: searching(task={"metrics": ()}),
        "a metric that is not in a tuple": lambda: searching(task={"metrics": task().metrics[0]}),
        "a metric that is a function": lambda: searching(task={"metrics": (broken_metric,)}),
        "a metric with the name of a column": lambda: Metric("state", broken_metric),
        "accuracy of a regression": lambda: searching(task={"validation": VALUES}),
        "a loader in place of a data set": lambda: searching(task={"train": DataLoader(VALUES)}),
        "unlabelled data without a length": lambda: searching(task={"unlabelled": NoLength()}),
        "unlabelled data of another input": lambda: searching(task={"unlabelled": [torch.zeros(5)]}),
        "a loader of calibration data": lambda: searching(task={"calibration": DataLoader(VALUES)}),
        "test data that are no pairs": lambda: searching(task={"test": [1, 2, 3]}),
        "two metrics of one name": lambda: searching(task={"metrics": task().metrics * 2}),
    },
    "The search space": {
        "an unknown method": lambda: space("methods: {structured_magnitud: }"),
        "an unknown parameter": lambda: space("methods: {structured_magnitude: {ration: 0.5}}"),
        "a range wider than the method's": lambda: space("methods: {structured_magnitude: {ratio: {high: 1.5}}}"),
        "a range upside down": lambda: space("methods: {structured_magnitude: {ratio: {low: 0.7, high: 0.2}}}"),
        "an unknown key": lambda: space("method: {structured_magnitude: }"),
        "an unknown key in a recipe": lambda: space("recipes: [{step: []}]"),
        "an unknown key of the recovery": lambda: space("recovery: {epoch: 3}"),
        "text that is no YAML": lambda: space("methods: ["),
        "an unknown name": lambda: searching(space="quickstrat"),
        "a file that is not there": lambda: searching(space="my_space.yaml"),
    },
    "Recipes": {
        "steps out of order": lambda: recipe(Step(method="int8_dynamic"), Step(method="structured_magnitude")),
        "a value out of range": lambda: recipe(Step(method="structured_magnitude", params={"ratio": 2})),
        "a value of another type": lambda: recipe(Step(method="structured_magnitude", params={"ratio": "half"})),
        "a training without data": lambda: resolve(TRAINED, registry(), task(train=NoSamples())),
        "outside the space": lambda: searching(space="quickstart", recipes=[OUTSIDE]),
    },
    "Limits": {
        "no unit": limits("size <= 4"),
        "no unit on a drop": limits("accuracy_drop <= 1"),
        "an unknown unit": limits("latency <= 5 msec"),
        "an unknown subject": limits("acuracy >= 0.9"),
        "another form": limits("small please"),
        "a share of nothing": limits("size <= 25%"),
        "a size of nothing": lambda: searching(limits=["size <= 0 MB"]),
        "beyond what the metric can be": limits("accuracy >= 95"),
        "a target that is not measured": limits("latency[cuda:0] <= 5 ms"),
        "limits that contradict each other": limits("size <= 1 MB", "size >= 2 MB"),
        "limits that contradict each other for the baseline": lambda: against_baseline(
            "size <= 25% of baseline", "size >= 0.5 MB"
        ),
        "a share of a baseline that is 0": lambda: against_baseline("misses <= 110% of baseline"),
    },
    "Budget, target, names": {
        "no trials": lambda: Budget.parse({"trials": 0}, "budget"),
        "negative hours": lambda: Budget.parse({"hours": -1}, "budget"),
        "a device that is not there": lambda: searching(target="cuda:9@1"),
        "a target of another form": lambda: searching(target="gpu"),
        "a name that is a path": lambda: searching(name="../demo"),
        "no workers": lambda: searching(workers=0),
        "a seed below 0": lambda: searching(seed=-1),
        "a seed that is too large": lambda: searching(seed=5_000_000_000),
        "a sampler by its name": lambda: searching(sampler="tpe"),
        "a sampler for one objective": lambda: searching(sampler=CmaEsSampler()),
        "a sampler that does not take the baseline": lambda: searching(sampler=GridSampler({"pruning": ["none"]})),
        "no time to measure": lambda: searching(latency_seconds=0.0),
        "less than no time for the hardware": lambda: searching(hardware_seconds=-1.0),
        "too long a probe": lambda: searching(probe_seconds=500.0),
        "no target": lambda: searching(target=[]),
        "less than no store": lambda: searching(store_bytes=-1),
        "a store of an unknown kind": lambda: searching(store="nowhere://trainings"),
        "a store that workers do not share": lambda: searching(store="memory://trainings"),
        "a run to start from that is none": lambda: searching(like=["runs/nothing"]),
        "a folder with a question mark": lambda: searching(runs="what?now"),
        "limits that are one text": lambda: searching(limits="accuracy_drop <= 1%"),
    },
    "The run's folder": {
        "a folder that cannot be written": file_in_the_way,
        "two drivers on one run": locked_run,
        "another model under the same name": lambda: used_run(task={"model": another_model}),
        "other limits under the same name": lambda: used_run(limits=["accuracy_drop <= 2%"]),
        "another space under the same name": lambda: used_run(space="quickstart"),
        "no run at all": lambda: Run("runs/nothing"),
        "no scored baseline yet": unscored_run,
        "limits that nothing meets": lambda: scored_run().best(["size <= 100 kB", "accuracy_drop <= 1%"]),
    },
    "Saved models": {
        "no artifact": lambda: load("nowhere", tiny_model),
        "a damaged file": damaged,
        "a missing file": missing_file,
        "a model of another shape": lambda: load(saved_model(), other_shape),
        "a folder that is there already": saved_over,
    },
    "The command line's task": {
        "another form": reference("tasks.py"),
        "a file that is not there": reference("task.py:task"),
        "an unknown name": reference("tasks.py:taks"),
        "something that is no task": reference("tasks.py:task"),
        "a function that fails": reference("tasks.py:make_task"),
    },
}


@contextmanager
def empty_folder() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def message(case: Callable[[], Any]) -> str:
    with empty_folder(), pytest.raises(AutocompressError) as caught:
        case()
    return str(caught.value)


def quoted(text: str) -> str:
    """As Markdown code, also when there are backticks in it."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def written() -> str:
    """The document as the errors are now."""
    parts = [HEAD]
    for title, cases in CASES.items():
        parts.append(f"\n## {title}\n")
        parts += [f"- **{name}**: {quoted(message(case))}" for name, case in cases.items()]
    return "\n".join(parts) + "\n"


ALL = {f"{title}: {name}": case for title, cases in CASES.items() for name, case in cases.items()}


@pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
def test_an_error_is_one_line_and_stands_in_the_document(case: Callable[[], Any]) -> None:
    text = message(case)
    assert "\n" not in text
    assert quoted(text) in DOCUMENT.read_text(encoding="utf-8")


if __name__ == "__main__":
    DOCUMENT.write_text(written(), encoding="utf-8")
