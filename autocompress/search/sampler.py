"""A sampler for trials that are dear: much of what a recipe scores is known, or can be told, before it is trained.

Random search, neighbours of the front and another sampler offer candidates. Size and latency are given or predicted,
accuracy and seconds are predicted with their uncertainty, and the candidate is taken that is expected to add the most
hypervolume, times its probability of meeting the limits, per second. Grey-box Bayesian optimization after Astudillo and
Frazier, "Thinking inside the box" (2021); hypervolume as in Emmerich et al., "Computing the expected hypervolume
improvement" (2011); the space's structure as in Hutter et al., "Sequential Model-Based Optimization for General
Algorithm Configuration" (2011).
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from autocompress.search.acquisition import Yardstick
from autocompress.search.candidates import Define, Params, Space, random_value
from autocompress.search.forecast import Costs, Forecaster, Outlook, Seconds
from autocompress.search.history import History, Key, key_of, violation
from autocompress.search.underneath import Underneath

Array = npt.NDArray[np.float64]

NEIGHBOURS = 0.6
"""Share of the candidates that are neighbours of the front."""
FINALIZERS = 0.15
"""Share of the candidates that are other finalizers on what was trained before, where trainings are shared."""
STARTUP = 5
"""Trials before the model has a say, unless told otherwise: what was queued, and free exploration."""
LEAST_SCORED, LEAST_MEASURED = 2, 5
"""Trials that the model needs: scored ones, and, together with the screened, measured ones."""
MODEL_TRIALS = 300
"""Scored trials that the model learns from, so that its time is bounded."""
Shared = Callable[[Params], Params]
"""Those of a recipe's parameters that its training depends on: equal ones share it; none of a recipe without."""
DRAWS = 1000
"""Draws for a recipe that was not tried, before a repeated one is proposed."""


RANDOM = "random candidate"


class Candidate(NamedTuple):
    params: Params
    origin: str


