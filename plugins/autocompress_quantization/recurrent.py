"""An LSTM or GRU whose matrix products are of int8."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class Int8Recurrent(nn.Module):
    """What nn.LSTM or nn.GRU computes at inference, by PyTorch's dynamic int8 kernels; called in the same way.

    The weights are buffers: `weight_*` int8 (gates * hidden, inputs) and `weight_*_scale` (gates * hidden,). What the
    kernels read is made of them at the first forward, and again when they were loaded anew.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(layer, nn.RNNBase):
            raise TypeError(f"must be nn.LSTM or nn.GRU, but got {type(layer).__name__}")
        self.is_lstm = isinstance(layer, nn.LSTM)
        self.input_size, self.hidden_size, self.num_layers = layer.input_size, layer.hidden_size, layer.num_layers
        self.bias, self.batch_first, self.bidirectional = layer.bias, layer.batch_first, layer.bidirectional
        self.names: list[list[str]] = layer._all_weights
        for name, value in layer.named_parameters():
            if name.startswith("weight"):
                scale = value.detach().abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
                self.register_buffer(name, (value.detach() / scale[:, None]).round().to(torch.int8))
                self.register_buffer(f"{name}_scale", scale)
            else:
                self.register_buffer(name, value.detach().clone())
        self._cells: tuple[list[int], list[Any]] = ([], [])

    @staticmethod
    def objection(module: nn.Module) -> str | None:
        """Why there are no kernels for a layer; None where there are."""
        if type(module) not in (nn.LSTM, nn.GRU):
            return "it is no nn.LSTM or nn.GRU itself"
        if isinstance(module, nn.LSTM) and module.proj_size:
            return "there is no int8 kernel for an LSTM with proj_size"
        if any(parameter.dtype != torch.float32 for parameter in module.parameters()):
            return "its weights are not float32"
        return None

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        single = input.dim() == 2
        if single:  # one sequence without a batch dimension
            input = input.unsqueeze(0 if self.batch_first else 1)
            hx = _each(hx, lambda state: state.unsqueeze(1))
        hidden = self._start(input.shape[0 if self.batch_first else 1], input) if hx is None else hx
        output, final = self._run([input], hidden, [self.batch_first])
        if single:
            return output.squeeze(0 if self.batch_first else 1), _each(final, lambda state: state.squeeze(1))
        return output, final

    def flatten_parameters(self) -> None:
        """Nothing to do; models call it on their recurrent layers."""

    def _forward_packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        """Sequences of their own lengths; states come and go in the caller's order."""
        order, back = packed.sorted_indices, packed.unsorted_indices
        hidden = self._start(int(packed.batch_sizes[0]), packed.data) if hx is None else hx
        if order is not None and hx is not None:
            hidden = _each(hidden, lambda state: state.index_select(1, order))
        data, final = self._run([packed.data, packed.batch_sizes], hidden, [])
        if back is not None:
            final = _each(final, lambda state: state.index_select(1, back))
        return PackedSequence(data, packed.batch_sizes, order, back), final

    def _run(self, inputs: list[Tensor], hidden: Any, layout: list[bool]) -> tuple[Tensor, Any]:
        """Output and final state; `layout` is what the kernel for padded inputs takes beyond the one for packed."""
        # The kernels want biases: of zeros where the layer has none.
        options = (True, self.num_layers, 0.0, False, self.bidirectional, *layout)
        if self.is_lstm:
            output, state, cell = torch.quantized_lstm(
                *inputs, list(hidden), self._prepared(), *options, dtype=torch.qint8, use_dynamic=True
            )
            return output, (state, cell)
        output, state = torch.quantized_gru(*inputs, hidden, self._prepared(), *options)
        return output, state

    def _start(self, batch: int, like: Tensor) -> Any:
        zeros = like.new_zeros(self.num_layers * (1 + self.bidirectional), batch, self.hidden_size)
        return (zeros, zeros) if self.is_lstm else zeros

    def _prepared(self) -> list[Any]:
        """The weights as the kernels read them, one object per layer and direction."""
        versions = [buffer._version for buffer in self.buffers()]
        if self._cells[0] != versions:
            self._cells = (versions, [self._cell(names) for names in self.names])
        return self._cells[1]

    def _cell(self, names: list[str]) -> Any:
        outputs = self.get_buffer(names[0]).shape[0]
        biases = [self.get_buffer(name) for name in names[2:4]] if self.bias else [torch.zeros(outputs)] * 2
        weights = [self._prepack(name, bias) for name, bias in zip(names, biases, strict=False)]
        # 7 bits for activations: sums of products cannot overflow 16 bits on CPUs without VNNI.
        return torch.ops.quantized.make_quantized_cell_params_dynamic(*weights, *biases, True)

    def _prepack(self, name: str, bias: Tensor) -> Any:
        weight, scale = self.get_buffer(name), self.get_buffer(f"{name}_scale").double()
        zeros = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings():
            # The kernels take no other kind of tensor, whatever their future.
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(weight, scale, zeros, 0)
        return torch.ops.quantized.linear_prepack(quantized, bias)


def _each(hx: Any, change: Any) -> Any:
    """A state (layers, B, hidden) changed; an LSTM has two of them."""
    if hx is None:
        return None
    return tuple(change(state) for state in hx) if isinstance(hx, tuple | list) else change(hx)
