"""Batches from the user's data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate


class Samples(Protocol):
    """A map-style data set: `(inputs, target)` at each index, as `torch.utils.data.Dataset` with a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


class NoSamples:
    """The data set of who has none."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)


def batches(
    data: Samples, batch_size: int, *, shuffle: bool = False, seed: int = 0, collate: Any = None
) -> DataLoader[Any]:
    """A loader of `(inputs, targets)` batches; the order depends on the seed alone."""
    return loader_of(data, batch_rows(data, batch_size, shuffle=shuffle, seed=seed), collate)


def loader_of(data: Samples, rows: list[list[int]], collate: Any = None) -> DataLoader[Any]:
    """A loader of the batches whose samples have these indices.

    Data sets that are tensors are indexed by whole batches, which is many times faster than sample by sample.
    """
    if collate is None and _is_tensors(data):
        return DataLoader(_Rows(data), sampler=rows, batch_size=None)  # type: ignore[arg-type]
    return DataLoader(data, batch_sampler=rows, collate_fn=collate or _collate)  # type: ignore[arg-type]


def batch_rows(data: Samples, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> list[list[int]]:
    """The indices of the samples of each batch; the order depends on the seed alone.

    Shuffled batches are for training, where a last batch of one sample is left out: BatchNorm has no variance there.
    """
    count = len(data)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) if shuffle else torch.arange(count)
    rows: list[list[int]] = [part.tolist() for part in torch.split(order, batch_size)]
    alone = shuffle and batch_size > 1 and len(rows) > 1 and len(rows[-1]) == 1
    return rows[:-1] if alone else rows


def take(data: Samples, count: int, collate: Any = None) -> Any:
    """The inputs of the first `count` samples as one batch, starting over when the data set has fewer."""
    rows = [index % len(data) for index in range(count)]
    inputs, _ = next(iter(batches(Subset(data, rows), count, collate=collate)))  # type: ignore[arg-type]
    return inputs


def data_digest(data: Samples, samples: int = 32) -> str:
    """SHA-256 of samples spread over the data set; empty when they differ each time they are read."""
    rows = [index * len(data) // samples for index in range(samples)]
    first, second = (_digest([data[row] for row in rows]) for _ in range(2))
    return first if first == second else ""


def _digest(value: Any) -> str:
    """Of nested tensors, arrays and plain values; of anything else its type alone."""
    digest = hashlib.sha256()

    def note(leaf: Any) -> None:
        if isinstance(leaf, Mapping):
            note([*leaf.items()])
        elif isinstance(leaf, tuple | list):
            for item in leaf:
                note(item)
        elif isinstance(leaf, Tensor):
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif hasattr(leaf, "__array__"):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        else:
            plain = isinstance(leaf, str | bytes | int | float | bool | None)
            digest.update(repr(leaf if plain else type(leaf)).encode())

    note(value)
    return digest.hexdigest()


def _collate(samples: list[Any]) -> Any:
    """torch's default, except that tuples stay tuples, which are positional arguments, where that makes lists."""
    return _tuples_like(samples[0], default_collate(samples))


def _tuples_like(sample: Any, batch: Any) -> Any:
    if isinstance(sample, Mapping):
        return {key: _tuples_like(sample[key], batch[key]) for key in sample}
    if type(sample) is tuple:
        return tuple(_tuples_like(item, items) for item, items in zip(sample, batch, strict=True))
    return batch


def _is_tensors(data: Any) -> bool:
    return isinstance(data, TensorDataset) or (isinstance(data, Subset) and _is_tensors(data.dataset))


class _Rows:
    """A data set of tensors, indexed by a list of rows at once."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: list[int]) -> Any:
        if isinstance(self.data, Subset):
            return _Rows(self.data.dataset)[[self.data.indices[row] for row in rows]]
        return self.data[rows]
