"""Another Optuna sampler, asked for whole recipes without touching the study that they are for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autocompress.search.candidates import Define

MEMORY = 150
"""Trials that it sees, the newest: TPE's time grows with their number."""


class Underneath:
    """A study of its own with copies of the newest scored trials."""

    def __init__(self, sampler: BaseSampler, directions: Sequence[StudyDirection], define: Define) -> None:
        self._fresh, self._directions, self._define = sampler, directions, define
        self._trials: list[FrozenTrial] = []
        self._restart()

    @property
    def name(self) -> str:
        return type(self._fresh).__name__

    def learn(self, trials: Sequence[FrozenTrial]) -> None:
        """Trials that were scored since."""
        self._trials += trials
        if len(self._study.get_trials(deepcopy=False)) + len(trials) > 2 * MEMORY:
            self._restart()
        else:
            self._study.add_trials(trials)

    def propose(self) -> dict[str, Any]:
        trial = self._study.ask()
        self._define(trial)
        self._study.tell(trial, state=TrialState.FAIL)
        return trial.params

    def _restart(self) -> None:
        # a sampler serves one study, and this one has too many trials
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # a new study would be announced to the user
        self._study = optuna.create_study(sampler=copy.deepcopy(self._fresh), directions=self._directions)
        optuna.logging.set_verbosity(verbosity)
        self._trials = self._trials[-MEMORY:]
        self._study.add_trials(self._trials)
