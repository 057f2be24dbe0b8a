"""Distillation: the uncompressed model teaches the compressed one while that recovers."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_distillation.hard_labels import HardLabels
from autocompress_distillation.soft_labels import SoftLabels

__all__ = ["HardLabels", "SoftLabels"]


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [SoftLabels(), HardLabels()]
