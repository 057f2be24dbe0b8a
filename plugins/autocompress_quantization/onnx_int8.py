"""What the int8 methods of ONNX Runtime share: the graph, prepared and quantized, and what became of its weights."""

from __future__ import annotations

import contextlib
import io
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from autocompress_acceleration.export import TRIED, Interface, quiet
from autocompress_acceleration.onnx_export import check_onnx, to_onnx, trained_onnx
from autocompress_acceleration.onnx_model import OnnxModel
from torch import nn

from autocompress import Method, NotApplicable, Plan, Target, Task, Technique, Trait
from autocompress.method import NoEffect, NotForTarget
from autocompress_quantization.linear import quiet_import

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Gather")
"""ONNX's operators that have weights worth quantizing."""


class OnnxInt8(Method, ABC):
    """Exports the model to ONNX, quantizes the weights of some operators to int8, and ships it with ONNX Runtime."""

    technique = Technique.QUANTIZATION
    gives = frozenset({Trait.FOREIGN})
    refuses = frozenset({Trait.QUANTIZED, Trait.PACKED, Trait.HALF})
    max_output_error = 0.3
    operators: ClassVar[tuple[str, ...]]
    """Whose weights it quantizes."""
    reasons: ClassVar[Mapping[str, str]]
    """Why not those of the others."""

    @abstractmethod
    def quantize(self, graph: Any, path: Path, plan: Plan, task: Task, interface: Interface) -> None:
        """Writes the quantized graph to the path."""

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable unless ONNX Runtime can run the trained model and has int8 kernels for some layer."""
        if target.is_cuda:
            raise NotForTarget(f"{self.name} is for CPUs: ONNX Runtime has no int8 kernels for CUDA")
        check_onnx(task, target)
        found = [kind for kind, _ in float_weights(TRIED.get(_prepared, task))]
        if not set(found) & set(self.operators):
            raise NotApplicable(
                f"{self.name} quantizes the weights of {', '.join(self.operators)},"
                f" but the exported model has weights only in {', '.join(sorted(set(found))) or 'none of them'}"
            )

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        """Raises NoEffect if ONNX Runtime's quantizer left all weights as they were."""
        import onnx

        graph, interface = to_onnx(model, task)
        prepared = prepare(graph)
        with tempfile.TemporaryDirectory() as folder, _quantizer():
            path = Path(folder) / "quantized.onnx"
            self.quantize(prepared, path, plan, task, interface)
            quantized = onnx.load(path)
        count = len(int8_weights(quantized))
        if not count:
            raise NoEffect(f"{self.name}: ONNX Runtime's quantizer left all weights in floating point")
        print(f"{self.name}: {count} weights are int8")
        return OnnxModel(quantized.SerializeToString(), interface, target)

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        import onnx

        if not isinstance(model, OnnxModel):
            return {}
        graph = onnx.load_from_string(model.file.numpy().tobytes())
        return {node: self.reasons.get(kind, "not supported for its shape") for kind, node in float_weights(graph)}

    def load(self, folder: Path, plan: Plan, target: Target) -> OnnxModel:
        return OnnxModel.load(folder, target)


def prepare(graph: Any) -> Any:
    """The graph with constants folded, shapes inferred and tables untied, as the quantizers want it."""
    import onnx
    from onnxruntime.quantization import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quantizer():
        exported, prepared = Path(folder) / "exported.onnx", Path(folder) / "prepared.onnx"
        onnx.save(graph, exported)
        # Symbolic shapes are of no use to the operators quantized here, and their inference fails on some models.
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
        ready = onnx.load(prepared)
    _untie(ready)
    return ready


def _untie(graph: Any) -> None:
    """Gives each Gather a table of its own where another operator multiplies with the same one (a tied head).

    Rows have a scale each where they are looked up, and columns where they are multiplied: one table cannot have both.
    """
    tables = {tensor.name: tensor for tensor in graph.graph.initializer}
    readers = Counter((node.op_type == "Gather", name) for node in graph.graph.node for name in set(node.input))
    for node in graph.graph.node:
        name = node.input[0] if node.input else ""
        if node.op_type == "Gather" and name in tables and readers[False, name]:
            own = f"{name}_looked_up"
            if own not in tables:
                tables[own] = graph.graph.initializer.add()
                tables[own].CopyFrom(tables[name])
                tables[own].name = own
            node.input[0] = own


def _prepared(task: Task) -> Any:
    return prepare(TRIED.get(trained_onnx, task)[0])


def float_weights(graph: Any) -> list[tuple[str, str]]:
    """Operator and name of the nodes that have a floating-point matrix, filter or table as weight."""
    from onnx import TensorProto

    weights = {
        tensor.name
        for tensor in graph.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2
    }
    return [
        (node.op_type, node.name)
        for node in graph.graph.node
        if node.op_type in WEIGHTED and weights.intersection(node.input)
    ]


def int8_weights(graph: Any) -> list[str]:
    """Names of the matrices, filters and tables that are stored as int8."""
    from onnx import TensorProto

    kinds = (TensorProto.INT8, TensorProto.UINT8)
    return [tensor.name for tensor in graph.graph.initializer if tensor.data_type in kinds and len(tensor.dims) >= 2]


def reduce_range() -> bool:
    """Whether this CPU needs values of 7 bits, because the sums of its 8-bit products can overflow 16 bits."""
    with quiet_import():
        from torchao.utils import should_reduce_range
    return bool(should_reduce_range(torch.device("cpu")))


@contextlib.contextmanager
def _quantizer() -> Iterator[None]:
    """ONNX Runtime's quantizer prints what it does."""
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        yield
