"""ONNX Runtime in place of eager PyTorch."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autocompress import Method, Plan, Target, Task, Technique, Trait
from autocompress_acceleration.onnx_export import check_onnx, to_onnx
from autocompress_acceleration.onnx_model import OnnxModel


class OnnxRuntime(Method):
    """Exports the model to ONNX and ships it with ONNX Runtime, which fuses layers and wastes no time between them.

    Good for small models and small batches on a CPU, where eager PyTorch spends much of its time outside of kernels.
    On a GPU inputs and outputs pass through main memory. The bytes are those of the weights and of the graph; a weight
    that several operations read in different ways (a tied head, the table of an EmbeddingBag) may be stored for each.
    ONNX Runtime developers 2021, https://onnxruntime.ai.
    """

    name = "onnx_runtime"
    technique = Technique.ACCELERATION
    gives = frozenset({Trait.FOREIGN})
    refuses = frozenset({Trait.QUANTIZED, Trait.PACKED, Trait.HALF, Trait.WRAPPED})
    max_output_error = 0.01

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable unless the trained model can be exported and run there."""
        check_onnx(task, target)

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        graph, interface = to_onnx(model, task)
        return OnnxModel(graph.SerializeToString(), interface, target)

    def load(self, folder: Path, plan: Plan, target: Target) -> OnnxModel:
        return OnnxModel.load(folder, target)
