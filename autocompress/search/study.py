"""The Optuna study behind a search: proposes recipes, never the same one twice, and records how they ended."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from autocompress.limits import Limit, Scores
from autocompress.metric import Metric
from autocompress.outcome import INFEASIBLE, INTERRUPTED, OK, SCREENED, STOPPED, Outcome
from autocompress.parameters import Choice, Integer, Parameter
from autocompress.recipe import Recipe
from autocompress.run import DUPLICATE_OF, OUTCOME, PROMOTED, PROPOSED, RECIPE, outcome_of
from autocompress.search.candidates import Define, Params
from autocompress.search.history import MEASURED
from autocompress.search.mirror import Answer, MirroredStudy
from autocompress.search.sampler import STARTUP, GreyBoxSampler
from autocompress.search.screening import LEAST_SEEN, Hurdles, judgeable
from autocompress.selection import time_ratios
from autocompress.space import BoundSpace, grid_size, grid_value

SamplerFactory = Callable[[Define, int], optuna.samplers.BaseSampler]
MOST_FREE, LONG = 15, 200
"""Trials that a long search begins with before its model has a say, and the trials of such a search."""
RANDOM_DRAWS = 1000
"""Draws for a recipe that was not tried, before the space counts as exhausted."""


@dataclass(frozen=True)
class Proposal:
    number: int
    recipe: Recipe
    proposed: Mapping[str, Any] = field(default_factory=dict)
    """Why, as plain data: its `origin` in words, and what the sampler expected (see `Reason`)."""
    hurdles: Hurdles | None = None
    """What the trial is screened by; None for not at all."""


class SearchStudy:
    """Ask and tell, over a study whose only writer is this process."""

    def __init__(
        self,
        url: str,
        space: BoundSpace,
        objective: Metric,
        limits: Sequence[Limit],
        seed: int,
        sampler: SamplerFactory | None = None,
        targets: int = 1,
        screening: bool = True,
    ) -> None:
        """Opens or creates the study; `sampler` makes another sampler than the grey-box one, from space and seed."""
        self._space, self._objective, self._limits, self._screening = space, objective, limits, screening
        self._study = MirroredStudy(url, directions_of(objective, targets))
        known = len(self._study.trials)
        self._sampler = (sampler or grey_box)(functools.partial(walk, space), seed + known)
        self._study.set_sampler(self._sampler)
        self._rng = random.Random(seed + known)
        self._queue: list[tuple[Recipe, Mapping[str, Any]]] = []
        self._live: dict[int, Proposal] = {}
        self._recipes: dict[int, Recipe] = {}
        self._seen: dict[str, int] = {}
        self.outcomes: dict[int, Outcome] = {}
        for trial in self._study.trials:
            self._remember(trial)
        self._queue = [queued for queued in self._queue if queued[0].key not in self._seen]  # some were run again since

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

    def enqueue(self, recipe: Recipe, why: str = "queued") -> None:
        """To be proposed before anything the sampler thinks of, unless it is known already."""
        self._enqueue(recipe, {"origin": why})

    @property
    def latest(self) -> list[int]:
        """Of each recipe the latest trial; a stopped one has a later one if it went on."""
        return list(self._seen.values())

    def promote(self, number: int) -> None:
        """Propose a stopped trial's recipe next, so that it goes on from its rung."""
        rung, recipe = self.outcomes[number].rung, self._recipes[number]
        self._seen.pop(recipe.key)
        why = {"origin": f"trial {number} goes on from {rung} of its epochs", PROMOTED: number}
        self._queue.insert(0, (recipe, why))

    def ask(self) -> Proposal | None:
        """A recipe that was not tried, or None when the space has no other.

        A repeated proposal is answered from the store, and an untried random recipe takes its place.
        """
        while True:
            queued, proposed = self._queue.pop(0) if self._queue else (None, None)
            trial = self._study.ask(None if queued is None else self._space.choices(queued))
            recipe = define(self._space, trial)
            twin = self._seen.get(recipe.key)
            if twin is None:
                proposal = Proposal(trial.number, recipe, self._reason(trial) if proposed is None else proposed)
                self._study.start(trial, {RECIPE: recipe.plain(), PROPOSED: dict(proposal.proposed)})
                self._seen[recipe.key] = trial.number
                self._live[trial.number], self._recipes[trial.number] = proposal, recipe
                return replace(proposal, hurdles=self._hurdles())
            self._study.add(trial, self._answer(self.outcomes.get(twin), {DUPLICATE_OF: twin}))
            fresh = self._untried()
            if fresh is None:
                return None
            self.enqueue(fresh, f"random, in place of trial {twin} once more")

    def tell(self, number: int, outcome: Outcome) -> Outcome:
        """Record how a proposed trial ended; returns the outcome with the limits applied."""
        outcome = self._judge(outcome)
        proposal = self._live.pop(number)
        self.outcomes[number] = outcome
        self._study.finish(number, self._answer(outcome, {OUTCOME: json.loads(outcome.to_json())}))
        if outcome.state == INTERRUPTED:
            del self._seen[proposal.recipe.key]
            self._enqueue(proposal.recipe, proposal.proposed)
        return outcome

    def adopt_orphans(self, recorded: Callable[[int], Outcome | None]) -> None:
        """Close what a dead driver left running: adopt results that are whole on disk, queue the rest again."""
        for number in list(self._live):
            self.tell(number, recorded(number) or Outcome(INTERRUPTED))

    def close(self) -> None:
        """Tell whatever still runs as interrupted; a continued search runs it again."""
        for number in list(self._live):
            self.tell(number, Outcome(INTERRUPTED))

    def _remember(self, trial: FrozenTrial) -> None:
        """Take over a trial of an earlier call. An interrupted one is run again, and so is a baseline that failed."""
        if RECIPE not in trial.user_attrs:
            return  # an answered duplicate
        recipe = Recipe.parse(trial.user_attrs[RECIPE], f"trial {trial.number}")
        self._recipes[trial.number] = recipe
        proposed, outcome = trial.user_attrs.get(PROPOSED, {}), outcome_of(trial)
        if trial.state == TrialState.RUNNING:  # even with an outcome: its driver died while it told that
            self._live[trial.number] = Proposal(trial.number, recipe, proposed)
        elif outcome is not None:
            self.outcomes[trial.number] = outcome
            if outcome.state == INTERRUPTED:
                self._enqueue(recipe, proposed)
                return
            if recipe == Recipe() and outcome.failed:
                return
        self._seen[recipe.key] = trial.number

    def _enqueue(self, recipe: Recipe, proposed: Mapping[str, Any]) -> None:
        if recipe.key not in self._seen and all(recipe != queued for queued, _ in self._queue):
            self._queue.append((recipe, proposed))

    def _judge(self, outcome: Outcome) -> Outcome:
        if outcome.state != OK:
            return outcome
        baseline = self.baseline or outcome.scores  # the baseline itself comes first
        violated = any(limit.violation(outcome.scores, baseline) > 0 for limit in self._limits)
        return replace(outcome, state=INFEASIBLE) if violated else outcome

    def _hurdles(self) -> Hurdles | None:
        """What is known of baseline and front, for the worker to screen by."""
        if not self._screening or self.baseline is None:
            return None
        within = [outcome.scores for outcome in self.outcomes.values() if outcome.state == OK]
        if len(within) < LEAST_SEEN:
            return Hurdles(self.baseline)
        name, sign = self._objective.name, 1 if self._objective.higher_is_better else -1
        best = max(sign * outcome.scores[name] for outcome in self.outcomes.values() if outcome.scored)
        return Hurdles(self.baseline, tuple(scores for scores in within if sign * scores[name] == best))

    def _answer(self, outcome: Outcome | None, attributes: dict[str, Any]) -> Answer:
        """What Optuna is told of an outcome.

        A scored trial is COMPLETE; one that was screened or stopped PRUNED, with the limits that it breaks and the
        objectives that were measured; any other FAIL.
        """
        if outcome is None or not (outcome.scored or outcome.state in (SCREENED, STOPPED)):
            return Answer(TrialState.FAIL, attributes)
        scores, baseline = outcome.scores, self.baseline or outcome.scores
        known = [limit for limit in self._limits if outcome.scored or judgeable(limit, scores)]
        constraints = {limit.text: limit.violation(scores, baseline) for limit in known}
        if outcome.scored:
            values = [scores[self._objective.name], scores["size_bytes"], *time_ratios(scores)]
            return Answer(TrialState.COMPLETE, attributes, constraints, values)
        unknown = [None] * (len(self._study.directions) - 2)
        measured = [None, scores["size_bytes"], *(time_ratios(scores) or unknown)]
        return Answer(TrialState.PRUNED, attributes | {MEASURED: measured}, constraints)

    def _reason(self, trial: Trial) -> dict[str, Any]:
        """Why the sampler proposed a recipe."""
        if isinstance(self._sampler, GreyBoxSampler):
            return self._sampler.reasons[trial.number].plain()
        return {"origin": type(self._sampler).__name__}

    def _untried(self) -> Recipe | None:
        for _ in range(RANDOM_DRAWS):
            recipe = self._space.random_recipe(self._rng)
            if recipe.key not in self._seen:
                return recipe
        return None


