"""Pruning: channels, heads and blocks taken out of a model, so that what is left is a smaller dense model."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_pruning.attention_heads import AttentionHeads
from autocompress_pruning.batch_norm_scale import StructuredBatchNormScale
from autocompress_pruning.embedding_columns import EmbeddingColumns
from autocompress_pruning.embedding_rows import EmbeddingRows
from autocompress_pruning.error_change import StructuredErrorChange
from autocompress_pruning.hessian import StructuredHessian
from autocompress_pruning.lamp import StructuredLamp
from autocompress_pruning.layer_dropping import LayerDropping
from autocompress_pruning.magnitude import StructuredMagnitude
from autocompress_pruning.random_control import StructuredRandom
from autocompress_pruning.recurrent_units import RecurrentUnits
from autocompress_pruning.semi_structured_24 import SemiStructured24
from autocompress_pruning.taylor import StructuredTaylor
from autocompress_pruning.unstructured_magnitude import UnstructuredMagnitude
from autocompress_pruning.unstructured_movement import UnstructuredMovement

__all__ = [
    "AttentionHeads",
    "EmbeddingColumns",
    "EmbeddingRows",
    "LayerDropping",
    "RecurrentUnits",
    "SemiStructured24",
    "StructuredBatchNormScale",
    "StructuredErrorChange",
    "StructuredHessian",
    "StructuredLamp",
    "StructuredMagnitude",
    "StructuredRandom",
    "StructuredTaylor",
    "UnstructuredMagnitude",
    "UnstructuredMovement",
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
        RecurrentUnits(),
        EmbeddingColumns(),
        EmbeddingRows(),
        UnstructuredMagnitude(),
        UnstructuredMovement(),
        SemiStructured24(),
    ]
