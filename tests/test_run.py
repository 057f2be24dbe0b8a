"""A run read from disk, as a search leaves it. No Ray."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from autocompress import Budget, Choice, Recipe, Run, SearchSpace, Step, Target, Task, Technique
from autocompress.artifact import seal, write_model
from autocompress.compress import Compressed
from autocompress.errors import ArtifactError, AutocompressError, InvalidInput, NothingFits, RunError
from autocompress.final import Final
from autocompress.folders import partial_folder, publish, trial_folder
from autocompress.limits import parse_limits
from autocompress.metric import RESERVED
from autocompress.openings import Openings
from autocompress.outcome import INTERRUPTED, OK, Outcome, failure
from autocompress.plugins import registry
from autocompress.report.data import status_data
from autocompress.search.folder import open_run
from autocompress.search.settings import Settings
from autocompress.search.study import SearchStudy
from autocompress.space import BoundSpace
from tests.conftest import tiny_data, tiny_model

CPU = Target("cpu")
SPACE = BoundSpace(
    {"pack": {"bits": Choice((2, 3, 4, 5, 6, 7, 8), 8)}}, Openings({Technique.QUANTIZATION: ("pack",)}), {}, frozenset()
)
COLUMNS = [
    "state", "accuracy", "size_bytes", "latency_ms", "baseline_latency_ms", "speedup", "speedup_low", "speedup_high",
    "resolution", "test_accuracy", "recipe", "proposed", "error", "method", "plugin",
    "work_s",
]  # fmt: skip


def pack(bits: int) -> Recipe:
    return Recipe(steps=(Step(method="pack", params={"bits": bits}),))


def scored(accuracy: float, size_bytes: float, speedup: float) -> Outcome:
    latency = {"latency_ms": 10 / speedup, "baseline_latency_ms": 10.0}
    interval = {"speedup": speedup, "speedup_low": speedup - 0.1, "speedup_high": speedup + 0.1, "resolution": 0.01}
    return Outcome(OK, {"accuracy": accuracy, "size_bytes": size_bytes, **latency, **interval}, work_s=1.5)


OUTCOMES = [
    (Recipe(), scored(0.90, 1000, 1.0)),
    (pack(8), scored(0.90, 500, 1.5)),
    (pack(7), scored(0.89, 600, 1.2)),
    (pack(6), failure("raise", "RuntimeError: no kernel", "pack", "acme 1.0", 0.5)),
    (pack(5), scored(0.85, 300, 2.0)),
    (pack(4), scored(0.60, 200, 3.0)),
]
"""With `accuracy_drop <= 10%` the last one is infeasible; trial 2 is beaten by trial 1."""


def make_run(task: Task, path: Path, outcomes: Sequence[tuple[Recipe, Outcome]]) -> Path:
    """A run's folder with these trials, of which the last is interrupted."""
    limits = parse_limits(["accuracy_drop <= 10%"], task.metrics)
    settings = Settings(task, SearchSpace(), limits, Budget(trials=9), (CPU,), path, (), 0, 1, 0.1, 0, False)
    with open_run(settings) as folder:
        study = SearchStudy(folder.study_url, SPACE, task.objective, limits, seed=0)
        for recipe, outcome in outcomes:
            study.enqueue(recipe)
            proposal = study.ask()
            assert proposal is not None and proposal.recipe == recipe
            study.tell(proposal.number, outcome)
        study.enqueue(pack(2))
        study.ask()
        study.close()
        for number, accuracy in ((0, 0.91), (1, 0.88)):
            folder.write_final(number, Final({"accuracy": accuracy}, {}, {}, {}, {}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tiny_data(16, 0)
    task = Task(model=tiny_model, train=data, validation=data, test=data)
    path = make_run(task, tmp_path_factory.mktemp("runs") / "mine", OUTCOMES)
    partial = partial_folder(path, 1)
    partial.mkdir()
    write_model(partial, Compressed(tiny_model(), ()), pack(8), CPU, registry())
    seal(partial)
    publish(partial, trial_folder(path, 1))
    return path


@pytest.fixture
def run(folder: Path) -> Run:
    return Run(folder)


def test_a_row_a_trial_with_failures_and_without_interruptions(run: Run) -> None:
    trials = run.trials
    assert list(trials.columns) == COLUMNS
    assert trials.index.name == "trial"
    assert list(trials.index) == [0, 1, 2, 3, 4, 5]
    assert list(trials["state"]) == ["ok", "ok", "ok", "failed:raise", "ok", "infeasible"]
    assert list(trials["recipe"][:2]) == ["baseline", "pack(bits=8)"]
    assert trials.loc[4, "size_bytes"] == 300
    assert trials.loc[1, "test_accuracy"] == 0.88
    assert trials["test_accuracy"].notna().sum() == 2
    failed = trials[trials["state"] == "failed:raise"].iloc[0]
    assert (failed["error"], failed["method"], failed["plugin"]) == ("RuntimeError: no kernel", "pack", "acme 1.0")
    assert failed[["accuracy", "size_bytes", "speedup"]].isna().all()
    assert trials["work_s"].sum() == 5 * 1.5 + 0.5


def test_a_training_that_was_interrupted_and_went_on_is_not_spared(task: Task, tmp_path: Path) -> None:
    trained = replace(scored(0.9, 500, 1.5), training_s=1.0, spared_s=2.0, epochs=3)
    outcomes = [(Recipe(), scored(0.9, 1000, 1.0)), (pack(8), Outcome(INTERRUPTED)), (pack(8), trained)]
    savings = Run(make_run(task, tmp_path / "run", [*outcomes, (pack(4), trained)])).savings
    assert (savings.trainings, savings.spared, savings.spared_s) == (2, 1, 2.0)


def test_a_study_that_lacks_a_score_or_tells_another_is_said_to_be_unreadable(task: Task, tmp_path: Path) -> None:
    scores = dict(scored(0.9, 1000, 1.0).scores)
    del scores["accuracy"], scores["size_bytes"]
    path = make_run(task, tmp_path / "run", [(Recipe(), scored(0.9, 1000, 1.0))])
    database = sqlite3.connect(path / "study.db")
    for attribute, message in (
        ({"state": OK, "scores": scores}, "of trial 0, it has no size_bytes, accuracy"),
        ({"state": OK, "scores": scores, "mood": 1}, "of trial 0, TypeError: .*'mood'"),
    ):
        with database:
            text = json.dumps(attribute)
            database.execute("update trial_user_attributes set value_json = ? where key = 'outcome'", [text])
        with pytest.raises(RunError, match=f"study.db is damaged or of another version of autocompress: {message}"):
            status_data(Run(path))
    database.close()


def test_no_metric_has_the_name_of_a_column() -> None:
    assert {*COLUMNS, "trial"} - {"accuracy", "test_accuracy"} <= RESERVED


def test_the_front_meets_the_limits_and_is_beaten_by_none(run: Run) -> None:
    assert list(run.front.index) == [1, 4]
    assert list(run.front.columns) == COLUMNS


@pytest.mark.parametrize(
    ("limits", "number"),
    [
        (None, 4),
        ([], 1),
        (["accuracy_drop <= 1%"], 1),
        (["size <= 25% of baseline"], 5),
        (["speedup >= 1.9x", "accuracy >= 80%"], 4),
        (["accuracy_drop <= 50%"], 5),
    ],
)
def test_the_best_for_other_limits_needs_no_search(limits: list[str] | None, number: int, run: Run) -> None:
    best = run.best(limits)
    assert best.number == number
    assert (best.recipe, best.scores) == (OUTCOMES[number][0], OUTCOMES[number][1].scores)


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        (["size <= 100 B"], NothingFits, r"nearest is trial 5 \(pack\(bits=4\)\): size is 200 B, 100 B beyond"),
        (["f1 >= 90%"], InvalidInput, "limit 'f1 >= 90%' bounds the unknown 'f1'; known: accuracy, accuracy_drop,"),
        (["size >= 1 MB", "size <= 25% of baseline"], InvalidInput, "limits contradict each other for this baseline"),
    ],
)
def test_limits_that_nothing_meets(limits: list[str], error: type[AutocompressError], message: str, run: Run) -> None:
    with pytest.raises(error, match=message):
        run.best(limits)


