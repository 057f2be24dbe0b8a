"""What a search tries before its sampler has a say."""

from __future__ import annotations

from collections.abc import Iterator
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
"""Recipes of the portfolio in one search."""
MOST_SHARE = 0.25
"""The share of the budget's trials that the portfolio may take."""


class Start(NamedTuple):
    recipe: Recipe
    why: str
    asked: bool = True
    """Whether the user gave it; what is only suggested is left out where the probe rules out one of its methods."""


def first_recipes(settings: Settings, space: BoundSpace, registry: Registry) -> tuple[list[Start], list[str]]:
    """The baseline, the given recipes, the portfolio's and those of the given runs of similar tasks; each once.

    The second list says which of those runs, and which of their recipes, this search does not try, and why.
    Raises InvalidInput for a given recipe that the space does not hold, RunError for a run that is none.
    """
    task, left_out = settings.task, list[str]()
    starts = {Recipe().key: Start(Recipe(), "the baseline")}

    def add(recipe: Recipe, why: str, asked: bool = True) -> None:
        starts.setdefault(recipe.key, Start(recipe, why, asked))

    for recipe in known_recipes(settings.space.recipes, space, registry, task):
        add(recipe, "given in the search space")
    for recipe in known_recipes(settings.recipes, space, registry, task):
        add(recipe, "given by the user")
    if settings.portfolio:
        new = [start for start in _portfolio(settings, space, registry) if start.recipe.key not in starts]
        for start in new[: most(settings.budget.trials)]:
            add(*start)
    for path in settings.like:
        run = Run(path)
        if difference := _difference(settings, run):
            left_out.append(f"left out the front of run {path}: {difference}")
            continue
        for recipe in _front(run):
            try:
                add(held_recipe(recipe, space, registry, task), f"front of run {path}")
            except InvalidInput as reason:
                left_out.append(f"left out of the front of run {path}: {reason}")
    return list(starts.values()), left_out


def most(trials: int | None) -> int:
    """How many recipes may be suggested from one side."""
    return MOST if trials is None else min(MOST, int(MOST_SHARE * trials))


def _portfolio(settings: Settings, space: BoundSpace, registry: Registry) -> Iterator[Start]:
    """For the device of the first target."""
    kind = settings.target.torch_device.type
    family = family_of(settings.task.trained_model())
    if family is None:
        return
    for recipe in Portfolio.shipped(kind).recipes(family, space, registry, settings.task):
        yield Start(recipe, f"known good for {family.plural} on a {kind.upper()}", asked=False)


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
