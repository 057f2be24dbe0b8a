"""Batch normalization folded into the layers before it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from autocompress import Method, NotApplicable, Plan, Target, Task, Technique, Trait
from autocompress.effect import output_error, outputs
from autocompress.tensors import call

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, nn.Linear)
SAME = 1e-4
"""Folding is exact but for rounding: a larger output error means that something else reads the layer's outputs."""


class BatchNormFolding(Method):
    """Multiplies the scales of batch norms into the convolutions and linear layers before them.

    Exact but for rounding, a little smaller, and faster by one pass over each activation. Runtimes that compile or
    export a model (ONNX Runtime, AOTInductor) fold on their own; this is for models that stay in eager PyTorch. It may
    come before methods that store or compute with quantized weights, but not before those that train them.
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
    """

    name = "batch_norm_folding"
    technique = Technique.ACCELERATION
    may_precede = frozenset({Technique.QUANTIZATION})  # what stores the folded weights in fewer bits
    gives = frozenset({Trait.FOLDED})
    refuses = frozenset({Trait.QUANTIZED, Trait.PACKED, Trait.WRAPPED})
    max_output_error = 1e-3

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable unless some batch norm comes right after a convolution or linear layer."""
        if not foldable(task.trained_model(), task.inputs(2)):
            raise NotApplicable(
                f"{self.name} needs a batch norm whose only input is a convolution or linear layer used once,"
                " but this model has none"
            )

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """Names of the layers and of the norms right after them."""
        return {"pairs": foldable(model, task.inputs(2))}

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        return {
            name: "no convolution or linear layer that only it reads can take it up"
            for name, module in model.named_modules()
            if isinstance(module, _NORMS)
        }

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        return fold(model, plan["pairs"])


def foldable(model: nn.Module, inputs: Any) -> list[list[str]]:
    """Names of a layer and of the norm after it, found by running the model on `inputs`, and tried on a copy."""
    pairs = _neighbours(model, inputs)
    if not pairs or _is_exact(model, pairs, inputs):
        return pairs
    return [pair for pair in pairs if _is_exact(model, [pair], inputs)]


def fold(model: nn.Module, pairs: list[list[str]]) -> nn.Module:
    """`model` with those norms folded into their layers, nothing in their place."""
    for layer_name, norm_name in pairs:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        model.set_submodule(layer_name, _fused(layer, norm))
        model.set_submodule(norm_name, nn.Identity())
    return model


def _fused(layer: Any, norm: Any) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    fused: nn.Module = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _TRANSPOSED))
    return fused


def _neighbours(model: nn.Module, inputs: Any) -> list[list[str]]:
    """Layers and norms that run once, the norm on the very tensor that the layer gave."""
    calls: Counter[str] = Counter()
    given: list[tuple[str, Tensor]] = []  # kept alive, so that no other tensor takes its place in memory
    found: list[list[str]] = []

    def note_layer(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            calls[name] += 1
            given.append((name, output))

        return hook

    def note_norm(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            calls[name] += 1
            found.extend([layer, name] for layer, tensor in given if tensor is args[0])

        return hook

    hooks = [
        module.register_forward_hook(note_layer(name) if isinstance(module, _LAYERS) else note_norm(name))
        for name, module in model.named_modules()
        if _can_fold(module)
    ]
    try:
        with torch.no_grad():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return [
        pair
        for pair in found
        if all(calls[name] == 1 for name in pair) and uses[id(model.get_submodule(pair[0]).weight)] == 1
    ]


def _can_fold(module: nn.Module) -> bool:
    """Whether it is a layer with a weight of its own, not a computed one, or a norm with statistics of its own."""
    if isinstance(module, _NORMS):
        return module.running_mean is not None
    return isinstance(module, _LAYERS) and "weight" in module._parameters


def _is_exact(model: nn.Module, pairs: list[list[str]], inputs: Any) -> bool:
    try:
        folded = outputs(fold(copy.deepcopy(model), pairs), inputs)
    except (RuntimeError, AssertionError):  # a linear layer's norm may be over another dimension than its outputs'
        return False
    return output_error(folded, outputs(model, inputs)) < SAME
