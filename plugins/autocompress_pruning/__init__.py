"""Pruning: channels taken out of a model, so that what is left is a smaller dense model."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_pruning.magnitude import StructuredMagnitude
from autocompress_pruning.random_control import StructuredRandom

__all__ = ["StructuredMagnitude", "StructuredRandom"]


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [StructuredMagnitude(), StructuredRandom()]
