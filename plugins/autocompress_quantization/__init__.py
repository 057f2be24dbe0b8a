"""Quantization: weights stored and used as integers."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_quantization.int8_dynamic import Int8Dynamic
from autocompress_quantization.int8_weight_only import Int8WeightOnly
from autocompress_quantization.onnx_int8_dynamic import OnnxInt8Dynamic
from autocompress_quantization.onnx_int8_static import OnnxInt8Static
from autocompress_quantization.pt2e_int8_static import Pt2eInt8Static

__all__ = ["Int8Dynamic", "Int8WeightOnly", "OnnxInt8Dynamic", "OnnxInt8Static", "Pt2eInt8Static"]


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [Int8WeightOnly(), Int8Dynamic(), OnnxInt8Static(), OnnxInt8Dynamic(), Pt2eInt8Static()]
