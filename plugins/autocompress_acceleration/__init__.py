"""Acceleration: the same model, run faster."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_acceleration.onnx_runtime import OnnxRuntime

__all__ = ["OnnxRuntime"]


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [OnnxRuntime()]
