"""LSTM and GRU with int8 weights and activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autocompress import Method, NotApplicable, Plan, Target, Task, Technique, Trait
from autocompress_quantization.recurrent import Int8Recurrent


class Int8DynamicRecurrent(Method):
    """Runs LSTMs and GRUs with PyTorch's int8 kernels: int8 weights, activations quantized as they come.

    Their weights take a quarter of the bytes in the file and a half in memory, where the kernels keep a copy in their
    own layout. Faster where hidden sizes are in the hundreds; for CPUs only. Other layers stay: it can follow
    `int8_dynamic`. PyTorch has announced that these kernels will go.
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
    """

    name = "int8_dynamic_recurrent"
    technique = Technique.QUANTIZATION
    gives = frozenset({Trait.QUANTIZED})
    refuses = frozenset({Trait.PACKED, Trait.HALF})
    max_output_error = 0.2

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable on a GPU, or without a recurrent layer."""
        _check_target(target)
        if torch.backends.quantized.engine == "none":
            raise NotApplicable(f"{self.name} needs PyTorch's int8 kernels, but this build of PyTorch has none")
        model = task.trained_model()
        if not _layers(model):
            left = "".join(f"; {layer}: {reason}" for layer, reason in self.skipped(model, {"layers": []}).items())
            raise NotApplicable(f"{self.name} quantizes nn.LSTM and nn.GRU, but this model has none for it{left}")

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The names of the layers."""
        return {"layers": _layers(model)}

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        return {
            name: Int8Recurrent.objection(module) or "it is part of a layer that has its own code"
            for name, module in model.named_modules()
            if isinstance(module, nn.RNNBase) and name not in plan["layers"]
        }

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        """Quantizes whatever weights the model has. Raises NotApplicable on a GPU."""
        _check_target(target)
        for name in plan["layers"]:
            layer = Int8Recurrent(model.get_submodule(name))
            if not name:
                return layer
            model.set_submodule(name, layer)
        return model


def _check_target(target: Target) -> None:
    if target.is_cuda:
        raise NotApplicable(f"int8_dynamic_recurrent runs on CPUs only, but the target is {target}")


def _layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if Int8Recurrent.objection(module) is None]
