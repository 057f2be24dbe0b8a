"""What candidates are expected to score, from the trials that finished and from what is known before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from autocompress.search.embedding import Embedding
from autocompress.search.history import History
from autocompress.search.surrogate import GaussianProcess

Array = npt.NDArray[np.float64]
Params = Mapping[str, Any]
Costs = Callable[[Params], Sequence[float] | None]
"""The objectives of a recipe that are known before it is trained, one value each, NaN for the others; None for none."""
Seconds = Callable[[FrozenTrial], float | None]
"""What a finished trial took."""

SCREENED = 100
"""Screened trials that are learned from, the newest, so that its time is bounded."""
DRAWS = np.array([NormalDist().inv_cdf((index + 0.5) / 16) for index in range(16)])
"""Quantiles of the normal distribution that stand for it."""
BOLDNESS = 0.25
"""Share of the objectives' uncertainty that counts for a gain: with few trainings, it pays to trust the model more than
it does itself (benchmarks/search_quality.md)."""
SAME = 0.02
"""Share of a limit's spread that an objective may leave unexplained where the limit bounds that objective."""


@dataclass(frozen=True)
class Outlook:
    """What candidates are expected to score; objectives turned so that smaller is better."""

    samples: Array
    """Draws of the objectives, independent of each other and bold: (draws, candidates, objectives)."""
    feasible: Array
    """Probability of ending well and meeting every limit: (candidates,)."""
    violation: Array
    """Expected distance beyond the limits: (candidates,)."""
    seconds: Array
    """Expected duration, all ones while no trial tells its own: (candidates,)."""
    timed: bool
    """Whether the durations are seconds."""

    @property
    def expected(self) -> Array:
        """Means of the objectives: (candidates, objectives)."""
        return np.asarray(self.samples.mean(0))


