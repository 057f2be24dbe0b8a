"""Weights and computation in 16 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from autocompress import Choice, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.errors import first_line
from autocompress.tensors import call, to_device

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class HalfPrecision(Method):
    """Keeps and computes everything in bfloat16 or float16; inputs and outputs stay float32.

    Half the bytes, in memory too, and faster on GPUs. On CPUs without 16-bit arithmetic it is several times slower:
    there `float16_storage` halves the file alone. bfloat16 has float32's range, float16 three more bits of precision.
    Micikevicius et al. 2018, "Mixed Precision Training"; Kalamkar et al. 2019, "A Study of BFLOAT16".
    """

    name = "half_precision"
    technique = Technique.QUANTIZATION
    gives = frozenset({Trait.HALF})
    refuses = frozenset({Trait.QUANTIZED, Trait.PACKED, Trait.HALF})
    max_output_error = 0.1

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"dtype": Choice(tuple(DTYPES), "bfloat16")}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if the model has no float32 parameters, or cannot compute in 16 bits."""
        model = task.trained_model()
        if not any(parameter.dtype == torch.float32 for parameter in model.parameters()):
            raise NotApplicable(f"{self.name} halves float32 weights, but this model has none")
        device = target.torch_device
        try:
            with torch.no_grad():
                call(_halved(model.to(device), torch.bfloat16), to_device(task.inputs(1), device))
        except Exception as error:  # the user's forward, or an operator that PyTorch lacks in this type
            raise NotApplicable(f"{self.name} needs a model that runs in 16 bits, but: {first_line(error)}") from error

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        return _halved(model, DTYPES[plan["dtype"]])


def _halved(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in a type of 16 bits, with float32 at its doors. Its tensors keep their names."""

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return _cast(args, dtype), _cast(kwargs, dtype)

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        return _cast(output, torch.float32)

    model.to(dtype)
    model.register_forward_pre_hook(enter, with_kwargs=True)
    model.register_forward_hook(leave)
    return model


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Every floating-point tensor in it in another type; containers keep their kinds."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, value)