def directions_of(objective: Metric, targets: int) -> list[StudyDirection]:
    """Of quality, bytes, and for each target time as a share of the baseline's."""
    best = StudyDirection.MAXIMIZE if objective.higher_is_better else StudyDirection.MINIMIZE
    return [best, *[StudyDirection.MINIMIZE] * (1 + targets)]


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


def define(space: BoundSpace, trial: Trial) -> Recipe:
    """The recipe that a trial's suggestions make: the space as Optuna knows it."""
    return space.recipe(functools.partial(suggest, trial))


def walk(space: BoundSpace, trial: Trial) -> None:
    """The same suggestions without the recipe."""
    space.walk(functools.partial(suggest, trial))


def grey_box(define: Define, seed: int, **options: Any) -> GreyBoxSampler:
    """The sampler of a search; options are those of `GreyBoxSampler`."""
    return GreyBoxSampler(define, seed=seed, seconds=_whole_s, **options)


def free_beginning(trials: int | None) -> int:
    """How many trials come before the sampler's model has a say: few where trials are few, or nobody knows how many.

    A search of 200 trials is better from the beginning with fifteen, and a search of a quarter of an hour with five
    (benchmarks/search_quality.md, benchmarks/search_rivals.md).
    """
    return min(max((trials or 0) * MOST_FREE // LONG, STARTUP), MOST_FREE)


def sharing_grey_box(space: BoundSpace, **options: Any) -> SamplerFactory:
    """The same where trainings are shared: it knows what a recipe costs whose training is there."""
    shared = functools.partial(prefix_params, space)
    return functools.partial(grey_box, shared=shared, after_training=_after_training_s, **options)


def prefix_params(space: BoundSpace, params: Params) -> dict[str, Any]:
    """Those of a recipe's parameters that its training depends on; none of a recipe without."""
    trained = {"recovery", *space.needs_training}
    return {name: value for name, value in params.items() if name.split(".")[0] in trained or value in trained}


def _whole_s(trial: FrozenTrial) -> float | None:
    """As if nothing had been shared."""
    outcome = outcome_of(trial)
    return None if outcome is None else outcome.work_s + outcome.spared_s


def _after_training_s(trial: FrozenTrial) -> float | None:
    outcome = outcome_of(trial)
    return None if outcome is None else outcome.work_s - outcome.training_s
