"""FLOPs of operators that `torch.utils.flop_counter` has no formula for, in its convention: two a multiply-add."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
_NAMES = re.compile(r"mm|mv|dot|conv|rnn|lstm|gru|attention|linear|einsum|transformer|cdist|matmul|fft")


def multiplies_matrices(operator: Any) -> bool:
    """Whether an operator without a formula may multiply matrices: by its name, or since it is not PyTorch's own.

    The rest (element-wise operators, norms, reductions, copies) counts no FLOPs, as in `torch.utils.flop_counter`.
    """
    namespace, _, name = str(operator).rpartition(".")
    return namespace not in ("aten", "prims", "prim") or _NAMES.search(name) is not None


def _product(first: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """(M, K) by (K, N) or (K,): each output is a sum over K, whatever the layout of the second."""
    return 2 * out_val.numel() * first.shape[-1]


def _added_product(bias: Tensor, first: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    return _product(first, out_val=out_val)


def _recurrent(inputs: Tensor, weights: Sequence[Tensor]) -> int:
    """Each weight matrix of each layer and direction multiplies one vector a step: (T, B, I) or packed (steps, I)."""
    steps = inputs.numel() // inputs.shape[-1]
    return 2 * steps * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _cudnn_rnn(inputs: Tensor, weights: Sequence[Tensor], *args: Any, out_val: Any, **kwargs: Any) -> int:
    return _recurrent(inputs, weights)


def _mkldnn_rnn(inputs: Tensor, own: Tensor, hidden: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    return _recurrent(inputs, [own, hidden])


FORMULAS: dict[Any, Callable[..., int]] = {
    aten.mv: _product,
    aten.dot: _product,
    aten.addmv: _added_product,
    aten._int_mm: _product,
    aten._weight_int8pack_mm: _product,
    aten._weight_int4pack_mm: _product,
    aten._weight_int4pack_mm_for_cpu: _product,
    aten._cudnn_rnn: _cudnn_rnn,
    aten.miopen_rnn: _cudnn_rnn,
    aten.mkldnn_rnn_layer: _mkldnn_rnn,
}
