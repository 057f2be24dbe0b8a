"""int8 in ONNX Runtime, with the ranges of activations taken as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autocompress_acceleration.export import Interface

from autocompress import Plan, Task
from autocompress_quantization.onnx_int8 import OnnxInt8, reduce_range


class OnnxInt8Dynamic(OnnxInt8):
    """Quantizes linear layers, attention, LSTMs and embeddings to int8 and runs them in ONNX Runtime.

    A quarter of the bytes and no data needed; good for transformers and LSTMs. Convolutions stay as they are, since
    ONNX Runtime's dynamic ones are slower than those in floating point: `onnx_int8_static` is for them.
    Zafrir et al. 2019, "Q8BERT"; Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference".
    """

    name = "onnx_int8_dynamic"
    operators = ("MatMul", "Gemm", "LSTM", "Gather")
    reasons = {
        "Conv": "ONNX Runtime's dynamic int8 convolution is slower than that in floating point",
        "ConvTranspose": "ONNX Runtime has no dynamic int8 transposed convolution",
        "GRU": "ONNX Runtime has no int8 GRU",
        "RNN": "ONNX Runtime has no int8 RNN",
    }

    def quantize(self, graph: Any, path: Path, plan: Plan, task: Task, interface: Interface) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=list(self.operators),
            per_channel=True,
            reduce_range=reduce_range(),
            weight_type=QuantType.QInt8,
        )
