"""Layers that lost columns, with zeros where these were: nothing behind them has to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence


class Scattered(nn.Module):
    """A narrower layer whose outputs are as wide as they were. Its tensors are those of the narrow layer alone."""

    fill = 0.0
    """What stands where columns are gone; NaN shows who reads them."""

    def widen(self, narrow: Tensor, places: Tensor) -> Tensor:
        """(..., kept) as (..., width): `places` (width,), or (rows, width) for each of (rows, ..., kept)."""
        padded = functional.pad(narrow, (0, 1), value=self.fill)
        if places.ndim == 1:
            return padded.index_select(-1, places)
        return padded.gather(-1, _across(places, padded))


class ScatteredEmbedding(Scattered):
    """An embedding with fewer columns."""

    places: Tensor

    def __init__(self, table: nn.Embedding, width: int, kept: Sequence[int]) -> None:
        super().__init__()
        self.table = table
        self.num_embeddings, self.embedding_dim, self.padding_idx = table.num_embeddings, width, table.padding_idx
        self.register_buffer("places", _places(kept, width, table.weight.device), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return self.widen(self.table(input), self.places)


class ScatteredRecurrent(Scattered):
    """An nn.LSTM or nn.GRU with fewer hidden units: takes and gives sequences and states of the old width."""

    kept: Tensor
    """Units (layers x directions, kept) that the states of the narrow net stand for."""
    state_places: Tensor
    output_places: Tensor

    def __init__(self, net: nn.LSTM | nn.GRU, width: int, kept: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.net = net
        self.hidden_size, self.input_size, self.num_layers = width, net.input_size, net.num_layers
        self.batch_first, self.bidirectional = net.batch_first, net.bidirectional
        device = next(net.parameters()).device
        last = kept[-1 - net.bidirectional :]
        self.register_buffer("kept", torch.tensor(kept, device=device), persistent=False)
        states = torch.stack([_places(units, width, device) for units in kept])  # (layers x directions, width)
        self.register_buffer("state_places", states, persistent=False)
        units = [unit + direction * width for direction, units in enumerate(last) for unit in units]
        self.register_buffer("output_places", _places(units, width * len(last), device), persistent=False)

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        output, state = self.net(input, _each(self._take, hx))
        if isinstance(output, PackedSequence):
            wide: Any = output._replace(data=self.widen(output.data, self.output_places))
        else:
            wide = self.widen(output, self.output_places)
        return wide, _each(lambda part: self.widen(part, self.state_places), state)

    def flatten_parameters(self) -> None:
        """As nn.LSTM's own, which models call."""
        self.net.flatten_parameters()

    def _take(self, state: Tensor) -> Tensor:
        return state.gather(-1, _across(self.kept, state))


def _each(function: Any, state: Any) -> Any:
    """An LSTM's states are two, a GRU's is one; none are given at the start."""
    return tuple(map(function, state)) if isinstance(state, tuple) else state if state is None else function(state)


def _across(index: Tensor, tensor: Tensor) -> Tensor:
    """(rows, n) as (rows, ..., n), repeated over the dimensions that the tensor (rows, ..., m) has in between."""
    between = tensor.shape[1:-1]
    return index.view(len(index), *(1 for _ in between), -1).expand(-1, *between, -1)


def _places(kept: Sequence[int], width: int, device: torch.device) -> Tensor:
    """Where each of `width` columns stands among the kept ones (width,); `len(kept)`, after the last, if it is gone."""
    places = torch.full((width,), len(kept), device=device)
    places[torch.tensor(kept, device=device)] = torch.arange(len(kept), device=device)
    return places
