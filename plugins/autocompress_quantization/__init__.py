"""Quantization: weights stored, or stored and used, in fewer bits."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_quantization.binary_weights import BinaryWeights
from autocompress_quantization.embedding_low_bit import EmbeddingLowBit
from autocompress_quantization.float16_storage import Float16Storage
from autocompress_quantization.fp8_dynamic import Fp8Dynamic
from autocompress_quantization.half_precision import HalfPrecision
from autocompress_quantization.int8_dynamic import Int8Dynamic
from autocompress_quantization.int8_dynamic_recurrent import Int8DynamicRecurrent
from autocompress_quantization.int8_qat import Int8QAT
from autocompress_quantization.int8_weight_only import Int8WeightOnly
from autocompress_quantization.low_bit_weights import LowBitWeights
from autocompress_quantization.mixed_precision import MixedPrecision
from autocompress_quantization.onnx_int8_dynamic import OnnxInt8Dynamic
from autocompress_quantization.onnx_int8_qat import OnnxInt8Qat
from autocompress_quantization.onnx_int8_static import OnnxInt8Static
from autocompress_quantization.pt2e_int8_static import Pt2eInt8Static
from autocompress_quantization.ternary_weights import TernaryWeights

METHODS = (
    Int8WeightOnly,
    Int8Dynamic,
    LowBitWeights,
    EmbeddingLowBit,
    Int8QAT,
    BinaryWeights,
    TernaryWeights,
    Float16Storage,
    Fp8Dynamic,
    HalfPrecision,
    Int8DynamicRecurrent,
    MixedPrecision,
    OnnxInt8Static,
    OnnxInt8Dynamic,
    OnnxInt8Qat,
    Pt2eInt8Static,
)

__all__ = [
    "BinaryWeights",
    "EmbeddingLowBit",
    "Float16Storage",
    "Fp8Dynamic",
    "HalfPrecision",
    "Int8Dynamic",
    "Int8DynamicRecurrent",
    "Int8QAT",
    "Int8WeightOnly",
    "LowBitWeights",
    "MixedPrecision",
    "OnnxInt8Dynamic",
    "OnnxInt8Qat",
    "OnnxInt8Static",
    "Pt2eInt8Static",
    "TernaryWeights",
]


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [method() for method in METHODS]
