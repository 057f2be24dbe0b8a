"""Pruning: channels taken out of a model, so that what is left is a smaller dense model."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_pruning.embedding_columns import EmbeddingColumns
from autocompress_pruning.embedding_rows import EmbeddingRows
from autocompress_pruning.magnitude import StructuredMagnitude
from autocompress_pruning.random_control import StructuredRandom
from autocompress_pruning.recurrent_units import RecurrentUnits
from autocompress_pruning.unstructured_magnitude import UnstructuredMagnitude
from autocompress_pruning.unstructured_movement import UnstructuredMovement

__all__ = [
    "EmbeddingColumns",
    "EmbeddingRows",
    "RecurrentUnits",
    "StructuredMagnitude",
    "StructuredRandom",
    "UnstructuredMagnitude",
    "UnstructuredMovement",
]


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [
        StructuredMagnitude(),
        StructuredRandom(),
        RecurrentUnits(),
        EmbeddingColumns(),
        EmbeddingRows(),
        UnstructuredMagnitude(),
        UnstructuredMovement(),
    ]
