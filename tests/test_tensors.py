"""Nested inputs and outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from autocompress.tensors import call, concatenate, map_tensors, to_device


class Outputs(NamedTuple):
    logits: Tensor
    aux: Any


ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0, 3.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: (x, x + 1),
        lambda x: [x, {"a": (x,)}],
        lambda x: {"logits": x, "note": "kept", "none": None},
        lambda x: Outputs(x, [x, "kept"]),
    ],
    ids=["tensor", "tuple", "list", "dict", "named tuple"],
)
def test_the_structure_is_kept(make: Any) -> None:
    mapped = map_tensors(lambda tensor: tensor * 2, make(ONE))
    joined = concatenate([make(ONE), make(TWO)])
    assert type(mapped) is type(joined) is type(make(ONE))
    torch.testing.assert_close(
        flat(joined), [torch.cat(pair) for pair in zip(flat(make(ONE)), flat(make(TWO)), strict=True)]
    )
    torch.testing.assert_close(flat(mapped), [tensor * 2 for tensor in flat(make(ONE))])
    assert all(tensor.device.type == "meta" for tensor in flat(to_device(make(ONE), torch.device("meta"))))


def flat(value: Any) -> list[Tensor]:
    leaves, _ = torch.utils._pytree.tree_flatten(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


class Add(nn.Module):
    def forward(self, left: Any, right: Any = 10) -> Any:
        return left[0] + right if isinstance(left, list) else left + right


@pytest.mark.parametrize(
    ("inputs", "result"),
    [(ONE, 11), ((ONE,), 11), ((ONE, ONE), 2), ({"right": ONE, "left": ONE * 4}, 5), ([ONE, ONE], 11)],
    ids=["tensor", "tuple of one", "tuple", "dict", "a list is one argument"],
)
def test_call_spreads_tuples_and_dicts(inputs: Any, result: float) -> None:
    assert call(Add(), inputs).item() == result


def test_batches_of_different_lengths_are_padded_to_the_longest() -> None:
    outputs = concatenate([torch.ones(1, 2, 3), torch.ones(2, 4, 3)])
    assert outputs.shape == (3, 4, 3) and outputs[0, 2:].abs().sum() == 0 and outputs.sum() == 6 + 24
    assert concatenate([torch.tensor([[1, 2]]), torch.tensor([[1, 2, 3]])]).tolist() == [[1, 2, -100], [1, 2, 3]]


def test_targets_of_different_lengths_are_padded_with_a_number_that_metrics_can_tell() -> None:
    joined = concatenate([torch.ones(1, 2), torch.ones(1, 3)], float_padding=-100)
    assert joined.tolist() == [[1, 1, -100], [1, 1, 1]]
