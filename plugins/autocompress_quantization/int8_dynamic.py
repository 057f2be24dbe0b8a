"""Weights and activations as int8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autocompress import Plan, Target, Task
from autocompress_quantization.linear import LinearQuantization, quiet_import


class Int8Dynamic(LinearQuantization):
    """Multiplies int8 weights by activations that are quantized row by row as they come (Jacob et al. 2018).

    Linear layers take a quarter of the bytes, in memory too. Faster where the device multiplies int8 matrices fast and
    they are large; in eager mode on a CPU quantizing the activations costs more than that gains, and
    `int8_weight_only` makes more layers small. LSTM and GRU have `int8_dynamic_recurrent`.
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
    """

    name = "int8_dynamic"
    max_output_error = 0.2

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The layers, and whether CPUs of this kind need values of 7 bits, whose sums cannot overflow 16 bits."""
        with quiet_import():
            from torchao.utils import should_reduce_range
        return super().decide(model, params, task) | {"reduce_range_on_cpu": should_reduce_range(torch.device("cpu"))}

    def config(self, plan: Plan, target: Target) -> Any:
        with quiet_import():
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig
        return Int8DynamicActivationInt8WeightConfig(
            set_inductor_config=False,  # True would change settings of the whole process
            reduce_range=plan["reduce_range_on_cpu"] and not target.is_cuda,
        )
