"""How each type of layer loses channels: Torch-Pruning's own pruners, and those of layers that it does not know."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch_pruning as tp
from torch import nn


def dependency_graph() -> Any:
    """An empty graph of Torch-Pruning's that knows these layers too."""
    graph = tp.DependencyGraph()
    graph.register_customized_layer(nn.RMSNorm, RMSNormPruner())
    for recurrent in (nn.RNN, nn.LSTM, nn.GRU):
        graph.register_customized_layer(recurrent, RecurrentPruner())
    for conv1d in conv1d_types():
        graph.register_customized_layer(conv1d, Conv1DPruner())
    return graph


def conv1d_types() -> tuple[type[nn.Module], ...]:
    """transformers' linear layer with its weight as (in, out), which GPT-2 has; nothing where no model can hold one."""
    conv1d = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    return () if conv1d is None else (conv1d,)


def linear_types() -> tuple[type[nn.Module], ...]:
    """Layers that multiply by a matrix, whose output channels can be removed."""
    return (nn.Linear, *conv1d_types())


def widths(layer: nn.Module) -> tuple[int, int]:
    """How many channels a linear layer takes and gives."""
    out, inside = _dimensions(layer)
    shape = layer.get_parameter("weight").shape
    return shape[inside], shape[out]


class _Pruner(tp.pruner.function.BasePruningFunc):  # type: ignore[misc]  # untyped
    def _keep(self, layer: nn.Module, name: str, removed: Sequence[int], dimension: int) -> int:
        """Cuts a parameter, if the layer has it, and tells how many channels are left."""
        parameter = getattr(layer, name)
        gone = set(removed)
        kept = [index for index in range(parameter.shape[dimension]) if index not in gone]
        setattr(layer, name, self._prune_parameter_and_grad(parameter, kept, dimension))
        return len(kept)


class Conv1DPruner(_Pruner):
    """transformers' Conv1D: weight (in, out), bias (out,)."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        self._keep(layer, "bias", idxs, 0)
        layer.nf = self._keep(layer, "weight", idxs, 1)
        return layer

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        layer.nx = self._keep(layer, "weight", idxs, 0)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.nf)

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.nx)


class RMSNormPruner(_Pruner):
    """nn.RMSNorm over the last dimension."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        if layer.weight is not None:
            self._keep(layer, "weight", idxs, -1)
        layer.normalized_shape = (*layer.normalized_shape[:-1], layer.normalized_shape[-1] - len(idxs))
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.normalized_shape[-1])

    get_in_channels = get_out_channels


class RecurrentPruner(_Pruner):
    """What recurrent layers take; the units that they are made of stay."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        raise NotImplementedError("the units of a recurrent layer are no channels")

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> Any:
        for name in input_weights(layer):
            layer.input_size = self._keep(layer, name, idxs, 1)
        return layer

    def get_out_channels(self, layer: Any) -> int:
        return int((layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1))

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.input_size)


def input_weights(layer: nn.RNNBase) -> list[str]:
    """Names of the weights (gates, input) by which a recurrent layer takes its input, one a direction."""
    return ["weight_ih_l0", "weight_ih_l0_reverse"][: 2 if layer.bidirectional else 1]


@dataclass(frozen=True)
class Slice:
    """What belongs to some channels of a layer: these indices along this dimension of one of its parameters."""

    parameter: nn.Parameter
    dimension: int
    indices: list[int]
    is_bias: bool = False


def slices(module: nn.Module, into: bool, indices: list[int]) -> Iterator[Slice]:
    """The parts of a layer's parameters that go with input (`into`) or output channels, one index a channel each."""
    if isinstance(module, nn.MultiheadAttention):
        yield from _attention_slices(module, indices)
        return
    if isinstance(module, nn.RNNBase):
        yield from (Slice(module.get_parameter(name), 1, indices) for name in input_weights(module) if into)
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, nn.Parameter):
        out, inside = _dimensions(module)
        dimension = inside if into else out
        # A grouped convolution counts its input channels anew in each group.
        yield Slice(weight, dimension, [index % weight.shape[dimension] for index in indices] if into else indices)
    if isinstance(bias, nn.Parameter) and not into:
        yield Slice(bias, 0, indices, is_bias=True)


def _dimensions(module: nn.Module) -> tuple[int, int]:
    """Where a layer's weight has its output and its input channels."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return (1, 0) if module.transposed else (0, 1)
    if isinstance(module, nn.Linear):
        return 0, 1
    if isinstance(module, (nn.Embedding, *conv1d_types())):
        return 1, 0
    return 0, 0  # normalization


def _attention_slices(module: nn.MultiheadAttention, indices: list[int]) -> Iterator[Slice]:
    width = module.embed_dim
    for shift in (0, width, 2 * width):
        rows = [shift + index for index in indices]
        if module.in_proj_weight is not None:
            yield Slice(module.in_proj_weight, 0, rows)
        if module.in_proj_bias is not None:
            yield Slice(module.in_proj_bias, 0, rows, is_bias=True)
    if module.in_proj_weight is not None:
        yield Slice(module.in_proj_weight, 1, indices)
    yield from slices(module.out_proj, False, indices)
    yield from slices(module.out_proj, True, indices)
