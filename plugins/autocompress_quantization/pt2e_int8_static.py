"""int8 compiled to machine code, with the ranges of activations taken from calibration data."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from autocompress_acceleration.aot_model import AotModel, compile_ahead
from autocompress_acceleration.compiler import check_compiler
from autocompress_acceleration.export import TRIED, Traceable, plain_attention, quiet
from autocompress_acceleration.nesting import flatten
from torch import nn
from torch.fx import GraphModule

from autocompress import Choice, Integer, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.method import NoEffect, NotForTarget
from autocompress_quantization.onnx_int8 import reduce_range

_QUANTIZED = (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default)
"""What the quantizer has int8 kernels for."""


class Pt2eInt8Static(Method):
    """Quantizes linear layers and 2-d convolutions to int8 and compiles the whole model with AOTInductor.

    Weights have a scale for each output channel, activations a fixed one that calibration data gives. Fast on x86 CPUs
    where ONNX Runtime is no choice; compiling takes many seconds, and the code over a megabyte. Attention's own
    products, recurrent layers and embeddings stay as they are.
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
    """

    name = "pt2e_int8_static"
    technique = Technique.QUANTIZATION
    needs_calibration = True
    gives = frozenset({Trait.FOREIGN})
    refuses = frozenset({Trait.QUANTIZED, Trait.PACKED, Trait.HALF})
    max_output_error = 0.3
    native_code = True

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`calibration`: whether an activation's range spans its extremes or what a histogram says loses least;
        `samples`: how many inputs it is taken from.
        """
        return {
            "calibration": Choice(("histogram", "minmax"), default="histogram"),
            "samples": Integer(32, 512, default=128, log=True),
        }

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable without a compiler, for a GPU, or if no layer that can be int8 is found in the graph."""
        if target.is_cuda:
            raise NotForTarget(f"{self.name} is for x86 CPUs: its int8 kernels are not for CUDA")
        check_compiler(self.name, target)
        TRIED.get(_check_quantizable, task)

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The samples, and the layers that no int8 kernel is for."""
        left = [
            name
            for name, module in model.named_modules()
            if name
            and not _is_quantized(module)
            and any(weight.ndim > 1 for weight in module.parameters(recurse=False))
        ]
        return {**params, "left": left}

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        reason = "the quantizer has int8 for called linear layers and 2-d convolutions only"
        return dict.fromkeys(plan["left"], reason)

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        """Raises NoEffect if the quantizer left all weights in floating point."""
        traceable = Traceable.of(model, task)
        with quiet(), plain_attention(), torch.no_grad():
            quantized = quantize(traceable, task, plan["samples"], plan["calibration"])
            count = sum(tensor.dtype == torch.int8 for tensor in quantized.state_dict().values())
            if not count:
                raise NoEffect(f"{self.name}: the quantizer left all weights in floating point")
            program = torch.export.export(
                quantized, traceable.examples, dynamic_shapes=traceable.dynamic_shapes, strict=False
            )
        print(f"{self.name}: {count} weights are int8")
        return compile_ahead(program, traceable.interface, target)

    def load(self, folder: Path, plan: Plan, target: Target) -> AotModel:
        return AotModel.load(folder)


def _is_quantized(module: nn.Module) -> bool:
    inside_attention = isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    return isinstance(module, nn.Linear | nn.Conv2d) and not inside_attention


def _check_quantizable(task: Task) -> None:
    # Only the strict way of tracing keeps layers as the quantizer looks for them.
    graph = Traceable.of(task.trained_model(), task).export(strict=True).graph
    if not any(node.target in _QUANTIZED for node in graph.nodes):
        raise NotApplicable("int8 kernels are for linear layers and 2-d convolutions, but this model has none")
    if any(node.target in _QUANTIZED and _reads_steps(node.args[0]) for node in graph.nodes):
        # torchao 0.18 compares a size that varies with the batch where it looks for such a layer, and raises.
        raise NotApplicable("torchao cannot compile a linear layer over all steps of an LSTM or GRU, as this model has")


def _reads_steps(node: Any) -> bool:
    """Whether a node is the output of a recurrent layer, each step's."""
    while node.target is operator.getitem or "transpose" in str(node.target):
        node = node.args[0]
    return str(node.target).startswith(("aten.lstm", "aten.gru"))


def quantize(traceable: Traceable, task: Task, samples: int, calibration: str) -> GraphModule:
    """The graph with int8 weights, activations rounded between the layers that use them."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer()
    config = get_default_x86_inductor_quantization_config(reduce_range=reduce_range())
    quantizer.set_global(_by_extremes(config) if calibration == "minmax" else config)
    prepared = prepare_pt2e(traceable.export(strict=True).module(), quantizer)
    for inputs in task.calibration_inputs(samples):
        prepared(*flatten(traceable.interface.inputs, inputs))
    return _without_unused(convert_pt2e(prepared))


def _by_extremes(config: Any) -> Any:
    """The same, with activations observed by their extremes in place of a histogram."""
    from torchao.quantization.pt2e.observer import MinMaxObserver

    observer = MinMaxObserver.with_args(eps=2**-12)  # as the default's
    ranges = ("input_activation", "output_activation")
    specs = {name: replace(getattr(config, name), observer_or_fake_quant_ctr=observer) for name in ranges}
    return replace(config, **specs)


def _without_unused(graph: GraphModule) -> GraphModule:
    """The graph without the floating-point weights that int8 ones took the place of, which would be compiled in."""
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in [name for name in graph.state_dict() if name not in used]:
        owner, _, attribute = name.rpartition(".")
        delattr(graph.get_submodule(owner), attribute)
    return graph
