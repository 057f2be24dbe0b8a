"""What a search tries before its sampler has a say."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from autocompress.errors import InvalidInput, NothingFits
from autocompress.family import family_of
from autocompress.likeness import Likeness
from autocompress.plugins import Registry
from autocompress.portfolio import Portfolio
from autocompress.recipe import Recipe
from autocompress.run import Run
from autocompress.search.settings import Settings
from autocompress.space import BoundSpace, held_recipe, known_recipes

MOST = 5
"""Recipes in one search from each that suggests some: the portfolio, fronts of other runs, the probe."""
MOST_SHARE, MOST_TOGETHER = 0.25, 0.5
"""The share of the budget's trials that each of them may take, and all together."""


class Start(NamedTuple):
    recipe: Recipe
    why: str
    asked: bool = True
    """Whether the user gave it; what is only suggested is left out where the probe rules out one of its methods."""
    borrowed: bool = False
    """Whether it was good for another model: of the portfolio, or of another run's front."""


def first_recipes(settings: Settings, space: BoundSpace, registry: Registry) -> tuple[list[Start], list[str]]:
    """The baseline, the given recipes, the portfolio's and those of the given runs of similar tasks; each once.

    Of the portfolio and of the runs only so many, see `most`: of the runs first the best of each, then the second of
    each. The second list says which runs, and what of their fronts, this search does not try, and why.
    Raises InvalidInput for a given recipe that the space does not hold, RunError for a run that is none.
    """
    task, left_out = settings.task, list[str]()
    starts = {Recipe().key: Start(Recipe(), "the baseline")}

    def add(start: Start) -> None:
        starts.setdefault(start.recipe.key, start)

    def new(suggested: Iterable[Start]) -> list[Start]:
        """Those that are not among the starts, each once."""
        found: dict[str, Start] = {}
        for start in suggested:
            found.setdefault(start.recipe.key, start)
        return [start for key, start in found.items() if key not in starts]

    for recipe in known_recipes(settings.space.recipes, space, registry, task):
        add(Start(recipe, "given in the search space"))
    for recipe in known_recipes(settings.recipes, space, registry, task):
        add(Start(recipe, "given by the user"))
    limit = most(settings.budget.trials)
    if settings.portfolio:
        for start in new(_portfolio(settings, space, registry))[:limit]:
            add(start)
    fronts = new(
        _one_of_each([_front_starts(settings, Run(path), space, registry, left_out) for path in settings.like])
    )
    for start in fronts[:limit]:
        add(start)
    left_out += _beyond(fronts[limit:], limit)
    return list(starts.values()), left_out


def most(trials: int | None, taken: int = 0) -> int:
    """How many recipes one side may suggest, when others suggested some already."""
    if trials is None:
        return MOST
    return max(0, min(MOST, int(MOST_SHARE * trials), int(MOST_TOGETHER * trials) - taken))


def _portfolio(settings: Settings, space: BoundSpace, registry: Registry) -> Iterator[Start]:
    """For the device of the first target."""
    kind = settings.target.torch_device.type
    family = family_of(settings.task.trained_model())
    if family is None:
        return
    for recipe in Portfolio.shipped(kind).recipes(family, space, registry, settings.task):
        yield Start(recipe, f"known good for {family.plural} on a {kind.upper()}", asked=False, borrowed=True)


def _front_starts(
    settings: Settings, run: Run, space: BoundSpace, registry: Registry, left_out: list[str]
) -> list[Start]:
    """What of another run's front this search can try; `left_out` hears of the rest."""
    if difference := _difference(settings, run):
        left_out.append(f"left out the front of run {run.path}: {difference}")
        return []
    found = []
    for recipe in _front(run):
        try:
            held = held_recipe(recipe, space, registry, settings.task)
        except InvalidInput as reason:
            left_out.append(f"left out of the front of run {run.path}: {reason}")
        else:
            found.append(Start(held, f"front of run {run.path}", borrowed=True))
    return found


def _one_of_each(fronts: Sequence[Sequence[Start]]) -> Iterator[Start]:
    """The first of each front, then the second of each."""
    return (start for row in itertools.zip_longest(*fronts) for start in row if start is not None)


def _beyond(starts: Sequence[Start], limit: int) -> list[str]:
    """What is said of starts that there is no room for."""
    counts = Counter(start.why for start in starts)
    room = f"all fronts together begin {limit} trials at most"
    return [
        f"left out of the {front}: {count} recipe{'s' * (count > 1)}, since {room}" for front, count in counts.items()
    ]


def _difference(settings: Settings, run: Run) -> str:
    """Why what another search found says nothing for this one; empty where it may."""
    if run.record.likeness is None:
        return "it does not say what its task was like, being of an older version"
    return Likeness.of(settings.task, settings.target.torch_device.type).difference(run.record.likeness)


def _front(run: Run) -> list[Recipe]:
    """What another search found, its best first and then by quality."""
    numbers = [int(number) for number in run.front.index]
    try:
        numbers = [run.best().number, *numbers]
    except NothingFits:
        pass
    return [run.trial(number).recipe for number in dict.fromkeys(numbers)]
