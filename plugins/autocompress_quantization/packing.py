"""Numbers of a few bits in whole bytes, exact both ways."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TRITS = 5
"""Digits of base 3 in a byte: 3**5 = 243."""
_POWERS = 3 ** np.arange(TRITS, dtype=np.uint8)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Codes (N,) in 0..2**bits - 1 one after the other as a stream of bits: (ceil(N * bits / 8),) uint8."""
    digits = np.unpackbits(codes.to(torch.uint8).numpy()[:, None], axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(digits))


def unpack_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    """The `count` codes that were packed: (count,) uint8."""
    digits = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    return torch.from_numpy(np.packbits(np.pad(digits, ((0, 0), (8 - bits, 0))), axis=1)[:, 0])


def pack_trits(codes: Tensor) -> Tensor:
    """Codes (N,) in 0..2, five to a byte: (ceil(N / 5),) uint8."""
    digits = codes.to(torch.uint8).numpy()
    padded = np.pad(digits, (0, -len(digits) % TRITS)).reshape(-1, TRITS)
    return torch.from_numpy((padded * _POWERS).sum(axis=1).astype(np.uint8))


def unpack_trits(packed: Tensor, count: int) -> Tensor:
    """The `count` codes that were packed: (count,) uint8."""
    return torch.from_numpy((packed.numpy()[:, None] // _POWERS % 3).reshape(-1)[:count])
