"""The arithmetic of low rank: leading directions of a matrix, ranks that keep an energy, factors in place of layers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Factors(nn.Sequential):
    """Layers in a row that do what one layer did, exactly or nearly."""

    @property
    def weight(self) -> Tensor:
        """The one layer's weight (out, in, ...): for models that read it, or its dtype, and do not call the layer."""
        weights: list[Tensor] = [factor.weight for factor in self]  # type: ignore[misc]
        return functools.reduce(lambda first, then: torch.einsum("or...,ri...->oi...", then, first), weights)

    @property
    def bias(self) -> nn.Parameter | None:
        bias: nn.Parameter | None = self[-1].bias  # type: ignore[assignment]
        return bias


def energies(matrix: Tensor) -> Tensor:
    """Squared singular values of a matrix (m, n), the largest first (min(m, n),), in float64."""
    return _eigh(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T)[0]


def rank_for(energies: Tensor, energy: float) -> int:
    """The smallest rank that keeps this share of the sum of squares; never 0."""
    kept = energies.cumsum(dim=0)
    return min(int((kept < energy * kept[-1]).sum()) + 1, len(energies))


def directions(matrix: Tensor, rank: int) -> Tensor:
    """The `rank` leading left singular vectors (m, rank) of a matrix (m, n), in float64."""
    return _eigh(matrix)[1][:, :rank]


def split(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (m, rank) and (rank, n) whose product is the best approximation of that rank (Eckart & Young 1936).

    Both carry the square roots of the singular values, so that training sees them at equal scale.
    """
    if matrix.shape[0] > matrix.shape[1]:
        right, left = split(matrix.T, rank)
        return left.T, right.T
    values, vectors = _eigh(matrix)
    # The scale cancels in the product, so a floor where values vanish costs no exactness.
    scale = values[:rank].clamp_min(1e-12 * float(values[0]) or 1.0) ** 0.25
    left = vectors[:, :rank]
    return left * scale, (left / scale).T @ _finite(matrix)


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of M M^T, the largest first, and their vectors: cheaper than an SVD where the matrix is wide."""
    matrix = _finite(matrix)
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    return values.flip(0).clamp_min(0), vectors.flip(1)


def _finite(matrix: Tensor) -> Tensor:
    """In float64, zeros for NaN and infinity: an artifact is loaded on a model whose weights may be anything."""
    return torch.nan_to_num(matrix.detach().double(), posinf=0.0, neginf=0.0)


def parameter(values: Tensor, like: Tensor) -> nn.Parameter:
    """A factor of a weight, with its dtype, and frozen if that is."""
    return nn.Parameter(values.to(like.dtype).contiguous(), requires_grad=like.requires_grad)


def linear(weight: Tensor, bias: nn.Parameter | None, like: Tensor) -> nn.Linear:
    """A linear layer with a weight (out, in) that is a factor of another one."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")  # made without random numbers
    layer.weight, layer.bias = parameter(weight, like), bias  # type: ignore[assignment]
    return layer


def conv(layer: Any, weight: Tensor, bias: Tensor | None, **geometry: Any) -> Any:
    """A convolution of the layer's type with a weight (out, in, *kernel) that is a factor of the layer's.

    `geometry` is stride, padding and dilation; what is left out is 1, 0 and 1.
    """
    out_channels, in_channels, *kernel = weight.shape
    made = type(layer)(in_channels, out_channels, tuple(kernel), bias=False, device="meta", **geometry)
    made.weight, made.bias = parameter(weight, layer.weight), bias
    return made


def owners(model: nn.Module) -> dict[int, list[str]]:
    """Names of the modules that hold each parameter, by the parameter's id; one name a module."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), []).append(name)
    return found


def replace(model: nn.Module, layers: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The model with other modules in place of some, under all names that each has."""
    for old, new in layers.items():
        new.train(old.training)
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and child in layers:
                setattr(module, name, layers[child])
    return layers.get(model, model)
