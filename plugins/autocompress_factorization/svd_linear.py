"""Linear layers as products of two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from autocompress import Plan
from autocompress_factorization.factorization import Factorization
from autocompress_factorization.low_rank import Factors, energies, linear, owners, split
from autocompress_factorization.ranks import Ranks


class SvdLinear(Factorization):
    """Splits linear layers, transformers' `Conv1D` included, into two by a truncated SVD of the weight.

    Bytes and operations fall together, so that wide layers of transformers and perceptrons also run faster; layers of
    a few dozen features only get smaller, because two small calls cost more than one. Energy is no measure of
    importance for the task (Hsu et al. 2022, "Language model compression with weighted low-rank factorization"):
    recover afterwards. Left as they are: weights shared with another layer, and the projections of
    `nn.MultiheadAttention`, which are read without a layer being called. An `nn.TransformerEncoderLayer` gives up
    PyTorch's fused inference for its factors. Xue et al. 2013, "Restructuring of Deep Neural Network Acoustic Models
    with Singular Value Decomposition".
    """

    name = "svd_linear"
    kind = "linear layers"

    def layers(self, model: nn.Module) -> Mapping[str, str]:
        shared = owners(model)
        attention = {
            f"{name}.out_proj" for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)
        }
        return {
            name: _obstacle(module, shared, name in attention)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) or _is_transposed(module)
        }

    def spectra(self, layer: nn.Module) -> list[Tensor]:
        return [energies(matrix(layer))]

    def shapes(self, layer: nn.Module, ranks: Ranks) -> list[tuple[int, ...]]:
        assert isinstance(ranks, int)
        return [(sum(matrix(layer).shape), ranks)]

    def split(self, layer: nn.Module, ranks: Ranks) -> nn.Module:
        assert isinstance(ranks, int)
        weight, bias = matrix(layer), layer._parameters["bias"]
        up, down = split(weight, ranks)
        return Factors(linear(down, None, weight), linear(up, bias, weight))

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        model = super().reshape(model, plan)
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoder):
                # Its nested tensors are for the fused layers alone.
                module.use_nested_tensor &= not any(_use_factors(layer) for layer in module.layers)
            elif isinstance(module, nn.TransformerEncoderLayer):
                _use_factors(module)
        return model


def matrix(layer: nn.Module) -> Tensor:
    """The weight (out, in)."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.T if _is_transposed(layer) else weight


def _is_transposed(module: nn.Module) -> bool:
    """Whether it is transformers' own linear layer, whose weight is (in, out); by name, to import it is slow."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def _obstacle(layer: nn.Module, shared: Mapping[int, list[str]], in_attention: bool) -> str:
    if in_attention:
        return "nn.MultiheadAttention reads its weight without calling it"
    if isinstance(layer, nn.Linear) and type(layer).forward is not nn.Linear.forward:
        return f"{type(layer).__name__} has a forward of its own"
    if layer._parameters.get("weight") is None:
        return "its weight is computed from other parameters"
    others = shared[id(layer.weight)]
    return f"its weight is shared by {' and '.join(others)}" if len(others) > 1 else ""


def _use_factors(layer: Any) -> bool:
    """Turns off the fused inference of a transformer's layer that has factors, since it would multiply them out."""
    split = isinstance(layer, nn.TransformerEncoderLayer) and any(
        isinstance(inner, Factors) for inner in (layer.linear1, layer.linear2)
    )
    if split:
        layer.activation_relu_or_gelu = 0  # read for this choice alone; the layer calls its `activation`
    return split
