"""What a search tries first, in which order and why. No Ray."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress import Budget, Recipe, Recovery, SearchSpace, Step, Target
from autocompress.errors import InvalidInput, RunError
from autocompress.family import Family
from autocompress.likeness import Likeness
from autocompress.limits import parse_limits
from autocompress.metric import ACCURACY
from autocompress.outcome import OK, Outcome
from autocompress.plugins import registry
from autocompress.run import RUN_FILE, RunRecord
from autocompress.search import search
from autocompress.search.folder import open_run
from autocompress.search.settings import Settings
from autocompress.search.study import SearchStudy
from autocompress.search.warm_start import Start, first_recipes, most
from autocompress.space import bind
from autocompress.testing_tasks import features, images

CPU = Target("cpu")
INT8 = Recipe(steps=(Step(method="int8_weight_only"),))
SPACE = SearchSpace(
    methods=dict.fromkeys(
        ("structured_magnitude", "soft_labels", "int8_weight_only", "onnx_int8_static", "onnx_int8_dynamic",
         "channels_last", "batch_norm_folding")
    )
)  # fmt: skip
FOLDED = Recipe(steps=(Step(method="batch_norm_folding"),))


def settings(folder: Path, trials: int | None = 50, space: SearchSpace = SPACE) -> Settings:
    """Those of a search on a convolutional net."""
    return Settings(images(), space, (), Budget(trials=trials), (CPU,), folder / "new", (), 0, 1, 0.1, 0, False)


def first(wanted: Settings) -> tuple[list[Start], list[str]]:
    plugins = registry()
    return first_recipes(wanted, bind(wanted.space, wanted.task, plugins, *wanted.targets), plugins)


def old_run(folder: Path, name: str = "old", **sizes: tuple[float, float]) -> Path:
    """A run that scored methods without parameters of their own, by accuracy and bytes."""
    wanted = replace(settings(folder), run=folder / name, limits=parse_limits(["accuracy_drop <= 5%"], [ACCURACY]))
    space = bind(wanted.space, wanted.task, registry(), CPU)
    with open_run(wanted) as run:
        study = SearchStudy(run.study_url, space, ACCURACY, wanted.limits, seed=0)
        for method, (accuracy, size) in {"": (0.9, 1000.0), **sizes}.items():
            study.enqueue(Recipe(steps=(Step(method=method),)) if method else Recipe())
            proposal = study.ask()
            assert proposal is not None
            scores = {"accuracy": accuracy, "size_bytes": size, "latency_ms": 1.0, "speedup": 1.0}
            study.tell(proposal.number, Outcome(OK, scores))
    return wanted.run


def test_baseline_then_what_was_given_then_the_portfolio(tmp_path: Path) -> None:
    wanted = replace(settings(tmp_path, space=SPACE.model_copy(update={"recipes": (FOLDED,)})), recipes=(INT8, FOLDED))
    starts, impossible = first(wanted)
    whys = ["the baseline", "given in the search space", "given by the user", *["known good for CNNs on a CPU"] * 5]
    assert [start.why for start in starts] == whys
    assert [start.recipe for start in starts[:3]] == [Recipe(), FOLDED, INT8]
    assert [step.method for step in starts[3].recipe.steps] == ["onnx_int8_static"]
    assert impossible == []


@pytest.mark.parametrize(("trials", "most"), [(None, 5), (50, 5), (12, 3), (4, 1), (3, 0)])
def test_the_portfolio_takes_a_quarter_of_the_trials_at_most(trials: int | None, most: int, tmp_path: Path) -> None:
    wanted = settings(tmp_path, trials)
    if trials is None:
        wanted = replace(wanted, budget=Budget(trials=None, hours=1))
    assert len(first(wanted)[0]) == 1 + most


def test_recipes_that_were_given_are_not_counted_twice(tmp_path: Path) -> None:
    """The quickstart gives some of the portfolio itself."""
    static = first(settings(tmp_path))[0][1].recipe
    starts, _ = first(replace(settings(tmp_path, trials=8), recipes=(static,)))
    assert [start.why.split()[0] for start in starts] == ["the", "given", "known", "known"]
    assert len({start.recipe.key for start in starts}) == 4


@pytest.mark.parametrize(
    "change",
    [{"portfolio": False}, {"targets": (Target("cuda:0"),)}, {"task": features()}],
    ids=["off", "gpu", "other"],
)
def test_without_a_portfolio(change: dict[str, object], tmp_path: Path) -> None:
    """Switched off, for a device of which nothing is recorded, or for a model of no family."""
    wanted = replace(settings(tmp_path), **change)  # type: ignore[arg-type]
    plugins = registry()
    space = bind(wanted.space, wanted.task, plugins, CPU)
    assert [start.recipe for start in first_recipes(wanted, space, plugins)[0]] == [Recipe()]


def test_the_fronts_of_runs_like_it_come_last_and_their_best_first(tmp_path: Path) -> None:
    old = old_run(
        tmp_path,
        int8_weight_only=(0.89, 300), channels_last=(0.89, 400), batch_norm_folding=(0.895, 900),
        onnx_int8_dynamic=(0.5, 1),
    )  # fmt: skip
    starts, impossible = first(replace(settings(tmp_path), like=(old,)))
    found = [start.recipe.steps[0].method for start in starts if start.why == f"front of run {old}"]
    assert found == ["int8_weight_only", "batch_norm_folding"]  # the rest: beaten, infeasible, the baseline
    assert [start.why for start in starts[-2:]] == [f"front of run {old}"] * 2
    assert impossible == []


def test_fronts_take_a_quarter_of_the_trials_at_most_and_the_best_of_each_first(tmp_path: Path) -> None:
    one = old_run(tmp_path, "one", int8_weight_only=(0.89, 300), batch_norm_folding=(0.895, 900))
    two = old_run(tmp_path, "two", channels_last=(0.87, 300), batch_norm_folding=(0.895, 900))
    wanted = replace(settings(tmp_path, trials=8), like=(one, two), portfolio=False)
    starts, left_out = first(wanted)
    assert [(start.recipe.steps[0].method, start.why) for start in starts[1:]] == [
        ("int8_weight_only", f"front of run {one}"),
        ("channels_last", f"front of run {two}"),
    ]
    assert left_out == [
        f"left out of the front of run {one}: 1 recipe, since all fronts together begin 2 trials at most"
    ]
    assert all(start.borrowed for start in starts[1:]) and not starts[0].borrowed


@pytest.mark.parametrize(("trials", "taken", "room"), [(40, 10, 5), (12, 4, 2), (12, 6, 0), (None, 10, 5)])
def test_portfolio_fronts_and_probe_take_half_of_the_trials_at_most(trials: int | None, taken: int, room: int) -> None:
    assert most(trials, taken) == room


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"family": Family.RNN}, "its model is one of the RNNs, and this one one of the CNNs"),
        ({"family": None}, "its model is of no known family, and this one one of the CNNs"),
        ({"parameters": 10**8}, r"its model has 100,000,000 parameters, and this one [\d,]+"),
        ({"device": "cuda"}, "it was for cuda, and this one is for cpu"),
        ({"inputs": ("indices in 2 dimensions",)}, "its data are indices in 2 d.*, and these numbers in 4 dimensions"),
    ],
    ids=["family", "none", "size", "device", "data"],
)
def test_a_run_on_another_kind_of_task_is_left_out(change: dict[str, object], difference: str, tmp_path: Path) -> None:
    old = old_run(tmp_path, int8_weight_only=(0.89, 300))
    record = RunRecord.read(old / RUN_FILE)
    assert record.likeness is not None
    other = record.model_copy(update={"likeness": record.likeness.model_copy(update=change)})
    (old / RUN_FILE).write_text(other.model_dump_json())
    starts, left_out = first(replace(settings(tmp_path), like=(old,)))
    assert f"front of run {old}" not in [start.why for start in starts]
    (said,) = left_out
    assert re.fullmatch(re.escape(f"left out the front of run {old}: ") + difference, said)


def test_a_smaller_model_of_the_same_kind_is_alike() -> None:
    wide = Likeness.of(images(), "cpu")
    assert wide.family is Family.CNN
    assert wide.difference(wide.model_copy(update={"parameters": wide.parameters // 9})) == ""


def test_what_of_a_front_this_search_cannot_try_is_said(tmp_path: Path) -> None:
    old = old_run(tmp_path, int8_weight_only=(0.89, 300), channels_last=(0.9, 900))
    wanted = replace(settings(tmp_path, space=SearchSpace(methods={"int8_weight_only": None})), like=(old,))
    starts, impossible = first(wanted)
    assert [start.recipe for start in starts] == [Recipe(), INT8]
    assert impossible == [
        f"left out of the front of run {old}: recipe 'channels_last' is outside the search space:"
        " it has 'channels_last', which the space does not have"
    ]


def test_a_run_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run"):
        first(replace(settings(tmp_path), like=(tmp_path / "nothing",)))
    with pytest.raises(InvalidInput, match="`like` is a list of runs, but got 'old'"):
        search(images(), like="old")


def test_a_recipe_given_with_its_recovery_is_tried_as_it_is(tmp_path: Path) -> None:
    given = Recipe(
        steps=(Step(method="structured_magnitude", params={"ratio": 0.5}),),
        recovery=Recovery(epochs=2, learning_rate=1e-3, batch_size=64),
    )
    starts, _ = first(replace(settings(tmp_path), recipes=(given,)))
    assert starts[1].recipe.recovery == given.recovery