def test_the_baseline_is_trial_0(run: Run) -> None:
    assert (run.baseline.number, run.baseline.recipe) == (0, Recipe())
    assert run.baseline.test_scores == {"accuracy": 0.91}
    assert run.baseline.path == run.path / "trials" / "00000"


@pytest.mark.parametrize("number", [3, 6, 99, -1])
def test_a_trial_that_was_not_scored_is_refused(number: int, run: Run) -> None:
    with pytest.raises(RunError, match=f"mine has no scored trial {number}$"):
        run.trial(number)


def test_a_trial_loads_with_its_model(run: Run, tmp_path: Path) -> None:
    for loaded in (run.trial(1).load(tiny_model), Run(run.path, tiny_model).trial(1).load()):
        assert isinstance(loaded, nn.Sequential)
    with pytest.raises(ArtifactError, match=r"trial 1 needs the model it was made from: pass the factory, load\(model"):
        run.trial(1).load()
    assert run.trial(1).save(tmp_path / "saved").recipe == pack(8)


def test_a_trial_without_its_folder_says_so(run: Run) -> None:
    with pytest.raises(ArtifactError, match="trials/00004 is no artifact: it has no MANIFEST.json"):
        run.trial(4).load(tiny_model)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "mine is no run: it has no run.json"),
        ({}, "mine is no run: it has no run.json"),
        ({"run.json": "{"}, "run.json: not readable as YAML"),
        ({"run.json": '{"task": "t", "fingerprint": "", "metrics": [], "model": 1}'}, "run.json: unknown key 'model'"),
        ({"run.json": '{"task": "t"}'}, "run.json: fingerprint: Field required"),
        (
            {"run.json": '{"format": 2, "task": "t", "fingerprint": "", "metrics": []}'},
            "mine has format 2, but this autocompress reads 1",
        ),
        ({"run.json": '{"task": "t", "fingerprint": "", "metrics": []}'}, "config.yaml: no such file"),
    ],
)
def test_a_folder_that_is_no_run(files: dict[str, str] | None, message: str, tmp_path: Path) -> None:
    if files is not None:
        (tmp_path / "mine").mkdir()
        for name, text in files.items():
            (tmp_path / "mine" / name).write_text(text)
    with pytest.raises(AutocompressError, match=message):
        Run(tmp_path / "mine")