@dataclass(frozen=True)
class Reason:
    """Why a recipe was proposed."""

    origin: str
    """`free exploration`, `neighbour of trial 12`, `other finalizers on the prefix of trial 12`, `random candidate`, or
    `candidate of TPESampler`."""
    expected: tuple[float, ...] | None = None
    """What it was expected to score, by objective."""
    gain: float | None = None
    """Hypervolume that it was expected to add, as a share of the front's; None while there is no feasible front."""
    feasible: float | None = None
    """Probability of ending well and meeting the limits."""
    seconds: float | None = None
    """Seconds that it was expected to take, where trials tell theirs."""

    def plain(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class GreyBoxSampler(BaseSampler):
    """For studies of one or more objectives over a define-by-run space, with Optuna's constraints.

    `define` calls `suggest_*` of the trial it is given, as the objective does, and nothing else: the sampler draws
    whole recipes with it. What is given by `costs` (see `Costs`) is not predicted; with `checks`, costs are dear
    themselves: all candidates are predicted, and costs asked for only of that many of the best before one is taken.

    The first `startup` trials are what was queued and random recipes. `exploration` is the share of proposals that are
    random from then on; the others are the best of `candidates`. A trial's cost is what `seconds` says of it, or its
    duration. `neighbours`, `underneath` and `cost_aware` switch off neighbours of the front, candidates of another
    sampler, and the division by expected seconds. Where trainings are `shared`, candidates that go on from one that was
    done, or runs, are offered, and cost what `after_training` says. Equal seeds and equal histories (durations
    included) give equal proposals.
    """

    def __init__(
        self,
        define: Define,
        *,
        seed: int = 0,
        costs: Costs | None = None,
        checks: int | None = None,
        neighbours: bool = True,
        underneath: BaseSampler | Literal["tpe"] | None = "tpe",
        startup: int = STARTUP,
        exploration: float = 0.3,
        candidates: int = 640,
        cost_aware: bool = True,
        seconds: Seconds | None = None,
        shared: Shared | None = None,
        after_training: Seconds | None = None,
    ) -> None:
        if not 0 <= exploration <= 1:
            raise ValueError(f"`0 <= exploration <= 1` must hold, but got {exploration}")
        if candidates < 1:
            raise ValueError(f"`candidates >= 1` must hold, but got {candidates}")
        self._space, self._seed = Space(define), seed
        self._startup, self._exploration = startup, exploration
        self._neighbours, self._checks = neighbours, checks if costs else None
        self._candidate_count = candidates
        self._sampler = _tpe(seed) if underneath == "tpe" else underneath
        self._forecaster = Forecaster(
            costs, *((seconds or _duration_s, after_training) if cost_aware else (None, None))
        )
        self._shared = shared
        self._history: History | None = None
        self._underneath: Underneath | None = None
        self._trained: set[Key] = set()
        self.reasons: dict[int, Reason] = {}
        """Why each recipe was proposed, by trial number."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters of the recipe that is proposed to the trial: it is chosen here, where its names are due."""
        history = self._read(study, trial.number)
        rng = random.Random(f"{self._seed} {trial.number}")
        measured = len(history.scored) + len(history.screened)
        enough = len(history.scored) >= LEAST_SCORED and measured >= LEAST_MEASURED
        modelled = enough and not is_free(history.asked, self._exploration, self._startup - history.queued)
        chosen = self._choose(history, rng) if modelled else self._explore(history, rng)
        self._params, self.reasons[trial.number] = chosen
        return {name: self._space.distributions[name] for name in self._params}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return dict(self._params)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for a parameter that `define` does not have."""
        return random_value(param_distribution, random.Random(f"{self._seed} {trial.number} {param_name}"))

    def _read(self, study: optuna.Study, number: int) -> History:
        if self._history is None or self._history.study is not study:
            self._history = History(study)
            if self._sampler is not None:
                self._underneath = Underneath(self._sampler, study.directions, self._space.define)
        scored = self._history.update(number)
        if self._underneath is not None:
            self._underneath.learn(scored)
        for trial in [*scored, *self._history.screened]:
            self._space.distributions |= trial.distributions
        return self._history

    def _explore(self, history: History, rng: random.Random) -> tuple[Params, Reason]:
        """A random recipe, untried if there is one; TPE in this place makes fronts worse."""
        for _ in range(DRAWS):
            params = self._space.at_random(rng)
            if params not in history:
                break
        return params, Reason("free exploration")

    def _choose(self, history: History, rng: random.Random) -> tuple[Params, Reason]:
        """The candidate that is expected to add the most."""
        self._trained = {self._prefix(trial.params) for trial in [*history.scored, *history.running]} - {()}
        candidates = self._candidates(history, rng)
        if not candidates:
            return self._explore(history, rng)
        pending = [trial.params for trial in history.running if trial.params]
        self._forecaster.fit(history, self._lessons(history, rng), self._space.distributions, pending)
        yardstick = self._yardstick(history, pending)
        outlook, gain, order = self._judge(candidates, yardstick, measure=self._checks is None)
        if self._checks is not None:
            candidates = [candidates[index] for index in order[: self._checks]]
            outlook, gain, order = self._judge(candidates, yardstick, measure=True)
        best = order[0]
        if yardstick.front and not gain[best] > 0:
            return self._explore(history, rng)  # nothing promises a gain
        reason = Reason(
            candidates[best].origin,
            expected=tuple(history.turned(outlook.expected[best])[0].tolist()),
            gain=float(gain[best]) if yardstick.front else None,
            feasible=float(outlook.feasible[best]),
            seconds=float(outlook.seconds[best]) if outlook.timed else None,
        )
        return candidates[best].params, reason

    def _candidates(self, history: History, rng: random.Random) -> list[Candidate]:
        """Untried recipes, each once."""
        best = history.best if self._neighbours else []
        found: dict[Key, Candidate] = {}
        for index in range(self._candidate_count):
            if best and index < NEIGHBOURS * self._candidate_count:
                near = rng.choice(best)
                candidate = Candidate(self._space.neighbour(near.params, rng), f"neighbour of trial {near.number}")
            elif self._trained and index < (NEIGHBOURS + FINALIZERS) * self._candidate_count:
                candidate = self._other_finalizers(history, rng)
            elif index == self._candidate_count - 1 and self._underneath is not None:
                candidate = Candidate(self._underneath.propose(), f"candidate of {self._underneath.name}")
            else:
                candidate = Candidate(self._space.at_random(rng), RANDOM)
            if candidate.params not in history:
                found.setdefault(key_of(candidate.params), candidate)
        return list(found.values())

    def _other_finalizers(self, history: History, rng: random.Random) -> Candidate:
        """A recipe that goes on from the training of a trial, of the front every other time."""
        near = rng.choice(history.best if rng.random() < 0.5 else history.scored)
        params = self._space.completed(self._shared(near.params) if self._shared else {}, rng)
        goes_on = self._prefix(params) == self._prefix(near.params) != ()
        return Candidate(params, f"other finalizers on the prefix of trial {near.number}" if goes_on else RANDOM)

    def _prefix(self, params: Params) -> Key:
        return key_of(self._shared(params)) if self._shared else ()

    def _lessons(self, history: History, rng: random.Random) -> list[FrozenTrial]:
        """The trials that the model learns from: the front, the newest, and some of the others."""
        scored = history.scored
        if len(scored) <= MODEL_TRIALS:
            return scored
        chosen = {trial.number: trial for trial in [*history.best[: MODEL_TRIALS // 4], *scored[-MODEL_TRIALS // 2 :]]}
        others = [trial for trial in scored if trial.number not in chosen]
        return [*chosen.values(), *rng.sample(others, MODEL_TRIALS - len(chosen))]

    def _yardstick(self, history: History, pending: Sequence[Params]) -> Yardstick:
        """The front so far, and what runs as it is expected to end."""
        best = history.best
        points = history.values([trial for trial in best if violation(trial) <= 0])
        if pending:
            hoped = self._forecaster.outlook(pending, measure=self._checks is None)
            points = np.concatenate([points, hoped.expected[hoped.feasible > 0.5]])
        return Yardstick(points, history.values(history.scored))

    def _judge(
        self, candidates: list[Candidate], yardstick: Yardstick, measure: bool
    ) -> tuple[Outlook, Array, npt.NDArray[np.intp]]:
        """What candidates are expected to score and to gain, and their order, the most promising first."""
        recipes = [candidate.params for candidate in candidates]
        trained = [self._prefix(params) in self._trained for params in recipes]
        outlook = self._forecaster.outlook(recipes, measure, trained)
        gain = yardstick.gain(outlook)
        return outlook, gain, np.lexsort((outlook.violation, -gain * outlook.feasible / outlook.seconds))


def is_free(asked: int, exploration: float, first: int) -> bool:
    """Whether the proposal after `asked` others is left to free exploration.

    The `first` ones are, and then as many as keep the share of free ones at no less than `exploration`.
    """
    return _free_of(asked + 1, exploration, first) > _free_of(asked, exploration, first)


def _free_of(asked: int, exploration: float, first: int) -> int:
    return max(min(asked, first), math.ceil(round(exploration * asked, 9)))


def _duration_s(trial: FrozenTrial) -> float | None:
    return None if trial.duration is None else trial.duration.total_seconds()


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():  # both options are called experimental; they are what conditional spaces need
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(multivariate=True, group=True, seed=seed)
