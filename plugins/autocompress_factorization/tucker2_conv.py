"""Convolutions as three: fewer channels in, the kernel, more channels out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autocompress_factorization.convolution import convolutions
from autocompress_factorization.factorization import Factorization
from autocompress_factorization.low_rank import Factors, conv, directions, energies
from autocompress_factorization.ranks import Ranks


class Tucker2Conv(Factorization):
    """Splits convolutions by Tucker-2: a 1x1 convolution, the kernel on fewer channels, a 1x1 convolution.

    Each channel mode gets its own rank from the energy of its unfolding; a mode that keeps all its channels (a stem's
    three colours) gets no 1x1 convolution. For wide layers with kernels of 3x3 and more, without groups. Bytes fall for
    certain, time only where the layer is large: three small convolutions can be slower than one, so trust the latency.
    Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications".
    """

    name = "tucker2_conv"
    kind = "convolutions with kernels larger than 1"

    def layers(self, model: nn.Module) -> Mapping[str, str]:
        return convolutions(model, (nn.Conv1d, nn.Conv2d, nn.Conv3d), _obstacle)

    def spectra(self, layer: nn.Module) -> list[Tensor]:
        """Of the modes out and in, whose ranks are the channels [out, in] of the kernel in the middle."""
        weight: Any = layer.weight  # (out, in, *kernel)
        return [energies(_unfold(weight, mode)) for mode in (0, 1)]

    def shapes(self, layer: nn.Module, ranks: Ranks) -> list[tuple[int, ...]]:
        assert isinstance(ranks, list)
        weight: Any = layer.weight
        outer = [(size, rank) for size, rank in zip(weight.shape, ranks, strict=False) if rank < size]
        return [(*ranks, math.prod(weight.shape[2:])), *outer]

    def split(self, layer: nn.Module, ranks: Ranks) -> nn.Module:
        """Truncated higher-order SVD (De Lathauwer et al. 2000)."""
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and isinstance(ranks, list)
        weight, bias = layer.weight, layer.bias
        reduces, widens = ranks[1] < weight.shape[1], ranks[0] < weight.shape[0]
        core = torch.nan_to_num(weight.detach().double())
        factors = []
        pointwise = (...,) + (None,) * (weight.ndim - 2)
        if reduces:
            basis = directions(_unfold(weight, 1), ranks[1])  # (in, rank)
            core = torch.einsum("oi...,ir->or...", core, basis)
            factors.append(conv(layer, basis.T[pointwise], None))
        if widens:
            basis = directions(_unfold(weight, 0), ranks[0])  # (out, rank)
            core = torch.einsum("oi...,or->ri...", core, basis)
        factors.append(
            conv(
                layer,
                core,
                None if widens else bias,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                padding_mode=layer.padding_mode,
            )
        )
        if widens:
            factors.append(conv(layer, basis[pointwise], bias))
        return Factors(*factors)


def _unfold(weight: Tensor, mode: int) -> Tensor:
    """(out, in, *kernel) as a matrix of one row per channel of the mode."""
    return weight.transpose(0, mode).flatten(1)


def _obstacle(layer: Any) -> str:
    return "its kernel is pointwise" if math.prod(layer.kernel_size) == 1 else ""
