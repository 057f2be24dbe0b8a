"""The few values that a quantized weight may take, found for a weight and written in a few bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from autocompress_quantization.packing import pack_bits, pack_trits, unpack_bits, unpack_trits

BINARY, TERNARY, INT8 = 2, 3, 255
"""Numbers of levels: -1 and 1; -1, 0 and 1; -127..127."""

STEPS_TYPE = torch.bfloat16
"""Of scales and offsets. Codes are found after rounding to it, so its 8 bits suffice, and its range is float32's."""

_SHRINKING = tuple(1 - 0.05 * step for step in range(11))
"""Shares of the full range that a search for the least squared error tries."""
_REFITS = 3


@dataclass(frozen=True)
class Grid:
    """`code * scale`, or `code * scale + offset` with an even number of levels above 2, by groups of a channel.

    The `steps` of a weight are its scales and offsets, (groups, 1 or 2). Codes are int8 of the weight's shape.
    """

    levels: int
    """2: -1 and 1. Odd: as many negative as positive codes and 0. Even: 0..levels - 1, a power of 2."""
    axis: int
    """Dimension of the weight that counts output channels (rows, in an embedding)."""
    group_size: int = 0
    """Most weights of a channel that share a scale; 0 is all of them."""

    @property
    def has_offset(self) -> bool:
        return self.levels % 2 == 0 and self.levels != BINARY

    def steps_shape(self, shape: torch.Size) -> tuple[int, int]:
        channels, groups, _ = self._layout(shape)
        return channels * groups, 2 if self.has_offset else 1

    def stored_bytes(self, shape: torch.Size) -> int:
        """Bytes of the codes and steps of a weight of this shape."""
        bits = {INT8: 8.0, TERNARY: 1.6}.get(self.levels, math.log2(self.levels))
        steps = math.prod(self.steps_shape(shape)) * STEPS_TYPE.itemsize
        return math.ceil(math.prod(shape) * bits / 8) + steps

    def fit(self, weight: Tensor, search: bool = False) -> Tensor:
        """The steps for a weight: over its full range, or with the least squared error that a search finds."""
        groups = self._groups(weight.detach().float())
        if self.levels == BINARY:
            return groups.abs().mean(dim=1, keepdim=True).to(STEPS_TYPE)
        if self.levels == TERNARY:
            return _ternary_scale(groups).to(STEPS_TYPE)
        return self._search(groups) if search else self._spread(groups, 1.0)

    def quantize(self, weight: Tensor, steps: Tensor) -> Tensor:
        """The nearest codes."""
        groups = self._groups(weight.detach().float())
        return self._ungroup(self._codes(groups, steps.float()), weight.shape)

    def dequantize(self, codes: Tensor, steps: Tensor) -> Tensor:
        """The values of codes, in float32."""
        return self._ungroup(self._values(self._groups(codes), steps.float()), codes.shape)

    def pack(self, codes: Tensor) -> Tensor:
        if self.levels == INT8:
            return codes
        flat = codes.reshape(-1)
        if self.levels == TERNARY:
            return pack_trits(flat + 1)
        return pack_bits((flat + 1) // 2 if self.levels == BINARY else flat, self._bits)

    def unpack(self, packed: Tensor, shape: torch.Size) -> Tensor:
        if self.levels == INT8:
            return packed
        count = math.prod(shape)
        if self.levels == TERNARY:
            return (unpack_trits(packed, count).to(torch.int8) - 1).reshape(shape)
        codes = unpack_bits(packed, self._bits, count).to(torch.int8)
        return (codes * 2 - 1 if self.levels == BINARY else codes).reshape(shape)

    @property
    def _bits(self) -> int:
        return self.levels.bit_length() - 1

    def _layout(self, shape: torch.Size) -> tuple[int, int, int]:
        """Channels, groups in each, weights in each group: of about equal size, so that little is padded."""
        channels = shape[self.axis]
        weights = math.prod(shape) // channels
        groups = math.ceil(weights / self.group_size) if self.group_size else 1
        return channels, groups, math.ceil(weights / groups)

    def _groups(self, tensor: Tensor) -> Tensor:
        """A tensor of the weight's shape as (groups, weights in a group), with zeros where a channel does not fill."""
        channels, groups, size = self._layout(tensor.shape)
        rows = tensor.movedim(self.axis, 0).reshape(channels, -1)
        return torch.nn.functional.pad(rows, (0, groups * size - rows.shape[1])).reshape(-1, size)

    def _ungroup(self, groups: Tensor, shape: torch.Size) -> Tensor:
        channels = shape[self.axis]
        rows = groups.reshape(channels, -1)[:, : math.prod(shape) // channels]
        others = [size for axis, size in enumerate(shape) if axis != self.axis]
        return rows.reshape(channels, *others).movedim(0, self.axis).contiguous()

    def _values(self, codes: Tensor, steps: Tensor) -> Tensor:
        values = codes.float() * steps[:, :1]
        return values + steps[:, 1:] if self.has_offset else values

    def _codes(self, groups: Tensor, steps: Tensor) -> Tensor:
        if self.levels == BINARY:
            return torch.where(groups >= 0, 1, -1).to(torch.int8)
        scale = steps[:, :1]
        shifted = groups - steps[:, 1:] if self.has_offset else groups
        nearest = torch.where(scale > 0, shifted / scale, 0.0).round()
        low, high = (0, self.levels - 1) if self.has_offset else (-(self.levels // 2), self.levels // 2)
        return nearest.clamp(low, high).to(torch.int8)

    def _spread(self, groups: Tensor, share: float) -> Tensor:
        """Steps over a share of each group's range, which holds 0."""
        low, high = groups.amin(dim=1).clamp(max=0) * share, groups.amax(dim=1).clamp(min=0) * share
        if self.has_offset:
            return torch.stack([(high - low) / (self.levels - 1), low], dim=1).to(STEPS_TYPE)
        return (torch.maximum(-low, high) / (self.levels // 2))[:, None].to(STEPS_TYPE)

    def _search(self, groups: Tensor) -> Tensor:
        """The best share of each group's range, then a line through weights by codes, over and over."""
        best = self._spread(groups, 1.0)
        least = self._error(groups, best)
        for share in _SHRINKING[1:]:
            best, least = self._better(groups, best, least, self._spread(groups, share))
        for _ in range(_REFITS):
            refit = _fit_line(self._codes(groups, best.float()).float(), groups, self.has_offset).to(STEPS_TYPE)
            best, least = self._better(groups, best, least, refit)
        return best

    def _better(self, groups: Tensor, best: Tensor, least: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        error = self._error(groups, steps)
        wins = (error < least) & (steps[:, 0] > 0)
        return torch.where(wins[:, None], steps, best), torch.where(wins, error, least)

    def _error(self, groups: Tensor, steps: Tensor) -> Tensor:
        """Squared error of each group, (groups,)."""
        return (self._values(self._codes(groups, steps.float()), steps.float()) - groups).square().sum(dim=1)


def _fit_line(codes: Tensor, groups: Tensor, has_offset: bool) -> Tensor:
    """Scale, and offset, of the least squared error for given codes: linear regression in each group."""
    if not has_offset:
        return (codes * groups).sum(dim=1, keepdim=True) / codes.square().sum(dim=1, keepdim=True).clamp_min(1)
    mean, center = codes.mean(dim=1, keepdim=True), groups.mean(dim=1, keepdim=True)
    spread = (codes - mean).square().sum(dim=1, keepdim=True).clamp_min(1e-6)
    scale = ((codes - mean) * (groups - center)).sum(dim=1, keepdim=True) / spread
    return torch.cat([scale, center - scale * mean], dim=1)


def _ternary_scale(groups: Tensor) -> Tensor:
    """Mean magnitude of the weights beyond 0.7 times the mean magnitude, (groups, 1) (Li et al. 2016)."""
    magnitude = groups.abs()
    large = magnitude > 0.7 * magnitude.mean(dim=1, keepdim=True)
    return (magnitude * large).sum(dim=1, keepdim=True) / large.sum(dim=1, keepdim=True).clamp_min(1)
