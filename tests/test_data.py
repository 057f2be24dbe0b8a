"""Batches of data sets of tensors, of samples, and of parts of either."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from autocompress.data import Samples, batches, data_digest, take

TENSORS = TensorDataset(torch.arange(10.0).reshape(10, 1), torch.arange(10))
LIST = [(torch.tensor([float(index)]), index) for index in range(10)]
SUBSET = Subset(
    Subset(TensorDataset(torch.arange(30.0).reshape(30, 1) - 10, torch.arange(30) - 10), range(5, 30)), range(5, 15)
)
KINDS = pytest.mark.parametrize("data", [TENSORS, LIST, SUBSET], ids=["tensors", "list", "subset of a subset"])


def order(data: Samples, batch_size: int, **options: Any) -> list[list[int]]:
    found = []
    for inputs, targets in batches(data, batch_size, **options):
        assert inputs.shape == (len(targets), 1)
        assert inputs.flatten().tolist() == targets.tolist()
        found.append(targets.tolist())
    return found


@KINDS
def test_batches_in_order(data: Samples) -> None:
    assert order(data, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(batches(data, 4)) == 3


@KINDS
def test_shuffling_depends_on_the_seed_alone(data: Samples) -> None:
    torch.manual_seed(1)
    first = order(data, 4, shuffle=True, seed=5)
    torch.manual_seed(2)
    assert order(data, 4, shuffle=True, seed=5) == first == order(TENSORS, 4, shuffle=True, seed=5)
    assert order(data, 4, shuffle=True, seed=6) != first
    assert sorted(sum(first, [])) == list(range(10))


@KINDS
@pytest.mark.parametrize(
    ("batch_size", "shuffle", "sizes"),
    [
        (3, False, [3, 3, 3, 1]),  # scoring sees every sample
        (3, True, [3, 3, 3]),  # training cannot use a batch of one: BatchNorm has no variance there
        (4, True, [4, 4, 2]),
        (1, True, [1] * 10),
        (20, True, [10]),
    ],
)
def test_a_last_batch_of_one_is_left_out_of_training(
    data: Samples, batch_size: int, shuffle: bool, sizes: list[int]
) -> None:
    assert [len(rows) for rows in order(data, batch_size, shuffle=shuffle)] == sizes


def test_a_single_sample_is_still_a_batch() -> None:
    assert order(LIST[:1], 4, shuffle=True) == [[0]]


@KINDS
def test_take_starts_over_when_there_are_too_few(data: Samples) -> None:
    assert take(data, 3).flatten().tolist() == [0, 1, 2]
    assert take(data, 12).flatten().tolist() == [*range(10), 0, 1]


def test_collate_makes_the_batch() -> None:
    def pad(samples: list[Any]) -> Any:
        return torch.nn.utils.rnn.pad_sequence([inputs for inputs, _ in samples], batch_first=True), None

    ragged = [(torch.ones(length), 0) for length in (2, 5, 3)]
    assert take(ragged, 3, pad).shape == (3, 5)
    assert [inputs.shape for inputs, _ in batches(ragged, 2, collate=pad)] == [(2, 5), (1, 3)]


def test_tuples_stay_tuples_and_dicts_dicts_in_a_batch() -> None:
    pairs = [((torch.ones(2), {"a": index}), index) for index in range(3)]
    inputs, targets = next(iter(batches(pairs, 3)))
    assert type(inputs) is tuple and inputs[0].shape == (3, 2)
    assert inputs[1]["a"].tolist() == targets.tolist() == [0, 1, 2]


def test_the_digest_tells_data_apart_and_gives_up_on_data_that_change() -> None:
    class Noisy:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            return torch.randn(2), index

    plain = [({"a": torch.ones(2), "b": np.ones(1)}, "yes"), ({"a": torch.ones(2), "b": np.ones(1)}, "no")]
    other = [plain[0], ({"a": torch.ones(2), "b": np.zeros(1)}, "no")]
    assert data_digest(plain) == data_digest(copy.deepcopy(plain)) != data_digest(other)
    assert data_digest(Noisy()) == ""
