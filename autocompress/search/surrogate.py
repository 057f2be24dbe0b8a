"""What finished trials say of recipes that were not tried: a Gaussian process over mixed, conditional parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autocompress.search.embedding import Block

Array = npt.NDArray[np.float64]

SCALES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Inverse squared length scales that are tried."""
NOISES = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3)
"""Shares of the variance that are noise, of those tried."""
SPREAD = 0.5
"""Standard deviation that the prior allows the logarithm of a parameter's weight, and each coordinate of an option."""
LEAST = 1e-5
"""The least scale, and share of the variance that is noise: with less, equal rows could not be told from errors."""
TUNING_ROWS, TUNING_STEPS, STEP = 200, 40, 0.1
"""Trials that the marginal likelihood is computed on, and how often and how far Adam goes uphill on it."""


class GaussianProcess:
    """A regression with uncertainty: a squared exponential kernel, fitted by its marginal likelihood.

    Fitted are its scale, the noise, a weight for each parameter, and a place for each option: two options that do the
    same to what trials score come to lie near each other. Parameters with equal options share the places, so that
    each trial teaches them several times. Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006),
    chapters 2 and 5. Values are warped first: differences count fully near the best values and logarithmically far from
    them, where nobody wants to be.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._scale, self._noise = SCALES[2], NOISES[2]
        self._stretch = np.empty((0, 0))
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
        across = self._kernel(rows, self._rows)
        mean = across @ self._coefficients
        explained = np.linalg.norm(across @ self._inverse_root.T, axis=1) ** 2
        deviation = np.sqrt(self._variance * np.maximum(1 - explained, 1e-9))
        return mean * self._spread + self._mean, deviation * self._spread

    def believe(self, rows: Array) -> None:
        """Take the predictions for recipes whose trials still run as if they were results, with the same variance."""
        across = self._kernel(rows, self._rows)
        within = self._kernel(rows, rows) + self._noise * np.eye(len(rows))
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
        kernel = self._kernel(self._rows, self._rows)
        self._inverse_root = _inverse_root(kernel + self._noise * np.eye(count))
        whitened = self._inverse_root @ self._targets
        self._coefficients = self._inverse_root.T @ whitened
        self._variance = max(float(whitened @ whitened) / count, 1e-6)

    def _tune(self) -> None:
        """Scale and noise by a grid; then these, weights and places by steps uphill.

        From the beginning each time: what a few trials taught may be the foot of another hill.
        """
        self._tuned_at = len(self._targets)
        self._log_weights = torch.zeros(len(self._blocks), dtype=torch.float64)
        widths = {block.options: block.width for block in self._blocks if block.options is not None}
        self._places = {options: torch.eye(width, dtype=torch.float64) for options, width in widths.items()}
        chosen = slice(None, None, math.ceil(len(self._targets) / TUNING_ROWS))
        rows, targets = torch.from_numpy(self._rows[chosen]), torch.from_numpy(self._targets[chosen])
        apart = _own_squared_distance(rows @ self._stretched())
        _, self._scale, self._noise = max(
            (float(_evidence(torch.exp(-scale * apart), targets, noise)), scale, noise)
            for scale in SCALES
            for noise in NOISES
        )
        self._climb(rows, targets)
        self._stretch = math.sqrt(self._scale) * self._stretched().numpy()

    def _climb(self, rows: Tensor, targets: Tensor) -> None:
        """Adam on the logarithm of the marginal likelihood and of the prior."""
        both = torch.tensor([self._scale, self._noise], dtype=torch.float64).log()
        variables = [both, self._log_weights, *self._places.values()]
        optimizer = torch.optim.Adam([variable.requires_grad_() for variable in variables], lr=STEP)
        for _ in range(TUNING_STEPS):
            optimizer.zero_grad()
            scale, noise = both.exp().clamp_min(LEAST)
            kernel = torch.exp(-scale * _own_squared_distance(rows @ self._stretched()))
            (-_evidence(kernel, targets, noise) - self._log_prior()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for variable in variables:
            variable.requires_grad_(False)
        self._scale, self._noise = both.exp().clamp_min(LEAST).tolist()

    def _log_prior(self) -> Tensor:
        away = [self._log_weights, *(place - torch.eye(len(place)) for place in self._places.values())]
        return -torch.stack([(distance**2).sum() for distance in away]).sum() / (2 * SPREAD**2)

    def _stretched(self) -> Tensor:
        """What rows are multiplied by before distances are taken, but for the scale: (columns, columns)."""
        matrix = torch.zeros((sum(block.width for block in self._blocks),) * 2, dtype=torch.float64)
        for block, root in zip(self._blocks, torch.exp(self._log_weights / 2), strict=True):
            own = slice(block.first, block.first + block.width)
            place = torch.eye(block.width) if block.options is None else self._places[block.options]
            matrix[own, own] = root * place
        return matrix

    def _kernel(self, left: Array, right: Array) -> Array:
        return np.exp(-_squared_distance(left @ self._stretch, right @ self._stretch))


def _evidence(kernel: Tensor, targets: Tensor, noise: Tensor | float) -> Tensor:
    """Logarithm of the marginal likelihood with the variance at its best, up to a constant."""
    count = len(targets)
    root = torch.linalg.cholesky(kernel + noise * torch.eye(count, dtype=kernel.dtype))
    whitened = torch.linalg.solve_triangular(root, targets[:, None], upper=False)
    misfit: Tensor = torch.log((whitened**2).sum() / count + 1e-12)
    height: Tensor = root.diagonal().log().sum()
    return -0.5 * count * misfit - height


def _own_squared_distance(rows: Tensor) -> Tensor:
    """Between all pairs of rows: (rows, rows)."""
    squares = (rows**2).sum(1)
    return (squares[:, None] + squares[None] - 2 * rows @ rows.T).clamp_min(0)


def _inverse_root(matrix: Array) -> Array:
    """The inverse of the lower triangle whose square is a positive definite matrix."""
    root = torch.from_numpy(np.linalg.cholesky(matrix))
    inverse = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=False)
    return np.asarray(inverse.numpy())


def _squared_distance(left: Array, right: Array) -> Array:
    """Between all pairs of rows: (left, right)."""
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
    return np.asarray(np.maximum(squares, 0))
