"""What autocompress asks of every method, and what this one promises."""

from __future__ import annotations

import torch
from autocompress_round_weights import HalfWeights
from torch import nn

from autocompress import Target
from autocompress.testing import MethodContract


class TestContract(MethodContract):
    methods = [HalfWeights()]


def test_weights_take_half_the_bytes_and_nearly_the_same_values() -> None:
    layer = nn.Linear(64, 32, bias=False)
    before = layer.weight.detach().clone()
    HalfWeights().restore(layer, {"layers": [""]}, Target("cpu"))
    assert sum(tensor.nbytes for tensor in layer.state_dict().values()) == before.nbytes // 2
    torch.testing.assert_close(layer.weight, before, rtol=1e-3, atol=1e-6)