class Forecaster:
    """Gaussian processes of objectives, limits, failures and seconds, which keep what they were tuned to."""

    def __init__(self, costs: Costs | None, seconds: Seconds | None, after_training: Seconds | None = None) -> None:
        """`after_training` tells what of a trial's seconds is left when its training is there already."""
        self._costs, self._seconds, self._after_training = costs, seconds, after_training
        self._names: tuple[str, ...] = ()
        self._processes: dict[str, GaussianProcess] = {}

    def fit(
        self,
        history: History,
        trials: Sequence[FrozenTrial],
        distributions: Mapping[str, BaseDistribution],
        pending: Sequence[Params],
    ) -> None:
        """Learn from scored trials, from what was measured of the screened, and from the failed.

        Recipes that are pending are believed to go as predicted.
        """
        if tuple(distributions) != self._names:
            self._names, self._embedding, self._processes = tuple(distributions), Embedding(distributions), {}
        screened = history.screened[-SCREENED:]
        self._history = history
        self._values = np.concatenate([history.values(trials), history.measured(screened)])
        scored, trials = len(trials), [*trials, *screened]
        rows = self._embedding([trial.params for trial in trials])
        beliefs = self._embedding(pending)
        self._targets: list[str] = []
        for index in range(self._values.shape[1]):
            told = ~np.isnan(self._values[:, index])
            self._learn(f"objective {index}", rows[told], self._values[told, index], beliefs)
        self._limits = {name: self._limit(name, trials, rows, beliefs) for name in _names_of_limits(trials)}
        failed = [trial.params for trial in history.failed[-scored:]]
        if failed:
            ends = np.concatenate([np.zeros(scored), np.ones(len(failed))])
            self._learn("failure", np.concatenate([rows[:scored], self._embedding(failed)]), ends, beliefs)
        self._usual_s = self._learn_seconds("seconds", self._seconds, trials[:scored], rows, beliefs)
        self._learn_seconds("after training", self._after_training, trials[:scored], rows, beliefs)

    def outlook(self, recipes: Sequence[Params], measure: bool, trained: Sequence[bool] | None = None) -> Outlook:
        """What recipes are expected to score; with `measure`, what can be known of them is asked for.

        `trained` says whose training is there already.
        """
        rows = self._embedding(recipes)
        known = self._known(recipes) if measure else np.full((len(recipes), self._values.shape[1]), np.nan)
        draws = np.stack([self._objective(index, rows, known[:, index]) for index in range(known.shape[1])], axis=2)
        feasible, violation = np.ones(len(recipes)), np.zeros(len(recipes))
        for name, follows in self._limits.items():
            excess = follows(draws) if follows else self._draws(f"limit {name}", rows)
            feasible *= (excess <= 0).mean(0)
            violation += np.maximum(excess, 0).mean(0)
        if "failure" in self._targets:
            feasible *= np.clip(1 - self._draws("failure", rows).mean(0), 0.02, 1)
        samples = draws.mean(0) + BOLDNESS * (draws - draws.mean(0))
        seconds = self._expected_seconds("seconds", rows)
        if trained is not None and "after training" in self._targets:
            seconds = np.where(trained, np.minimum(seconds, self._expected_seconds("after training", rows)), seconds)
        return Outlook(samples, feasible, violation, seconds, "seconds" in self._targets)

    def _objective(self, index: int, rows: Array, known: Array) -> Array:
        """Draws of an objective: (draws, candidates); what is known of a candidate is drawn each time."""
        if not np.isnan(known).any():
            return np.broadcast_to(known, (len(DRAWS), len(known)))
        return np.where(np.isnan(known), self._draws(f"objective {index}", rows), known)

    def _known(self, recipes: Sequence[Params]) -> Array:
        """What is known of recipes before training, turned; NaN for what is not: (recipes, objectives)."""
        nothing = [np.nan] * self._values.shape[1]
        given = [self._costs(recipe) if self._costs else None for recipe in recipes]
        return self._history.turned([nothing if values is None else values for values in given])

    def _learn(self, target: str, rows: Array, values: Array, beliefs: Array) -> None:
        process = self._processes.setdefault(target, GaussianProcess(self._embedding.blocks))
        process.fit(rows, values)
        if len(beliefs):
            process.believe(beliefs)
        self._targets.append(target)

    def _learn_seconds(
        self, target: str, seconds: Seconds | None, trials: Sequence[FrozenTrial], rows: Array, beliefs: Array
    ) -> float:
        """Learn what trials took, of those that tell it; gives the mean, or 1."""
        took = [seconds(trial) if seconds else None for trial in trials]
        timed = [index for index, taken in enumerate(took) if taken]
        if len(timed) > 1:
            self._learn(target, rows[timed], np.array([took[index] for index in timed]), beliefs)
        return float(np.mean([took[index] for index in timed])) if timed else 1.0

    def _draws(self, target: str, rows: Array) -> Array:
        process = self._processes[target]
        mean, deviation = process.predict(rows)
        return process.unwarp(mean + DRAWS[:, None] * deviation)

    def _limit(
        self, name: str, trials: Sequence[FrozenTrial], rows: Array, beliefs: Array
    ) -> Callable[[Array], Array] | None:
        """A limit that bounds one objective follows that objective's draws; another is learned by itself."""
        having = [index for index, trial in enumerate(trials) if name in trial.constraints]
        excess = np.array([trials[index].constraints[name] for index in having])
        for objective in range(self._values.shape[1]):
            line = _line(self._values[having, objective], excess)
            if line is not None:
                return _along(objective, *line)
        self._learn(f"limit {name}", rows[having], excess, beliefs)
        return None

    def _expected_seconds(self, target: str, rows: Array) -> Array:
        if target not in self._targets:
            return np.ones(len(rows))
        return np.asarray(np.maximum(self._draws(target, rows).mean(0), 0.05 * self._usual_s))


def _names_of_limits(trials: Sequence[FrozenTrial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial.constraints))


def _line(values: Array, excess: Array) -> tuple[float, float] | None:
    """Slope and height where the excess is a straight line over the values, where both are known."""
    known = ~np.isnan(values)
    values, excess = values[known], excess[known]
    if len(values) < 4 or not values.std() or not excess.std():
        return None
    slope = float(np.cov(values, excess, bias=True)[0, 1] / values.var())
    height = float(excess.mean() - slope * values.mean())
    return (slope, height) if (excess - slope * values - height).std() <= SAME * excess.std() else None


def _along(objective: int, slope: float, height: float) -> Callable[[Array], Array]:
    return lambda samples: np.asarray(slope * samples[:, :, objective] + height)
