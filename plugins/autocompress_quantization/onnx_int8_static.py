"""int8 in ONNX Runtime, with the ranges of activations taken from calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress_acceleration.export import Interface
from autocompress_acceleration.nesting import flatten

from autocompress import Choice, Integer, Parameter, Plan, Task
from autocompress_quantization.onnx_int8 import OnnxInt8, reduce_range

BETWEEN = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten")
"""Operators between those with weights, on which values can stay int8. Those that join branches (Add, Concat) are left
out: one range for both would round a transformer's residual stream away."""
FLOAT_OUTPUTS = ("Gemm", "MatMul")
"""Operators whose kernels give floating point at no cost: their sums are not rounded, unless the next layer reads int8.
Of the tiny families, outputs of BERT differ by 0.0025 in place of 0.023, an encoder's by 0.0056 in place of 0.012, and
both are a tenth faster."""


class OnnxInt8Static(OnnxInt8):
    """Quantizes convolutions, linear layers and embeddings to int8 and runs them in ONNX Runtime.

    Weights have a scale for each output channel, activations a fixed one that calibration data gives: by their
    extremes, or by the range that loses least information (entropy), or that holds nearly all values (percentile).
    The fastest that there is for convolutional nets on a CPU; transformers, whose activations have outliers, lose
    accuracy more than with `onnx_int8_dynamic`. Nagel et al. 2021, "A White Paper on Neural Network Quantization".
    """

    name = "onnx_int8_static"
    needs_calibration = True
    operators = ("Conv", "Gemm", "MatMul", "Gather")
    reasons = {
        "ConvTranspose": "ONNX Runtime has no int8 transposed convolution",
        "LSTM": "ONNX Runtime has no static int8 LSTM",
        "GRU": "ONNX Runtime has no int8 GRU",
        "RNN": "ONNX Runtime has no int8 RNN",
    }

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`calibration`: how the range of an activation is chosen; `samples`: how many inputs it is taken from."""
        return {
            "calibration": Choice(("minmax", "entropy", "percentile"), default="minmax"),
            "samples": Integer(32, 512, default=128, log=True),
        }

    def quantize(self, graph: Any, path: Path, plan: Plan, task: Task, interface: Interface) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        methods = {
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }
        names = [node.name for node in graph.graph.input]
        quantize_static(
            graph,
            path,
            calibration_data_reader=_Reader(names, task, interface, plan["samples"]),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*self.operators, *BETWEEN],
            per_channel=True,
            reduce_range=reduce_range(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[plan["calibration"]],
            extra_options={
                "MatMulConstBOnly": True,  # attention's products of activations stay as they are
                "CalibStridedMinMax": 1,  # one batch at a time, for all ways: batches may differ in shape
                "OpTypesToExcludeOutputQuantization": list(FLOAT_OUTPUTS),
            },
        )


class _Reader:
    """Calibration batches as ONNX Runtime asks for them (its `CalibrationDataReader`)."""

    def __init__(self, names: list[str], task: Task, interface: Interface, samples: int) -> None:
        self._names, self._interface = names, interface
        self._batches = list(task.calibration_inputs(samples))
        self._next = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._next, None)
        if batch is None:
            return None
        tensors = flatten(self._interface.inputs, batch)
        return {name: tensor.numpy() for name, tensor in zip(self._names, tensors, strict=True)}
