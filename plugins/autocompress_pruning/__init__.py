"""Pruning: channels, heads and blocks taken out of a model, so that what is left is a smaller dense model."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_pruning.attention_heads import AttentionHeads
from autocompress_pruning.batch_norm_scale import StructuredBatchNormScale
from autocompress_pruning.error_change import StructuredErrorChange
from autocompress_pruning.hessian import StructuredHessian
from autocompress_pruning.lamp import StructuredLamp
from autocompress_pruning.layer_dropping import LayerDropping
from autocompress_pruning.magnitude import StructuredMagnitude
from autocompress_pruning.random_control import StructuredRandom
from autocompress_pruning.taylor import StructuredTaylor

__all__ = [
    "AttentionHeads",
    "LayerDropping",
    "StructuredBatchNormScale",
    "StructuredErrorChange",
    "StructuredHessian",
    "StructuredLamp",
    "StructuredMagnitude",
    "StructuredRandom",
    "StructuredTaylor",
]


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [
        AttentionHeads(),
        LayerDropping(),
        StructuredBatchNormScale(),
        StructuredErrorChange(),
        StructuredHessian(),
        StructuredLamp(),
        StructuredMagnitude(),
        StructuredRandom(),
        StructuredTaylor(),
    ]
