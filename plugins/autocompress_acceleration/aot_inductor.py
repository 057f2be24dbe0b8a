"""AOTInductor in place of eager PyTorch."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autocompress import Method, Plan, Target, Task, Technique, Trait
from autocompress_acceleration.aot_model import AotModel, compile_ahead
from autocompress_acceleration.compiler import check_compiler
from autocompress_acceleration.export import TRIED, Traceable


class AotInductor(Method):
    """Compiles the model to machine code ahead of time, weights frozen into it, and ships that.

    As fast as `torch_compile` with frozen weights, without its wait and without a compiler where the artifact is
    loaded; but only there where the processor is the same, and it costs over a megabyte of code. Ansel et al. 2024,
    "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph Compilation".
    """

    name = "aot_inductor"
    technique = Technique.ACCELERATION
    gives = frozenset({Trait.FOREIGN})
    refuses = frozenset({Trait.QUANTIZED, Trait.PACKED, Trait.WRAPPED})
    max_output_error = 0.01
    native_code = True

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable without a compiler, or if the trained model cannot be traced."""
        check_compiler(self.name, target)
        TRIED.get(check_traceable, task)

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        traceable = Traceable.of(model, task)
        return compile_ahead(traceable.export(), traceable.interface, target)

    def load(self, folder: Path, plan: Plan, target: Target) -> AotModel:
        return AotModel.load(folder)


def check_traceable(task: Task) -> None:
    """Raises NotApplicable if torch.export cannot trace the trained model for batches of any size."""
    Traceable.of(task.trained_model(), task).export()
