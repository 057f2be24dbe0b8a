"""Sensitivities of layers are measured once for all trials of a run."""

from __future__ import annotations

from pathlib import Path

from autocompress import Recipe, Step, Target, Task
from autocompress.compress import resolve
from autocompress.plugins import registry
from autocompress.search.trial import PROFILES, TrialContext, TrialRunner


def test_a_trial_leaves_its_profile_to_the_others_of_the_run(task: Task, tmp_path: Path) -> None:
    steps = (Step(method="structured_magnitude", params={"scope": "sensitivity", "round_to": 1}),)
    recipe = resolve(Recipe(steps=steps), registry(), task)
    context = TrialContext(task, (Target("cpu"),), tmp_path, seed=0, minutes_per_trial=None, latency_seconds=0.05)
    assert TrialRunner(context).run(1, recipe).scored
    [profile] = (tmp_path / PROFILES).iterdir()
    before = profile.stat().st_mtime_ns
    assert TrialRunner(context).run(2, recipe).scored
    assert [file.stat().st_mtime_ns for file in (tmp_path / PROFILES).iterdir()] == [before]
