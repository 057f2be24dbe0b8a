"""What the probe suggests to try first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from autocompress.errors import InvalidInput
from autocompress.plugins import Registry
from autocompress.prospect import Prospect
from autocompress.recipe import Recipe, Recovery, Step
from autocompress.search.settings import Settings
from autocompress.search.warm_start import Start, most
from autocompress.space import BoundSpace, held_recipe
from autocompress.task import Task

MOST_SUGGESTED, ALONE = 4, 3
"""Recipes of the probe in one search, and how many of these have one method that needs no training."""


def after_probing(
    starts: Sequence[Start], found: Prospect, settings: Settings, space: BoundSpace, registry: Registry
) -> list[Start]:
    """The starts that the narrowed space still holds, then what the probe suggests that is not among them.

    Suggested are 4 recipes at most, and at most a quarter of the trials; with what comes from other models, half.
    """
    held = [start for start in starts if not any(step.method in found.left_out for step in start.recipe.steps)]
    known = {start.recipe.key for start in held}
    new = [start for start in _Suggestions(found, space, registry, settings.task)() if start.recipe.key not in known]
    borrowed = sum(start.borrowed for start in held)
    return held + new[: min(MOST_SUGGESTED, most(settings.budget.trials, borrowed))]


class _Suggestions:
    """Recipes of the methods that help, by the product of their gains, as if those were independent."""

    def __init__(self, found: Prospect, space: BoundSpace, registry: Registry, task: Task) -> None:
        self._found, self._space, self._registry, self._task = found, space, registry, task
        self._best = {name: look for name in space.parameters if (look := found.best(name)) and found.gain(look) > 1}

    def __call__(self) -> Iterator[Start]:
        """The best without training, the best with it (alone or before one without), and then others without."""
        ranked = sorted(self._best, key=self._gain, reverse=True)
        ready = [name for name in ranked if name not in self._space.needs_training]
        trained = [name for name in ranked if name in self._space.needs_training]
        pairs = sorted(
            itertools.product(trained, ready), key=lambda pair: self._gain(pair[0]) * self._gain(pair[1]), reverse=True
        )
        alone = list(itertools.islice(self._held([(name,) for name in ready]), ALONE))
        together = itertools.islice(self._held([*pairs, *((name,) for name in trained)]), 1)
        yield from itertools.chain(alone[:1], together, alone[1:])

    def _gain(self, name: str) -> float:
        return self._found.gain(self._best[name])

    def _held(self, choices: Sequence[tuple[str, ...]]) -> Iterator[Start]:
        """The recipes that the space holds: with methods that can follow one another."""
        for names in choices:
            try:
                recipe = held_recipe(self._recipe(names), self._space, self._registry, self._task)
            except InvalidInput:
                continue
            yield Start(recipe, f"the probe found {self._words(names)}", asked=False)

    def _recipe(self, names: Sequence[str]) -> Recipe:
        """The methods as the probe saw them, trained as the space usually trains."""
        steps = tuple(Step(method=name, params=self._best[name].params) for name in names)
        if self._space.needs_training.isdisjoint(names):
            return Recipe(steps=steps)
        usual: dict[str, Any] = {name: parameter.default for name, parameter in self._space.recovery.items()}
        return Recipe(steps=steps, recovery=Recovery(**usual))

    def _words(self, names: Sequence[str]) -> str:
        words = [self._found.gains(self._best[name]) for name in names]
        if len(names) == 1:
            return f"it {words[0]}"
        return "; ".join(f"{name} {effect}" for name, effect in zip(names, words, strict=True))