@pytest.mark.parametrize("database", [None, b""], ids=["missing", "empty"])
def test_a_run_without_trials_is_an_empty_table(database: bytes | None, task: Task, tmp_path: Path) -> None:
    path = make_run(task, tmp_path / "mine", [])
    (path / "study.db").unlink()
    if database is not None:
        (path / "study.db").write_bytes(database)
    run = Run(path)
    assert (len(run.trials), len(run.front), run.scored) == (0, 0, {})
    assert list(run.trials.columns) == COLUMNS
    with pytest.raises(RunError, match="mine has no scored baseline yet: let the search run"):
        run.best([])


def test_a_damaged_database_is_told(task: Task, tmp_path: Path) -> None:
    path = make_run(task, tmp_path / "mine", [])
    (path / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(RunError, match="mine/study.db is not readable: DatabaseError: .*file is not a database"):
        print(Run(path).trials)


def test_a_baseline_that_failed_is_none(task: Task, tmp_path: Path) -> None:
    run = Run(make_run(task, tmp_path / "mine", [(Recipe(), failure("raise", "no memory"))]))
    assert list(run.trials["state"]) == ["failed:raise"]
    with pytest.raises(RunError, match="has no scored baseline yet"):
        print(run.baseline)


@pytest.mark.parametrize("text", ["{", "[]", '{"accuracy": 1}', '{"test_scores": {}}'])
def test_a_damaged_final_is_told(text: str, task: Task, tmp_path: Path) -> None:
    path = make_run(task, tmp_path / "mine", [])
    (path / "finals" / "00001.json").write_text(text)
    message = "finals/00001.json is not readable: .*; delete it, and the same search judges it again"
    with pytest.raises(RunError, match=message):
        print(Run(path).test_scores)


@pytest.mark.parametrize("text", ["{", "[]", '{"cpu@1": {}}'])
def test_damaged_surroundings_are_told(text: str, task: Task, tmp_path: Path) -> None:
    path = make_run(task, tmp_path / "mine", [])
    (path / "surroundings.json").write_text(text)
    with pytest.raises(RunError, match="surroundings.json is not readable: .*; delete it, and the same search judges"):
        print(Run(path).surroundings)
