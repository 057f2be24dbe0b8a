"""Recipes as points, for a model that tells by distances what a recipe may score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution

from autocompress.search.candidates import share_of_range

Array = npt.NDArray[np.float64]

NUMERIC_RANGE = 2.0
"""Distance between the ends of a numeric range, where two options of a choice are 1 apart."""


class Block(NamedTuple):
    """The columns of a parameter, one after the other."""

    first: int
    width: int
    options: int | None
    """Number of its set of options, the same for parameters with equal options; None for a number and for two options,
    which cannot be more or less alike."""


class Embedding:
    """Parameters as points whose squared distance counts what differs.

    A choice is 1 apart from another; a number is as far as the share of its (logarithmic) range; a parameter that one
    recipe has and the other does not is 1 apart, so that conditional parameters are compared only where both have them.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._distributions = {name: d for name, d in sorted(distributions.items()) if not d.single()}
        self.blocks: list[Block] = []
        """The columns of each parameter."""
        sets: dict[tuple[Any, ...], int] = {}
        self._width = 0
        for distribution in self._distributions.values():
            choices = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
            options = sets.setdefault(choices, len(sets)) if len(choices) > 2 else None
            self.blocks.append(Block(self._width, len(choices) or 2, options))
            self._width += len(choices) or 2

    def __call__(self, recipes: Sequence[Mapping[str, Any]]) -> Array:
        """Rows for recipes by their parameters: (recipes, columns)."""
        rows = np.zeros((len(recipes), self._width))
        for (name, distribution), block in zip(self._distributions.items(), self.blocks, strict=True):
            has = [index for index, recipe in enumerate(recipes) if name in recipe]
            inner = np.array([distribution.to_internal_repr(recipes[index][name]) for index in has])
            if isinstance(distribution, CategoricalDistribution):
                rows[has, block.first + inner.astype(int)] = math.sqrt(0.5)
            else:
                rows[has, block.first] = math.sqrt(0.5)
                rows[has, block.first + 1] = NUMERIC_RANGE * share_of_range(distribution, inner)
        return rows
