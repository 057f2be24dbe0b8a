"""What finished trials say of recipes that were not tried: a Gaussian process over mixed, conditional parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution

from autocompress.search.candidates import share_of_range

Array = npt.NDArray[np.float64]

NUMERIC_RANGE = 2.0
"""Distance between the ends of a numeric range, where two options of a choice are 1 apart."""
SCALES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Inverse squared length scales that are tried."""
NOISES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3)
"""Shares of the variance that are noise, of those tried."""
WEIGHT_SPREAD = 0.5
"""Standard deviation that the prior allows the logarithm of a parameter's weight."""
TUNING_ROWS = 120
"""Trials that the marginal likelihood is computed on."""


class Embedding:
    """Parameters as points whose squared distance counts what differs.

    A choice is 1 apart from another; a number is as far as the share of its (logarithmic) range; a parameter that one
    recipe has and the other does not is 1 apart, so that conditional parameters are compared only where both have them.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._distributions = {name: d for name, d in sorted(distributions.items()) if not d.single()}
        owners: list[int] = []
        self._columns: dict[str, int] = {}
        for owner, (name, distribution) in enumerate(self._distributions.items()):
            self._columns[name] = len(owners)
            owners += [owner] * (len(distribution.choices) if isinstance(distribution, CategoricalDistribution) else 2)
        self.owners = np.array(owners, dtype=np.intp)
        """The parameter that each column belongs to."""

    @property
    def parameters(self) -> int:
        return len(self._distributions)

    def __call__(self, recipes: Sequence[Mapping[str, Any]]) -> Array:
        """Rows for recipes by their parameters: (recipes, columns)."""
        rows = np.zeros((len(recipes), len(self.owners)))
        for name, distribution in self._distributions.items():
            has = [index for index, recipe in enumerate(recipes) if name in recipe]
            inner = np.array([distribution.to_internal_repr(recipes[index][name]) for index in has])
            first = self._columns[name]
            if isinstance(distribution, CategoricalDistribution):
                rows[has, first + inner.astype(int)] = math.sqrt(0.5)
            else:
                rows[has, first] = math.sqrt(0.5)
                rows[has, first + 1] = NUMERIC_RANGE * share_of_range(distribution, inner)
        return rows


class GaussianProcess:
    """A regression with uncertainty: squared exponential kernel, a weight per parameter, by marginal likelihood.

    Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), chapters 2 and 5. Values are warped first:
    differences count fully near the best values and logarithmically far from them, where nobody wants to be.
    """

    def __init__(self, owners: npt.NDArray[np.intp]) -> None:
        self._owners = owners
        self._scale, self._noise = SCALES[2], NOISES[2]
        self._weights = np.ones(int(owners.max()) + 1 if len(owners) else 0)
        self._tuned_at = 0
        self._inverse_root = self._rows = np.empty((0, 0))
        self._coefficients = self._targets = np.empty(0)

    def fit(self, rows: Array, values: Array) -> None:
        """Learn from (trials, columns) and (trials,), smaller being better."""
        self._best = float(values.min())
        self._unit = float(np.median(values)) - self._best or float(values.std()) or 1.0
        warped = self._warp(values)
        self._mean, self._spread = float(warped.mean()), float(warped.std()) or 1.0
        self._rows, self._targets = rows, (warped - self._mean) / self._spread
        if len(values) > 1.2 * self._tuned_at:
            self._tune()
        self._solve()

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, noise left out, of warped values: (recipes,) each."""
        across = self._kernel(rows, self._rows, self._weights, self._scale)
        mean = across @ self._coefficients
        explained = np.linalg.norm(across @ self._inverse_root.T, axis=1) ** 2
        deviation = np.sqrt(self._variance * np.maximum(1 - explained, 1e-9))
        return mean * self._spread + self._mean, deviation * self._spread

    def believe(self, rows: Array) -> None:
        """Take the predictions for recipes whose trials still run as if they were results, with the same variance."""
        across = self._kernel(rows, self._rows, self._weights, self._scale)
        within = self._kernel(rows, rows, self._weights, self._scale) + self._noise * np.eye(len(rows))
        mixed = across @ self._inverse_root.T
        corner = _inverse_root(within - mixed @ mixed.T)
        top = np.concatenate([self._inverse_root, np.zeros((len(self._rows), len(rows)))], axis=1)
        bottom = np.concatenate([-corner @ mixed @ self._inverse_root, corner], axis=1)
        self._inverse_root = np.concatenate([top, bottom])
        self._targets = np.concatenate([self._targets, across @ self._coefficients])
        self._rows = np.concatenate([self._rows, rows])
        self._coefficients = self._inverse_root.T @ (self._inverse_root @ self._targets)

    def unwarp(self, warped: Array) -> Array:
        """Values from warped ones."""
        share = np.where(warped > 0, np.expm1(np.clip(warped, 0, 50)), warped)
        return np.asarray(share * self._unit + self._best)

    def _warp(self, values: Array) -> Array:
        share = (values - self._best) / self._unit
        return np.where(share > 0, np.log1p(np.maximum(share, 0)), share)

    def warp(self, value: float) -> float:
        """One value warped."""
        return float(self._warp(np.array([value]))[0])

    def _solve(self) -> None:
        count = len(self._targets)
        kernel = self._kernel(self._rows, self._rows, self._weights, self._scale)
        self._inverse_root = _inverse_root(kernel + self._noise * np.eye(count))
        whitened = self._inverse_root @ self._targets
        self._coefficients = self._inverse_root.T @ whitened
        self._variance = max(float(whitened @ whitened) / count, 1e-6)

    def _tune(self) -> None:
        """Scale and noise by a grid, then each parameter's weight by steps uphill."""
        self._tuned_at = len(self._targets)
        chosen = slice(None, None, math.ceil(len(self._targets) / TUNING_ROWS))
        rows, targets = self._rows[chosen], self._targets[chosen]
        parts = np.stack([_squared_distance(rows[:, own], rows[:, own]) for own in self._own_columns()])
        _, self._scale, self._noise = max(
            (self._evidence(parts, targets, self._weights, scale, noise), scale, noise)
            for scale in SCALES
            for noise in NOISES
        )
        best = self._evidence(parts, targets, self._weights, self._scale, self._noise)
        for index in range(len(self._weights)):
            for factor in (0.4, 2.5):
                weights = self._weights.copy()
                weights[index] *= factor
                evidence = self._evidence(parts, targets, weights, self._scale, self._noise)
                if evidence > best:
                    best, self._weights = evidence, weights

    def _evidence(self, parts: Array, targets: Array, weights: Array, scale: float, noise: float) -> float:
        """Logarithm of the marginal likelihood with the variance at its best, and of the prior of the weights."""
        count = len(targets)
        kernel = np.exp(-scale * np.tensordot(weights, parts, 1))
        root = np.linalg.cholesky(kernel + noise * np.eye(count))
        whitened = np.linalg.solve(root, targets)
        likelihood = -0.5 * count * math.log(float(whitened @ whitened) / count + 1e-12) - np.log(np.diag(root)).sum()
        return float(likelihood) - float((np.log(weights) ** 2).sum()) / (2 * WEIGHT_SPREAD**2)

    def _kernel(self, left: Array, right: Array, weights: Array, scale: float) -> Array:
        factors = np.sqrt(scale * weights[self._owners])
        return np.exp(-_squared_distance(left * factors, right * factors))

    def _own_columns(self) -> list[npt.NDArray[np.intp]]:
        return [np.flatnonzero(self._owners == owner) for owner in range(len(self._weights))]


def _inverse_root(matrix: Array) -> Array:
    """The inverse of the lower triangle whose square is a positive definite matrix."""
    root = torch.from_numpy(np.linalg.cholesky(matrix))
    inverse = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=False)
    return np.asarray(inverse.numpy())


def _squared_distance(left: Array, right: Array) -> Array:
    """Between all pairs of rows: (left, right)."""
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
    return np.asarray(np.maximum(squares, 0))
