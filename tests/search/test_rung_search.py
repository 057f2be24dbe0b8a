"""A whole search whose trials are stopped at rungs: real Ray, real trainings."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from autocompress import Budget, Recipe, Recovery, Run, SearchSpace, Step, Task, search
from autocompress.compress import resolve
from autocompress.outcome import STOPPED
from autocompress.plugins import registry
from tests.conftest import tiny_data, tiny_model

RATES = (3e-2, 2e-2, 1e-6, 2e-6, 3e-6, 4e-6, 5e-6, 6e-6)


def slow_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """So that a training takes longer than the look before it, and rungs are worth while."""
    time.sleep(0.1)
    return torch.nn.functional.cross_entropy(outputs, targets)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two recipes that learn, and then some that do not. The limit makes quality alone decide, and not a latency."""
    task = Task(
        model=tiny_model, train=tiny_data(64, 1), validation=tiny_data(256, 2), test=tiny_data(32, 3), name="rungs",
        loss=slow_loss,
    )  # fmt: skip
    steps = (Step(method="structured_magnitude", params={"ratio": 0.25}),)
    recipes = [Recipe(steps=steps, recovery=Recovery(epochs=9, batch_size=16, learning_rate=rate)) for rate in RATES]
    return search(
        task,
        space=SearchSpace(
            methods={"structured_magnitude": {"ratio": 0.25}},
            recovery={"batch_size": 16, "epochs": [9], "learning_rate": {"low": 1e-6, "high": 1e-1}},
        ),
        recipes=[resolve(recipe, registry(), task) for recipe in recipes],
        portfolio=False,
        budget=Budget(trials=1 + len(RATES)),
        runs=tmp_path_factory.mktemp("runs"),
        limits=["accuracy >= 100%"],  # met by none, so that no front is judged again
        target="cpu@1",
        workers=1,
        latency_seconds=0.05,
        hardware_seconds=0,
    )


def log(run: Run, number: int) -> str:
    return (run.path / "trials" / f"{number:05d}" / "log.txt").read_text()


def epochs(run: Run, number: int) -> int:
    return log(run, number).count(": loss ")


def test_who_does_not_learn_is_stopped_and_who_learns_is_not(run: Run) -> None:
    assert run.trials["state"].to_list() == ["infeasible"] * 3 + [STOPPED] * 6
    assert [epochs(run, number) for number in (1, 2, 3, 4)] == [9, 9, 1, 1]
    assert run.trials["error"][3] == "at 1/9 of its epochs it is number 3 of 3, and the best one goes on"


def test_a_stopped_trial_goes_on_from_its_checkpoint_when_there_is_room(run: Run) -> None:
    """Of seven at the first rung three go on; at the next one it is the third again, and the best one goes on."""
    promoted = {number: why["promoted"] for number, why in run.proposed.items() if "promoted" in why}
    assert promoted == {8: 3}
    assert "trial 3 goes on from 1/9 of its epochs" in run.trials["proposed"][8]
    assert [line[:9] for line in log(run, 8).splitlines() if line.startswith("epoch")] == ["epoch 2/9", "epoch 3/9"]
    assert list(run.all_trials[8][1].rungs) == ["1/9", "1/3"]
    assert run.all_trials[8][1].spared_s == pytest.approx(run.all_trials[3][1].training_s)


def test_the_run_says_what_it_saved_and_what_the_rungs_are_worth(run: Run) -> None:
    assert run.savings.stopped == 5 and run.savings.stopped_s > 4 * 8 * 4 * 0.1  # four of them after one of 9 epochs
    assert {name: (rung.trials, rung.stopped) for name, rung in run.rungs.items()} == {"1/9": (2, 4), "1/3": (2, 1)}
    assert run.savings.spared == 0
