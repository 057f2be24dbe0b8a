"""`torch.compile`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from autocompress import Choice, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.errors import first_line
from autocompress.tensors import call
from autocompress_acceleration.compiler import check_compiler
from autocompress_acceleration.export import TRIED, quiet
from autocompress_acceleration.wrapper import Wrapper, all_tensors


class TorchCompile(Method):
    """Compiles the model with TorchInductor when it is first called, and again wherever its artifact is loaded.

    Fuses element-wise operations; with frozen weights it also lays them out for the kernels, which is what makes
    convolutions faster. The files stay those of the model, so whoever loads them needs a C++ compiler and waits for
    seconds: `aot_inductor` ships what it compiled. Ansel et al. 2024, "PyTorch 2".
    """

    name = "torch_compile"
    technique = Technique.ACCELERATION
    gives = frozenset({Trait.WRAPPED})
    refuses = frozenset({Trait.PACKED})  # which is found by its name
    max_output_error = 0.01
    reload_error = 1e-5  # compiled anew, maybe for another batch size and so with sums in another order

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`freezing`: weights become constants; `mode`: torch.compile's own, of which autotuning takes minutes."""
        modes = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")
        return {"freezing": Choice((True, False), default=True), "mode": Choice(modes, default="default")}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable without a compiler, or if torch.compile can capture nothing of the model."""
        check_compiler(self.name, target)
        TRIED.get(_check_captured, task)

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        return {
            name.removeprefix("model."): "torch.compile leaves recurrent layers to eager PyTorch"
            for name, module in model.named_modules()
            if isinstance(module, nn.RNNBase)
        }

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        return CompiledModel(model, plan["mode"], plan["freezing"])


class CompiledModel(Wrapper):
    """A model that is compiled when it is called.

    PyTorch keeps what it compiled by the code of `forward`, which trials share, and after 8 of them runs the next ones
    uncompiled without a word. So each model starts with an empty cache; older ones are compiled again if called.
    """

    resets: ClassVar[int] = 0
    """How often the cache was emptied."""

    def __init__(self, model: nn.Module, mode: str, freezing: bool) -> None:
        super().__init__(model)
        with quiet():
            import torch._inductor as inductor

            options = {**inductor.list_mode_options(mode), "compile_threads": 1}
            self._compiled = torch.compile(functools.partial(call, model), options=options)
        self._freezing = inductor.config.patch(freezing=freezing)
        self._seen: set[Any] = set()
        torch.compiler.reset()
        CompiledModel.resets += 1

    def run(self, inputs: Any) -> Any:
        key = self.resets, torch.is_inference_mode_enabled(), *(tensor.shape for tensor in all_tensors(inputs))
        if key in self._seen:
            return self._compiled(inputs)
        self._seen.add(key)
        # Among the options it would come too late: the tracer, too, asks whether weights are constants.
        with quiet(), self._freezing:
            return self._compiled(inputs)


def _check_captured(task: Task) -> None:
    """Raises NotApplicable unless some graph that torch.compile captures computes something."""
    operations: list[torch.fx.Node] = []

    def count(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        operations.extend(node for node in graph.graph.nodes if node.op.startswith("call"))
        return graph.forward

    try:
        with quiet(), torch.no_grad():
            model = torch.compile(task.trained_model(), backend=count)
            assert isinstance(model, nn.Module)
            call(model, task.inputs(2))
    except Exception as error:  # the user's forward, or torch
        raise NotApplicable(f"torch.compile must be able to run the model, but: {first_line(error)}") from error
    finally:
        torch.compiler.reset()
    if not operations:
        raise NotApplicable("torch.compile captures no operation of this model")
