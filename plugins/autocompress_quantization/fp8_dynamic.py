"""Weights and activations as float8, on the GPUs that multiply them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autocompress import NotForTarget, Plan, Target, Task
from autocompress_quantization.linear import LinearQuantization, linear_layers, quiet_import

_ADA = (8, 9)
"""The first compute capability with float8 matrix products."""
_MULTIPLE = 16
"""Of both dimensions of a weight, for those products."""


class Fp8Dynamic(LinearQuantization):
    """Multiplies float8 weights by activations rounded as they come, a scale per tensor, on CUDA GPUs from sm_89.

    Linear layers take a quarter of float32's bytes, in memory too. Keeps more of large and small values than int8 does;
    faster where matrices are large enough to fill the GPU. What else the model does stays in its own precision.
    Micikevicius et al. 2022, "FP8 Formats for Deep Learning".
    """

    name = "fp8_dynamic"
    max_output_error = 0.2

    def check(self, task: Task, target: Target) -> None:
        if not target.is_cuda:
            raise NotForTarget(f"{self.name} needs a CUDA GPU from sm_89, but the target is {target}")
        capability = torch.cuda.get_device_capability(target.torch_device)
        if capability < _ADA:
            found = "".join(map(str, capability))
            raise NotForTarget(f"{self.name} needs a CUDA GPU from sm_89, but {target} is sm_{found}")
        super().check(task, target)

    def layers(self, model: nn.Module) -> list[str]:
        return [
            name
            for name in linear_layers(model)
            if all(size % _MULTIPLE == 0 for size in model.get_submodule(name).get_parameter("weight").shape)
        ]

    def why_skipped(self) -> str:
        return f"its sizes are no multiples of {_MULTIPLE}, or its weight cannot be replaced"

    def config(self, plan: Plan, target: Target) -> Any:
        with quiet_import():
            from torchao.quantization import Float8DynamicActivationFloat8WeightConfig
        return Float8DynamicActivationFloat8WeightConfig(
            set_inductor_config=False,  # True would change settings of the whole process
        )
