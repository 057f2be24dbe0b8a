"""How many trials run at a time."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress import Budget, Recipe, SearchSpace, Step, Target, Task
from autocompress.errors import RunError
from autocompress.plugins import registry
from autocompress.search import engine, ray_environment
from autocompress.search.settings import Settings
from autocompress.search.workers import trials_that_fit, with_workers
from autocompress.space import bind
from autocompress.training_memory import HEADROOM, TrainingMemory

SPACE = SearchSpace.parse({"methods": {"int8_weight_only": None}, "recovery": {"batch_size": [16, 128]}}, "test")


@pytest.fixture
def settings(task: Task, tmp_path: Path) -> Settings:
    recipes = tuple(Recipe(steps=(Step(method=name),)) for name in ("int8_weight_only", "half_precision"))
    return Settings(
        task, SearchSpace(), (), Budget(trials=3), (Target("cpu"),), tmp_path / "run", recipes, 0, 0, 0.1, 0, False
    )


def resolved(settings: Settings) -> Settings:
    return with_workers(settings, bind(SPACE, settings.task, registry(), Target("cpu")))


@pytest.mark.parametrize("threads", [1, 2, 1000])
def test_a_cpu_has_a_trial_for_as_many_threads_as_each_takes(threads: int, settings: Settings) -> None:
    found = resolved(replace(settings, targets=(Target("cpu", threads=threads),)))
    assert found.workers == max(1, (os.cpu_count() or 1) // threads)
    assert found.gpu_share == 0


def test_what_was_said_holds(settings: Settings) -> None:
    assert resolved(replace(settings, workers=7)).workers == 7


@pytest.mark.parametrize(("free_gb", "fits"), [(1, 1), (8, 1), (9, 2), (14, 3), (10**6, 100)])
def test_a_gpu_has_as_many_as_its_free_memory_holds(free_gb: int, fits: int) -> None:
    """Each takes 1 GB for its process, 0.5 for the weights and 2 for a batch."""
    memory = TrainingMemory(fixed_bytes=500_000_000, sample_bytes=20_000_000)
    assert trials_that_fit(memory, 100, free_gb * 10**9) == fits
    assert fits == 1 or fits * 3.5 <= HEADROOM * free_gb


def test_a_gpu_whose_driver_is_silent_has_one_trial_at_a_time(settings: Settings) -> None:
    assert trials_that_fit(TrainingMemory(0, 0), 1, None) == 1
    found = resolved(replace(settings, targets=(Target("cuda:9"),)))  # there is no driver, or not so many
    assert (found.workers, found.gpu_share) == (1, 1.0)


def test_trials_that_share_a_gpu_of_rays_run_side_by_side(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray hands out shares of what it was told there is, also where there is no GPU."""
    monkeypatch.setattr(engine, "with_workers", lambda settings, space: replace(settings, workers=2, gpu_share=0.5))
    run = engine.run_search(settings)
    assert run.trials["state"].tolist() == ["ok"] * 3


def test_a_ray_without_gpus_is_refused() -> None:
    ray_environment.prepare()
    from autocompress.search.ray_session import session

    with session(1), pytest.raises(RunError, match="the Ray that this process is connected to has none"):
        with session(1, gpu_share=0.5):
            pass
