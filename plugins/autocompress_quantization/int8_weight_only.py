"""Weights as int8, computed with in floating point."""

from __future__ import annotations

from typing import Any

from autocompress import Plan, Target
from autocompress_quantization.linear import LinearQuantization, quiet_import


class Int8WeightOnly(LinearQuantization):
    """Stores the weights of linear layers as int8 with one scale per output channel: a quarter of the bytes.

    It makes the model smaller and, on a CPU in eager mode, not faster.
    """

    name = "int8_weight_only"

    def config(self, plan: Plan, target: Target) -> Any:
        with quiet_import():
            from torchao.quantization import Int8WeightOnlyConfig
        return Int8WeightOnlyConfig(set_inductor_config=False)  # True would change settings of the whole process
