"""Structured pruning of recurrent layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autocompress_pruning.narrowing import ColumnPruning
from autocompress_pruning.readers import set_weight
from autocompress_pruning.scattered import ScatteredRecurrent

Recurrent = nn.LSTM | nn.GRU


class RecurrentUnits(ColumnPruning):
    """Removes the hidden units of nn.LSTM and nn.GRU layers whose weights, in and out, have the smallest norm.

    A unit goes with its rows in all gates, its column in the recurrent weights and in the next layer, and its columns
    in the linear and recurrent layers that read the net's outputs. Where other code reads them, zeros stand in the
    units' places: always right, and those readers are not smaller. Each layer and direction keeps the same number, as
    torch asks, but units of its own. Fewer bytes and faster on any device; wide layers can spare the most.

    Wen et al. 2018, "Learning Intrinsic Sparse Structures within Long Short-Term Memory".
    """

    name = "recurrent_units"
    kinds = (nn.LSTM, nn.GRU)
    alike = (nn.RNN, nn.RNNCellBase)
    columns = "hidden units of nn.LSTM and nn.GRU layers"

    def unsuitable(self, layer: Recurrent) -> str:
        if layer.proj_size:
            return f"projects its hidden units to {layer.proj_size} outputs, and those are what others read"
        return "" if "weight_hh_l0" in layer._parameters else "has weights that are computed"

    def rank(self, layer: Recurrent) -> list[Tensor]:
        """The norm of all weights of each unit (units,), by layer and direction."""
        scores = []
        for part, (depth, suffix) in enumerate(_parts(layer)):
            rows = torch.cat([_weight(layer, f"weight_{side}{suffix}") for side in ("ih", "hh")], dim=1)
            score = rows.square().sum(dim=1).view(-1, layer.hidden_size).sum(dim=0)
            score += _weight(layer, f"weight_hh{suffix}").square().sum(dim=0)
            for _, above in (other for other in _parts(layer) if other[0] == depth + 1):
                reads = _weight(layer, f"weight_ih{above}").square().sum(dim=0).view(-1, layer.hidden_size)
                score += reads[part % len(reads)]
            scores.append(score)
        return scores

    def shrink(self, layer: Recurrent, kept: Sequence[Sequence[int]]) -> Recurrent:
        narrow = copy.deepcopy(layer)
        width, directions = layer.hidden_size, 1 + layer.bidirectional
        narrow.hidden_size = len(kept[0])
        for (depth, suffix), units in zip(_parts(layer), kept, strict=True):
            gates = _weight(layer, f"weight_hh{suffix}").shape[0] // width
            rows = torch.tensor([gate * width + unit for gate in range(gates) for unit in units])
            inputs = torch.arange(_weight(layer, f"weight_ih{suffix}").shape[1])
            if depth:
                below = kept[(depth - 1) * directions : depth * directions]
                inputs = torch.tensor([unit + side * width for side, units in enumerate(below) for unit in units])
            for name, columns in (("weight_ih", inputs), ("weight_hh", torch.tensor(units))):
                set_weight(narrow, f"{name}{suffix}", _weight(layer, f"{name}{suffix}")[rows][:, columns])
            for name in ("bias_ih", "bias_hh") if layer.bias else ():
                set_weight(narrow, f"{name}{suffix}", _weight(layer, f"{name}{suffix}")[rows])
        return narrow

    def scatter(self, narrow: Recurrent, layer: Recurrent, kept: Sequence[Sequence[int]]) -> ScatteredRecurrent:
        return ScatteredRecurrent(narrow, layer.hidden_size, kept)


def _parts(layer: Recurrent) -> list[tuple[int, str]]:
    """Depth and the parameters' suffix of each layer and direction, in torch's order."""
    sides = ("", "_reverse")[: 1 + layer.bidirectional]
    return [(depth, f"_l{depth}{side}") for depth in range(layer.num_layers) for side in sides]


def _weight(layer: nn.Module, name: str) -> Tensor:
    return layer.get_parameter(name).detach()
