"""Weights stored in float16 and used in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autocompress import Method, NotApplicable, Plan, Target, Task, Technique, hookimpl


class Float16Storage(nn.Module):
    """The parametrization: the state holds the float16 tensor, the layer computes with its float32 value."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()


class HalfWeights(Method):
    name = "half_weights"
    technique = Technique.QUANTIZATION

    def check(self, task: Task, target: Target) -> None:
        if not _layers(task.trained_model()):
            raise NotApplicable("the model has no linear or convolution layer with float32 weights")

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        return {"layers": _layers(model)}

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        for name in plan["layers"]:
            layer = model.get_submodule(name)
            layer.weight = nn.Parameter(layer.get_parameter("weight").detach().half(), requires_grad=False)
            parametrize.register_parametrization(layer, "weight", Float16Storage(), unsafe=True)
        return model


def _layers(model: nn.Module) -> list[str]:
    """Names of the layers whose weights can be stored in half the bytes."""
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.weight.dtype == torch.float32
    ]


@hookimpl
def autocompress_methods() -> list[Method]:
    return [HalfWeights()]
