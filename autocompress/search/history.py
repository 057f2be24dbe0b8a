"""What a sampler reads in a study: what finished, what failed, what still runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autocompress.search.hypervolume import front

Array = npt.NDArray[np.float64]
MEASURED = "measured"
"""The attribute of a pruned trial with the objectives that are known of it all the same, None for the others."""
Key = tuple[tuple[str, Any], ...]


def key_of(params: Mapping[str, Any]) -> Key:
    """Equal for equal recipes: floats are compared to nine digits."""
    items = sorted(params.items())
    return tuple((name, float(f"{value:.9g}") if isinstance(value, float) else value) for name, value in items)


class History:
    """The trials of a study, each finished one read once. Objectives are turned so that smaller is better."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self._signs = np.array([-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
        self._read: set[int] = set()
        self._numbers: dict[Key, int] = {}
        self.scored: list[FrozenTrial] = []
        """Complete trials with finite values; of a repeated recipe, the first."""
        self.best: list[FrozenTrial] = []
        """The feasible front; as long as nothing is feasible, the few trials that break the limits least."""
        self.screened: list[FrozenTrial] = []
        """Trials that ended before their training, with what was measured of them."""
        self._failed: dict[Key, FrozenTrial] = {}
        self.running: list[FrozenTrial] = []
        self._others: set[Key] = set()
        self._live: set[Key] = set()
        self.asked = self.queued = 0
        """Trials that took a sampler's proposal, and those that others thought of."""

    def update(self, current: int) -> list[FrozenTrial]:
        """Read what is new; returns the newly scored. `current` is the number of the trial that is being proposed."""
        trials = self.study.get_trials(deepcopy=False)
        self.queued = sum("fixed_params" in trial.system_attrs for trial in trials if trial.number != current)
        self.asked = sum(trial.number != current for trial in trials) - self.queued
        self.running = [t for t in trials if t.state is TrialState.RUNNING and t.number != current]
        self._live = {key_of(trial.params) for trial in self.running}
        before = len(self.scored)
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._read:
                self._read.add(trial.number)
                self._take(trial)
        if len(self.scored) > before:
            self.best = self._best([trial for trial in self.best if violation(trial) <= 0] + self.scored[before:])
        return self.scored[before:]

    def __contains__(self, params: Mapping[str, Any]) -> bool:
        """Whether a recipe was tried or is being tried."""
        key = key_of(params)
        return key in self._numbers or key in self._others or key in self._live

    @property
    def failed(self) -> list[FrozenTrial]:
        """Failed trials whose recipe never ended well."""
        return list(self._failed.values())

    def values(self, trials: Sequence[FrozenTrial]) -> Array:
        """What trials scored, smaller being better: (trials, objectives)."""
        return self.turned([trial.values for trial in trials])

    def measured(self, trials: Sequence[FrozenTrial]) -> Array:
        """The same of screened trials, NaN for what is not known."""
        told = [trial.user_attrs[MEASURED] for trial in trials]
        return self.turned([[np.nan if value is None else value for value in values] for values in told])

    def turned(self, values: npt.ArrayLike) -> Array:
        """Values (..., objectives) turned so that smaller is better, or turned back."""
        return np.asarray(np.reshape(values, (-1, len(self._signs))) * self._signs)

    def _best(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        feasible = [trial for trial in trials if violation(trial) <= 0]
        if not feasible:
            return sorted(self.scored, key=violation)[:5]
        return [feasible[index] for index in front(self.values(feasible))]

    def _take(self, trial: FrozenTrial) -> None:
        key = key_of(trial.params)
        if trial.state is TrialState.COMPLETE and all(math.isfinite(value) for value in trial.values):
            self._failed.pop(key, None)
            if key not in self._numbers:
                self._numbers[key] = trial.number
                self.scored.append(trial)
            return
        if trial.state is TrialState.PRUNED and MEASURED in trial.user_attrs:
            self.screened.append(trial)
        if trial.state is TrialState.FAIL and key not in self._numbers:
            self._failed[key] = trial
        self._others.add(key)


def violation(trial: FrozenTrial) -> float:
    """How far a trial is beyond its limits, all together; zero when it holds them."""
    return sum(max(value, 0.0) for value in trial.constraints.values())
