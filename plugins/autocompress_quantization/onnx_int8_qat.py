"""Quantization-aware training to int8 weights and activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autocompress import NotApplicable, Plan, Target, Task, Trait
from autocompress_quantization.fake_quantization import round_weights, without_rounding
from autocompress_quantization.grid import INT8, Grid
from autocompress_quantization.onnx_int8 import reduce_range
from autocompress_quantization.onnx_int8_static import OnnxInt8Static
from autocompress_quantization.weights import Weight, find_weights, is_transformers_conv1d

INT7 = 129
"""Levels of a weight where the CPU's sums of 8-bit products would overflow: ONNX Runtime's quantizer has -64..64."""
CODES = 255
"""The largest code of an activation; the smallest is 0."""


class OnnxInt8Qat(OnnxInt8Static):
    """Trains with the inputs and weights of linear layers and convolutions rounded, then goes on as `onnx_int8_static`.

    For models that lose accuracy when they are rounded after the training. Weights are rounded to the very values that
    ship, with a scale for each output channel, inputs over the range of the batch at hand, with straight-through
    gradients. Embeddings and recurrent layers are trained as they are.
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
    """

    name = "onnx_int8_qat"
    refuses = OnnxInt8Static.refuses | {Trait.FOLDED}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable as `onnx_int8_static` does, and without a linear layer or convolution to train."""
        super().check(task, target)
        if not rounded_layers(task.trained_model()):
            raise NotApplicable(f"{self.name} trains linear layers and convolutions, but this model has none")

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """How many levels each weight is rounded to, and along which dimension."""
        levels = INT7 if reduce_range() else INT8
        return {**params, "weights": {weight.name: [levels, weight.axis] for weight in rounded_layers(model)}}

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        wanted = {name: Grid(levels, axis) for name, (levels, axis) in plan["weights"].items()}
        for weight in find_weights(model):
            if weight.name in wanted:
                for layer, _ in weight.owners:
                    layer.register_forward_pre_hook(_RoundedInputs())
        return round_weights(model, wanted)

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        for layer in model.modules():
            for key in [key for key, hook in layer._forward_pre_hooks.items() if isinstance(hook, _RoundedInputs)]:
                del layer._forward_pre_hooks[key]
        return super().finalize(without_rounding(model, keep=True), plan, task, target)


def rounded_layers(model: nn.Module) -> list[Weight]:
    """The weights whose layers multiply their input with them in one product."""
    return [weight for weight in find_weights(model) if all(_multiplies(layer) for layer, _ in weight.owners)]


def _multiplies(layer: nn.Module) -> bool:
    transposed = isinstance(layer, _ConvNd) and layer.transposed
    return (
        isinstance(layer, nn.Linear | _ConvNd | nn.MultiheadAttention) and not transposed
    ) or is_transformers_conv1d(layer)


class _RoundedInputs:
    """A hook that rounds what a layer multiplies to 256 values over its range, 0 among them; the same stays the same.

    Of attention these are queries, keys and values, and not the masks that come after them.
    """

    def __call__(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        multiplied = args[: 3 if isinstance(layer, nn.MultiheadAttention) else 1]
        rounded = {id(value): _rounded(value) for value in multiplied if _is_float(value)}
        return tuple(rounded.get(id(value), value) for value in args)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _rounded(values: Tensor) -> Tensor:
    low, high = values.detach().aminmax()
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / CODES).clamp_min(torch.finfo(values.dtype).tiny).float()
    zero = (-low / scale).round().clamp(0, CODES).to(torch.int32)
    rounded: Tensor = torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, CODES)
    return rounded
