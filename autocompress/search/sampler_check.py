"""Whether a sampler that the user brings can serve a search: tried before anything is written or measured."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.samplers import BaseSampler, GridSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autocompress.errors import InvalidInput, first_line
from autocompress.recipe import Recipe
from autocompress.search.mirror import Answer, AskedStudy, tell
from autocompress.search.study import walk
from autocompress.space import BoundSpace

ASKED = 10
"""Proposals that are tried, so that most kinds of parameters come up."""


def check_sampler(sampler: BaseSampler, space: BoundSpace, directions: Sequence[StudyDirection]) -> None:
    """Asks a copy for some recipes of the space, after the baseline. Raises InvalidInput where it has none to give.

    A `GridSampler` may go well for long, and fails at a trial that is not its own when its grid is nearly done.
    """
    if isinstance(sampler, GridSampler):
        raise InvalidInput(
            "sampler GridSampler cannot be used for this search: it counts trials of its own grid alone, and a search"
            " begins with the baseline; optuna.samplers.BruteForceSampler() tries everything"
        )
    try:
        with _quiet():
            _try(copy.deepcopy(sampler), space, directions)
    except Exception as error:  # of the sampler, which may be the user's own
        raise InvalidInput(
            f"sampler {type(sampler).__name__} cannot be used for this search: {first_line(error).rstrip('.')}; take"
            " one for several objectives and for parameters that depend on others, like optuna.samplers.TPESampler(),"
            " or leave it out"
        ) from error


def _try(sampler: BaseSampler, space: BoundSpace, directions: Sequence[StudyDirection]) -> None:
    """Trials that end in each way that a search's do."""
    study = AskedStudy(directions, sampler)
    study.enqueue_trial(space.choices(Recipe()))
    states = itertools.cycle([TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
    for number, state in zip(range(1 + ASKED), states, strict=False):
        trial = study.ask()
        walk(space, trial)
        values = [float(number)] * len(directions) if state is TrialState.COMPLETE else None
        tell(study, trial, Answer(state, {}, {"limit": 0.0} if values else {}, values))


@contextmanager
def _quiet() -> Iterator[None]:
    """What it says here, it says again."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
