"""int8 in ONNX Runtime, with the ranges of activations taken from calibration data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autocompress_acceleration.export import Interface
from autocompress_acceleration.nesting import flatten

from autocompress import Choice, Integer, Parameter, Plan, Task
from autocompress.tensors import first_tensor
from autocompress_quantization.onnx_int8 import OnnxInt8, reduce_range

BETWEEN = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten", "Concat")
"""Operators between those with weights, on which values can stay int8."""


class OnnxInt8Static(OnnxInt8):
    """Quantizes convolutions, linear layers and embeddings to int8 and runs them in ONNX Runtime.

    Weights have a scale for each output channel, activations a fixed one that calibration data gives: by their
    extremes, or by the range that loses least information (entropy), or that holds nearly all values (percentile).
    The fastest that there is for convolutional nets on a CPU; transformers, whose activations have outliers, lose
    accuracy more than with `onnx_int8_dynamic`. Nagel et al. 2021, "A White Paper on Neural Network Quantization".
    """

    name = "onnx_int8_static"
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
            extra_options={"MatMulConstBOnly": True},  # attention's products of activations stay as they are
        )


class _Reader:
    """Calibration batches as ONNX Runtime asks for them (its `CalibrationDataReader`), all of one shape.

    It puts the values of a tensor of all batches into one array, so those of the shape that most have are taken.
    """

    def __init__(self, names: list[str], task: Task, interface: Interface, samples: int) -> None:
        batches = list(task.calibration_inputs(samples))
        common, _ = Counter(first_tensor(batch).shape for batch in batches).most_common(1)[0]
        chosen = [batch for batch in batches if first_tensor(batch).shape == common]
        self._batches: Iterator[dict[str, Any]] = iter(
            [
                {name: tensor.numpy() for name, tensor in zip(names, flatten(interface.inputs, batch), strict=True)}
                for batch in chosen
            ]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
