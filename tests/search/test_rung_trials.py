"""Trials that are carried out from rung to rung, in one process and in another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autocompress import Recipe, Recovery, Step, Target
from autocompress.compress import resolve
from autocompress.data import Samples
from autocompress.folders import partial_folder, trial_folder
from autocompress.outcome import OK, STOPPED, Outcome
from autocompress.plugins import registry
from autocompress.search import progress
from autocompress.search.prefixes import StoreAccess
from autocompress.search.progress import Progress, rung_score, sample
from autocompress.search.screening import Hurdles
from autocompress.search.trial import TrialContext, TrialRunner
from autocompress.testing_tasks import images
from tests.conftest import tiny_data

CPU = Target("cpu")


def recipe(*methods: str, epochs: int = 9) -> Recipe:
    written = Recipe(steps=tuple(Step(method=name) for name in methods), recovery=Recovery(epochs=epochs))
    return resolve(written, registry(), images())


PRUNED = recipe("structured_magnitude", "soft_labels", "int8_weight_only")


def runner(folder: Path, stopping: bool = True, store: bool = True) -> TrialRunner:
    """In a process of its own, as far as it knows."""
    access = StoreAccess(str(folder / "store"), 10**8, "task") if store else None
    return TrialRunner(TrialContext(images(), (CPU,), folder, 0, None, 0.01, access, (), stopping))


@pytest.fixture(scope="module")
def hurdles(tmp_path_factory: pytest.TempPathFactory) -> Hurdles:
    return Hurdles(runner(tmp_path_factory.mktemp("baseline")).run(0, Recipe()).scores)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What ships of a recipe whose training is never halted."""
    folder = tmp_path_factory.mktemp("whole")
    assert runner(folder, stopping=False).run(1, PRUNED, None).state == OK
    return weights(folder, 1)


def weights(folder: Path, number: int) -> dict[str, torch.Tensor]:
    return load_file(trial_folder(folder, number) / "weights.safetensors")


def epochs_in(folder: Path, number: int) -> list[str]:
    log = (trial_folder(folder, number) / "log.txt").read_text()
    return [line.split(":")[0] for line in log.splitlines() if line.startswith("epoch ")]


@pytest.mark.parametrize("store", [True, False])
def test_a_trial_goes_from_rung_to_rung_to_the_same_model(
    store: bool, hurdles: Hurdles, whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    carried_out = runner(tmp_path, store=store)
    steps = [carried_out.run(1, PRUNED, hurdles) for _ in range(3)]
    assert [step.state for step in steps] == [STOPPED, STOPPED, OK]
    assert [list(step.rungs) for step in steps] == [["1/9"], ["1/9", "1/3"], ["1/9", "1/3"]]
    assert set(steps[0].scores) > {"size_bytes", "speedup"} and "accuracy" not in steps[0].scores
    assert 0 < steps[0].training_s < steps[1].training_s < steps[2].training_s
    assert steps[0].screening_s == steps[2].screening_s > 0 == steps[2].spared_s
    assert [(step.epochs, step.epochs_left) for step in steps] == [(1, 8), (3, 6), (9, 0)]
    assert len({step.prefix for step in steps}) == 1 and bool(steps[0].prefix) == store
    assert 0 < steps[2].rungs_s < steps[2].work_s
    assert epochs_in(tmp_path, 1) == [f"epoch {epoch}/9" for epoch in range(1, 10)]
    torch.testing.assert_close(weights(tmp_path, 1), whole, rtol=0, atol=0)
    assert Outcome.from_json((trial_folder(tmp_path, 1) / "outcome.json").read_text()) == steps[2]


def test_another_process_goes_on_with_a_trial_that_was_stopped(
    hurdles: Hurdles, whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    first = runner(tmp_path).run(1, PRUNED, hurdles)
    assert first.state == STOPPED and partial_folder(tmp_path, 1).is_dir()
    other = runner(tmp_path)
    steps = [other.run(7, PRUNED, hurdles) for _ in range(3)]
    assert [(step.state, step.rungs) for step in steps[:1]] == [(STOPPED, first.rungs)]  # no epoch was trained for it
    assert epochs_in(tmp_path, 7) == [f"epoch {epoch}/9" for epoch in range(2, 10)]
    assert steps[2].spared_s == pytest.approx(first.training_s)
    torch.testing.assert_close(weights(tmp_path, 7), whole, rtol=0, atol=0)


def test_others_with_the_same_prefix_go_on_from_there_too(hurdles: Hurdles, tmp_path: Path) -> None:
    first = runner(tmp_path).run(1, PRUNED, hurdles)
    sibling = recipe("structured_magnitude", "soft_labels", "float16_storage")
    found = runner(tmp_path).run(2, sibling, hurdles)
    assert (found.state, found.rungs) == (STOPPED, first.rungs)
    assert (found.prefix, found.epochs, found.spared_s) == (first.prefix, 1, first.training_s)
    assert found.scores["size_bytes"] > first.scores["size_bytes"]
    assert not list((tmp_path / "trials").glob("*/weights.safetensors"))


def test_a_process_that_is_given_another_trial_leaves_the_first_as_it_is(hurdles: Hurdles, tmp_path: Path) -> None:
    carried_out = runner(tmp_path)
    assert carried_out.run(1, PRUNED, hurdles).state == STOPPED
    other = carried_out.run(2, recipe("int8_weight_only", epochs=1), hurdles)
    assert (other.state, other.rungs) == (OK, {})
    assert not trial_folder(tmp_path, 1).exists()


def test_who_is_not_screened_or_not_to_be_stopped_is_not_halted(hurdles: Hurdles, tmp_path: Path) -> None:
    assert runner(tmp_path).run(1, recipe("int8_weight_only", epochs=3), None).state == OK
    assert runner(tmp_path, stopping=False).run(2, recipe("float16_storage", epochs=3), hurdles).state == OK


def test_methods_that_act_step_by_step_are_not_halted(hurdles: Hurdles, tmp_path: Path) -> None:
    outcome = runner(tmp_path).run(1, recipe("unstructured_movement", epochs=3), hurdles)
    assert (outcome.state, outcome.rungs) == (OK, {})


def test_a_rung_is_told_once(hurdles: Hurdles) -> None:
    known = Progress(1, screened={"size_bytes": 1.0})
    assert [known.until(done, 9) for done in (0, 1, 2, 3, 4)] == [1, 1, 3, 3, None]
    known.rungs["1/9"] = 0.5
    assert [known.until(done, 9) for done in (0, 1, 3)] == [3, 3, 3]
    assert Progress(1).until(0, 9) is None


def test_the_sample_is_spread_and_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data: Samples = tiny_data(10, 0)
    assert sample(data) is data
    monkeypatch.setattr(progress, "SAMPLES", 4)
    rows = [sample(data)[index][0] for index in range(4)]
    assert all(torch.equal(row, data[index][0]) for row, index in zip(rows, (0, 2, 5, 7), strict=True))
    task = images()
    assert 0 <= rung_score(task.trained_model(), task, CPU) <= 1
