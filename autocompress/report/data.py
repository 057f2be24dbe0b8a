"""A run as data for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from autocompress.errors import NothingFits
from autocompress.report.explain import explanation_data
from autocompress.run import Run, Trial


def failures(run: Run) -> dict[str, list[int]]:
    """Numbers of the failed trials by cause."""
    found: dict[str, list[int]] = {}
    for number, (_, outcome) in run.all_trials.items():
        if outcome.failed:
            found.setdefault(outcome.state, []).append(number)
    return found


def as_data(run: Run) -> dict[str, Any]:
    """The result of a search."""
    data = status_data(run)
    data["front"] = [trial_data(run.trial(int(number))) for number in run.front.index]
    data["baseline"] = trial_data(run.baseline)
    data |= explanation_data(run)
    data["surroundings"] = without_samples(run.surroundings)
    try:
        data["best"] = trial_data(run.best())
    except NothingFits as nothing:
        data["best"], data["nearest"] = None, str(nothing)
    return data


def status_data(run: Run) -> dict[str, Any]:
    states = Counter(outcome.state for _, outcome in run.all_trials.values())
    return {
        "run": str(run.path),
        "targets": list(run.config.targets),
        "limits": list(run.config.limits),
        "budget": run.config.budget.plain(),
        "trials": len(run.all_trials),
        "states": dict(states),
        "failures": failures(run),
        "savings": run.savings.plain(),
        "rungs": {name: rung.plain() for name, rung in run.rungs.items()},
    }


def best_data(run: Run, best: Trial) -> dict[str, Any]:
    return {"run": str(run.path), "best": trial_data(best), "baseline": trial_data(run.baseline)}


def without_samples(data: Any) -> Any:
    """Without raw samples of latency, of which there are thousands; the run's folder has them."""
    if isinstance(data, Mapping):
        return {name: without_samples(value) for name, value in data.items() if not name.endswith("samples_ms")}
    return [without_samples(value) for value in data] if isinstance(data, list) else data


def trial_data(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "recipe": trial.recipe.plain(),
        "proposed": dict(trial.proposed),
        "scores": trial.scores,
        "test_scores": trial.test_scores,
        "final": None if trial.final is None else without_samples(trial.final.plain()),
        "path": str(trial.path),
    }
