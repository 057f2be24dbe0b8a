"""Tensors that are mostly zeros as they are stored: one bit a value, and the values that are not zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

STORED = "sparse_tensors"
"""The name of the one tensor that holds all of them, so that there is one header entry for all."""

_RAW, _ZSTANDARD = 0, 1
_LEVEL = 9

Bytes = NDArray[np.uint8]


def pack_zeros(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, with those that take fewer bytes so put together into one, `STORED` (bytes,) uint8.

    It holds a byte that says whether the rest is compressed by Zstandard, and then, in the order of the tensors, each
    one's bitmask and values, the values' first bytes first, then all second bytes, and so on: exponents are alike.
    """
    sparse = {name: tensor for name, tensor in tensors.items() if _is_smaller(tensor)}
    if not sparse:
        return dict(tensors)
    raw = b"".join(_encode(tensor) for tensor in sparse.values())
    small = zstandard.ZstdCompressor(level=_LEVEL).compress(raw)
    blob = bytes([_ZSTANDARD]) + small if len(small) < len(raw) else bytes([_RAW]) + raw
    dense = {name: tensor for name, tensor in tensors.items() if name not in sparse}
    return dense | {STORED: torch.frombuffer(bytearray(blob), dtype=torch.uint8)}


def unpack_zeros(stored: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back, bit for bit; the tensors that are not in `stored` are in the blob, with the shapes in `like`."""
    if STORED not in stored:
        return dict(stored)
    blob = stored[STORED].numpy().tobytes()
    raw = zstandard.ZstdDecompressor().decompress(blob[1:]) if blob[0] == _ZSTANDARD else blob[1:]
    data = np.frombuffer(raw, dtype=np.uint8)
    tensors = {name: tensor for name, tensor in stored.items() if name != STORED}
    for name, shape in like.items():
        if name not in stored:
            tensors[name], data = _decode(data, shape)
    return tensors


def _is_smaller(tensor: Tensor) -> bool:
    size = tensor.element_size()
    if size > 8:  # complex numbers of 16 bytes: numpy has no unsigned integer of that size
        return False
    return _mask_bytes(tensor.numel()) + int(np.count_nonzero(_bits(tensor))) * size < tensor.numel() * size


def _encode(tensor: Tensor) -> bytes:
    bits = _bits(tensor)
    mask = bits != 0
    planes: Bytes = bits[mask].view(np.uint8).reshape(-1, tensor.element_size()).T  # (bytes of a value, values)
    return np.packbits(mask).tobytes() + planes.tobytes()


def _decode(data: Bytes, like: Tensor) -> tuple[Tensor, Bytes]:
    """The first tensor in the data and the data after it."""
    count, size = like.numel(), like.element_size()
    mask = np.unpackbits(data[: _mask_bytes(count)], count=count).astype(bool)
    start = _mask_bytes(count)
    end = start + int(mask.sum()) * size
    values = np.zeros((count, size), dtype=np.uint8)
    values[mask] = data[start:end].reshape(size, -1).T
    return torch.from_numpy(values).view(-1).view(like.dtype).view(like.shape), data[end:]


def _bits(tensor: Tensor) -> NDArray[np.unsignedinteger[Any]]:
    """A tensor's values as unsigned integers of their size (values,): by bits, -0.0 is no zero."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().view(f"u{tensor.element_size()}")


def _mask_bytes(count: int) -> int:
    return -(-count // 8)
