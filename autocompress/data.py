"""Batches from the user's data sets."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset, TensorDataset


class Samples(Protocol):
    """A map-style data set: `(inputs, target)` at each index, as `torch.utils.data.Dataset` with a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


def batches(
    data: Samples, batch_size: int, *, shuffle: bool = False, seed: int = 0, collate: Any = None
) -> DataLoader[Any]:
    """A loader of `(inputs, targets)` batches; the order depends on the seed alone.

    Shuffled batches are for training, where a last batch of one sample is left out: BatchNorm has no variance there.
    Data sets that are tensors are indexed by whole batches, which is many times faster than sample by sample.
    """
    generator = torch.Generator().manual_seed(seed)
    order = RandomSampler(data, generator=generator) if shuffle else SequentialSampler(data)
    drop_last = shuffle and batch_size > 1 and len(data) > 1 and len(data) % batch_size == 1
    if collate is None and _is_tensors(data):
        sampler = BatchSampler(order, batch_size, drop_last=drop_last)
        return DataLoader(_Rows(data), sampler=sampler, batch_size=None)  # type: ignore[arg-type]
    return DataLoader(data, batch_size, sampler=order, collate_fn=collate, drop_last=drop_last)  # type: ignore[arg-type]


def take(data: Samples, count: int, collate: Any = None) -> Any:
    """The inputs of the first `count` samples as one batch, starting over when the data set has fewer."""
    rows = [index % len(data) for index in range(count)]
    inputs, _ = next(iter(batches(Subset(data, rows), count, collate=collate)))  # type: ignore[arg-type]
    return inputs


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
