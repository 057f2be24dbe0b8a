"""The Optuna study behind a search: proposes recipes, never the same one twice, and records how they ended."""

from __future__ import annotations

import functools
import json
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from autocompress.limits import Limit, Scores
from autocompress.metric import Metric
from autocompress.outcome import INFEASIBLE, INTERRUPTED, OK, Outcome
from autocompress.parameters import Choice, Integer, Parameter
from autocompress.recipe import Recipe
from autocompress.run import DUPLICATE_OF, OUTCOME, RECIPE, STUDY_NAME, outcome_of
from autocompress.space import BoundSpace, grid_size, grid_value

RANDOM_DRAWS = 200
"""Draws for a recipe that was not tried, before the space counts as exhausted."""


@dataclass(frozen=True)
class Proposal:
    number: int
    recipe: Recipe


class SearchStudy:
    """Ask and tell, over a study whose only writer is this process."""

    def __init__(self, url: str, space: BoundSpace, objective: Metric, limits: Sequence[Limit], seed: int) -> None:
        self._space, self._objective, self._limits = space, objective, limits
        best = StudyDirection.MAXIMIZE if objective.higher_is_better else StudyDirection.MINIMIZE
        directions = [best, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]  # quality, bytes, time by the baseline's
        self._study = optuna.create_study(
            storage=open_storage(url), study_name=STUDY_NAME, directions=directions, load_if_exists=True
        )
        finished = self._study.get_trials(deepcopy=False)
        self._study.sampler = _sampler(seed + len(finished))
        self._rng = random.Random(seed + len(finished))
        self._live: dict[int, Trial] = {}
        self._seen: dict[str, int] = {}
        self.outcomes: dict[int, Outcome] = {}
        for trial in finished:
            self._remember(trial)

    @property
    def baseline(self) -> Scores | None:
        """The baseline's scores, once it was scored."""
        number = self._seen.get(Recipe().key)
        outcome = None if number is None else self.outcomes.get(number)
        return outcome.scores if outcome is not None and outcome.scored else None

    @property
    def count(self) -> int:
        """Trials that ended and count for the budget."""
        return sum(outcome.counts for outcome in self.outcomes.values())

    def enqueue(self, recipe: Recipe) -> None:
        """To be proposed before anything the sampler thinks of, unless it is known already."""
        if recipe.key in self._seen:
            return
        choices = self._space.choices(recipe)
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if all(trial.system_attrs.get("fixed_params") != choices for trial in waiting):
            self._study.enqueue_trial(choices)

    def ask(self) -> Proposal | None:
        """A recipe that was not tried, or None when the space has no other.

        A repeated proposal is answered from the store, and an untried random recipe takes its place.
        """
        while True:
            trial = self._study.ask()
            recipe = self._space.recipe(functools.partial(suggest, trial))
            twin = self._seen.get(recipe.key)
            if twin is None:
                trial.set_user_attr(RECIPE, recipe.plain())
                self._seen[recipe.key] = trial.number
                self._live[trial.number] = trial
                return Proposal(trial.number, recipe)
            self._answer(trial, twin)
            fresh = self._untried()
            if fresh is None:
                return None
            self.enqueue(fresh)

    def tell(self, number: int, outcome: Outcome) -> Outcome:
        """Record how a proposed trial ended; returns the outcome with the limits applied."""
        outcome = self._judge(outcome)
        self._record(self._live.pop(number), outcome)
        if outcome.state == INTERRUPTED:
            self._seen = {key: seen for key, seen in self._seen.items() if seen != number}
        return outcome

    def adopt_orphans(self, recorded: Callable[[int], Outcome | None]) -> None:
        """Close what a dead driver left running: adopt results that are whole on disk, queue the rest again."""
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if RECIPE not in frozen.user_attrs:  # it died while asking
                self._study.tell(frozen.number, state=TrialState.FAIL)
                continue
            recipe = Recipe.parse(frozen.user_attrs[RECIPE], f"trial {frozen.number}")
            self._live[frozen.number] = Trial(self._study, frozen._trial_id)
            outcome = self.tell(frozen.number, recorded(frozen.number) or Outcome(INTERRUPTED))
            if outcome.state == INTERRUPTED:
                self.enqueue(recipe)

    def close(self) -> None:
        """Tell whatever still runs as interrupted; a continued search runs it again."""
        for number in list(self._live):
            recipe = Recipe.parse(self._live[number].user_attrs[RECIPE], f"trial {number}")
            self.tell(number, Outcome(INTERRUPTED))
            self.enqueue(recipe)

    def _remember(self, trial: FrozenTrial) -> None:
        if RECIPE not in trial.user_attrs:
            return
        outcome = outcome_of(trial)
        if outcome is not None:
            self.outcomes[trial.number] = outcome
        recipe = Recipe.parse(trial.user_attrs[RECIPE], f"trial {trial.number}")
        again = outcome is not None and (outcome.state == INTERRUPTED or (recipe == Recipe() and outcome.failed))
        if not again:
            self._seen[recipe.key] = trial.number

    def _judge(self, outcome: Outcome) -> Outcome:
        if outcome.state != OK:
            return outcome
        baseline = self.baseline or outcome.scores  # the baseline itself comes first
        violated = any(limit.violation(outcome.scores, baseline) > 0 for limit in self._limits)
        return replace(outcome, state=INFEASIBLE) if violated else outcome

    def _record(self, trial: Trial, outcome: Outcome) -> None:
        self.outcomes[trial.number] = outcome
        trial.set_user_attr(OUTCOME, json.loads(outcome.to_json()))
        self._tell(trial, outcome)

    def _answer(self, trial: Trial, twin: int) -> None:
        """Tell a repeated proposal what its twin scored; one that failed or still runs has nothing to tell."""
        trial.set_user_attr(DUPLICATE_OF, twin)
        self._tell(trial, self.outcomes.get(twin))

    def _tell(self, trial: Trial, outcome: Outcome | None) -> None:
        if outcome is None or not outcome.scored:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        scores = outcome.scores
        for limit in self._limits:
            trial.set_constraint(limit.text, limit.violation(scores, self.baseline or scores))
        self._study.tell(trial, [scores[self._objective.name], scores["size_bytes"], 1 / scores["speedup"]])

    def _untried(self) -> Recipe | None:
        for _ in range(RANDOM_DRAWS):
            recipe = self._space.random_recipe(self._rng)
            if recipe.key not in self._seen:
                return recipe
        return None


def suggest(trial: Trial, name: str, parameter: Parameter) -> Any:
    """The sampler's value for a parameter, by Optuna's distribution of the same kind."""
    if isinstance(parameter, Choice):
        return trial.suggest_categorical(name, parameter.options)
    if isinstance(parameter, Integer):
        return trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log)
    if parameter.step:
        high = grid_value(parameter, grid_size(parameter) - 1)
        return trial.suggest_float(name, parameter.low, high, step=parameter.step)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """A study's database; SQLite waits for a reader instead of failing."""
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():  # both options are called experimental; they are what conditional spaces need
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)
