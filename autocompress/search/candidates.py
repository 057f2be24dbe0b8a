"""Recipes that a sampler may propose, as named parameters: at random, or a step away from a good one."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Params = Mapping[str, Any]
Define = Callable[[Any], object]
"""A search space, define-by-run: calls `suggest_*` of the trial that it is given, as an Optuna objective does."""
Pick = Callable[[str, BaseDistribution], Any]

STEP = 0.15
"""Standard deviation of a step in a numeric parameter, as a share of its (logarithmic) range."""


class Space:
    """A define-by-run search space whose recipes can be drawn without a study."""

    def __init__(self, define: Define) -> None:
        self.define = define
        self._made: dict[tuple[Any, ...], BaseDistribution] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        """Every parameter met so far."""

    def draw(self, pick: Pick) -> dict[str, Any]:
        """The parameters of one recipe; those that depend on others are picked only where they matter."""
        draft = _Draft(pick, self._made)
        self.define(draft)
        self.distributions |= draft.distributions
        return draft.params

    def at_random(self, rng: random.Random) -> dict[str, Any]:
        return self.draw(lambda name, distribution: random_value(distribution, rng))

    def completed(self, params: Params, rng: random.Random) -> dict[str, Any]:
        """A random recipe that has the given parameters, as far as the others leave them a place."""
        return self.draw(
            lambda name, distribution: (
                params[name]
                if name in params and _holds(distribution, params[name])
                else random_value(distribution, rng)
            )
        )

    def neighbour(self, params: Params, rng: random.Random) -> dict[str, Any]:
        """The recipe with one or two parameters changed; what matters only then is drawn at random."""
        free = [name for name in params if not self.distributions[name].single()]
        changed = set(rng.sample(free, min(len(free), rng.choice((1, 1, 2)))))

        def pick(name: str, distribution: BaseDistribution) -> Any:
            if name not in params or not _holds(distribution, params[name]):
                return random_value(distribution, rng)
            return other_value(distribution, params[name], rng) if name in changed else params[name]

        return self.draw(pick)


class _Draft:
    """Stands in for an Optuna trial while a recipe is drawn."""

    def __init__(self, pick: Pick, made: dict[tuple[Any, ...], BaseDistribution]) -> None:
        self._pick, self._made = pick, made
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._suggest(name, CategoricalDistribution, tuple(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        return self._suggest(name, IntDistribution, low, high, log, step)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> Any:
        return self._suggest(name, FloatDistribution, low, high, log, step)

    def _suggest(self, name: str, kind: Callable[..., BaseDistribution], *arguments: Any) -> Any:
        """The pick for a parameter. Making a distribution is slow and there are few: each is made once."""
        if name not in self.params:
            distribution = self._made.get((name, *arguments))
            if distribution is None:
                distribution = self._made[name, *arguments] = kind(*arguments)
            self.distributions[name] = distribution
            self.params[name] = self._pick(name, distribution)
        return self.params[name]


def random_value(distribution: BaseDistribution, rng: random.Random) -> Any:
    """Uniform over the options, the range or its logarithm."""
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice(distribution.choices)
    return _value_at(distribution, rng.random())


def other_value(distribution: BaseDistribution, value: Any, rng: random.Random) -> Any:
    """Another option, or a number a step away; the same only where there is no other."""
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice([option for option in distribution.choices if option != value] or [value])
    share = float(share_of_range(distribution, value))
    moved = value
    while moved == value and not distribution.single():
        moved = _value_at(distribution, min(max(rng.gauss(share, STEP), 0.0), 1.0))
    return moved


def share_of_range(distribution: BaseDistribution, values: Any) -> Any:
    """Where numbers lie in their (logarithmic) range, from 0 to 1."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    return np.log(np.divide(values, low)) / np.log(high / low) if distribution.log else (values - low) / (high - low)


def _value_at(distribution: BaseDistribution, share: float) -> Any:
    """The number at a share of the range, on the grid of its steps."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        value = low * (high / low) ** share
    elif step:
        steps = round((high - low) / step) + 1
        value = low + step * min(int(share * steps), steps - 1)
    else:
        value = low + (high - low) * share
    if isinstance(distribution, IntDistribution):
        return min(max(round(value), low), high)
    # nine digits: 0.85, where the sum of floats is 0.8500000000000001
    return min(max(float(f"{value:.9g}") if step else value, low), high)


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a range or choice that may have changed with other parameters still has the value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return bool(distribution.low <= value <= distribution.high)
