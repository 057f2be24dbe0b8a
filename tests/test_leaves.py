"""A model's state as plain tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from autocompress.errors import ArtifactError
from autocompress.leaves import leaves, load_leaves


class Tied(nn.Module):
    """Tied weights, a buffer of two modules, and a buffer that is not part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight
        self.norm = nn.BatchNorm1d(4)
        scale = torch.rand(())
        self.register_buffer("scale", scale)
        self.head.register_buffer("same_scale", scale)
        self.register_buffer("cache", torch.rand(3), persistent=False)


def quantized(seed: int) -> nn.Module:
    """Parameters are torchao's tensor subclasses, of an int8 tensor and its scales each."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    quantize_(model, Int8WeightOnlyConfig(version=2))
    return model


def test_what_is_tied_appears_once_and_caches_not_at_all() -> None:
    assert set(leaves(Tied())) == {
        "embedding.weight", "norm.weight", "norm.bias",
        "norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "scale",
    }  # fmt: skip


def test_subclasses_are_taken_apart() -> None:
    found = leaves(quantized(0))
    assert found["0.weight.qdata"].dtype == torch.int8
    assert found["0.bias"].dtype == torch.float32
    assert all(type(tensor) in (Tensor, nn.Parameter) for tensor in found.values())


def tied(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Tied()


@pytest.mark.parametrize("make", [tied, quantized])
def test_loading_is_bit_equal(make: Callable[[int], nn.Module]) -> None:
    source, target = make(0), make(1)
    stored = {name: tensor.clone() for name, tensor in leaves(source).items()}
    assert any(not torch.equal(tensor, stored[name]) for name, tensor in leaves(target).items())
    load_leaves(target, stored)
    torch.testing.assert_close(leaves(target), stored, rtol=0, atol=0)
    if isinstance(target, Tied):
        assert target.head.weight is target.embedding.weight
    else:
        batch = torch.randn(5, 64)
        torch.testing.assert_close(target(batch), source(batch), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": None}, "tensor 'scale' is missing in the stored weights: is it the model they were made from?"),
        ({"extra": torch.ones(2)}, "tensor 'extra' is not expected from the stored weights"),
        (
            {"scale": torch.ones(3)},
            r"tensor 'scale' must be \(\) torch.float32 in the given model, .* as \(3,\) torch.float32",
        ),
        (
            {"scale": torch.ones((), dtype=torch.int8)},
            r"must be \(\) torch.float32 .* but is stored as \(\) torch.int8",
        ),
    ],
)
def test_weights_of_another_model_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    model = Tied()
    before = copy.deepcopy(leaves(model))
    stored = {name: torch.zeros_like(tensor) for name, tensor in before.items()} | change
    with pytest.raises(ArtifactError, match=message):
        load_leaves(model, {name: tensor for name, tensor in stored.items() if tensor is not None})
    torch.testing.assert_close(leaves(model), before, rtol=0, atol=0)
