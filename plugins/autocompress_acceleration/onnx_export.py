"""A model as an ONNX graph."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from autocompress import NotApplicable, Target, Task
from autocompress.errors import first_line
from autocompress.tensors import call
from autocompress_acceleration.export import TRIED, Interface, Traceable, plain_attention, quiet
from autocompress_acceleration.onnx_model import OnnxModel

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 20
"""Of the older exporter: its newest."""


def to_onnx(model: nn.Module, task: Task) -> tuple[Any, Interface]:
    """The `onnx.ModelProto`, its inputs named `input_0`, ..., its outputs `output_0`, ..., and how it is called.

    Raises NotApplicable with the exporter's reason.
    """
    traceable = Traceable.of(model.cpu(), task)
    try:
        graph = _dynamo(traceable)
    except NotApplicable:
        # Packed sequences have a size that depends on the data's values: only the older exporter knows them.
        if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
            raise
        graph = _torch_script(traceable)
    return _slim(graph), traceable.interface


def trained_onnx(task: Task) -> tuple[Any, Interface]:
    """The trained model's graph; ask for it through `TRIED`, to export each model once."""
    return to_onnx(task.trained_model(), task)


def check_onnx(task: Task, target: Target) -> Any:
    """The trained model's graph. Raises NotApplicable unless ONNX Runtime can run it there on batches of any size."""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise NotApplicable(f"ONNX Runtime needs {', '.join(missing)}: pip install autocompress[onnx]")
    if target.is_cuda:
        _check_cuda()
    TRIED.get(_check_batches, task)
    return TRIED.get(trained_onnx, task)[0]


def _check_cuda() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise NotApplicable("this ONNX Runtime runs on CPUs only: pip install onnxruntime-gpu for a CUDA target")


def _check_batches(task: Task) -> None:
    graph, interface = TRIED.get(trained_onnx, task)
    try:
        model = OnnxModel(graph.SerializeToString(), interface, Target("cpu"))
        for samples in (1, 3):
            call(model, task.inputs(samples))
    except Exception as error:  # ONNX Runtime
        raise NotApplicable(f"ONNX Runtime must run the exported model, but: {first_line(error)}") from error


def _dynamo(traceable: Traceable) -> Any:
    program = traceable.export()
    with _exporter(), contextlib.redirect_stdout(io.StringIO()):
        exported = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False, **_names(traceable))
        assert exported is not None
        return exported.model_proto


def _torch_script(traceable: Traceable) -> Any:
    import onnx

    names = _names(traceable)
    sizes = {
        name: {dim: f"{name}_{dim}" for dim in dims}
        for name, dims in zip(names["input_names"], traceable.dynamic, strict=True)
    }
    with tempfile.TemporaryDirectory() as folder, _exporter(), _silent(), _explicit_states(traceable.flat):
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            traceable.flat, traceable.examples, path, dynamo=False, dynamic_axes=sizes, opset_version=OPSET, **names
        )
        return onnx.load(path)


def _names(traceable: Traceable) -> dict[str, Any]:
    inputs = [f"input_{index}" for index in range(len(traceable.examples))]
    return {"input_names": inputs, "output_names": [f"output_{index}" for index in range(traceable.outputs)]}


@contextlib.contextmanager
def _exporter() -> Iterator[None]:
    try:
        with quiet(), plain_attention(), torch.no_grad():
            yield
    except Exception as error:  # torch.onnx
        raise NotApplicable(f"torch.onnx must be able to export the model, but: {first_line(error)}") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The older exporter prints graphs, and its C++ part warns past Python's streams."""
    sys.stderr.flush()
    kept = os.dup(2)
    with contextlib.redirect_stdout(io.StringIO()), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def _explicit_states(model: nn.Module) -> Iterator[None]:
    """Recurrent layers get the zeros that packed sequences start from.

    When they make them on their own, from the packed batch sizes, the exporter fails where only a last state is used.
    """
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    hooks = [module.register_forward_pre_hook(_start_from_zeros, with_kwargs=True) for module in recurrent]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _start_from_zeros(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) != 1 or kwargs or not isinstance(args[0], PackedSequence) or args[0].sorted_indices is None:
        return None
    assert isinstance(module, nn.RNNBase)
    layers = module.num_layers * (1 + module.bidirectional)
    batch = args[0].sorted_indices.shape[0]
    zeros = args[0].data.new_zeros(layers, batch, module.hidden_size)
    if not isinstance(module, nn.LSTM):
        return (args[0], zeros), {}
    outputs = args[0].data.new_zeros(layers, batch, module.proj_size or module.hidden_size)
    return (args[0], (outputs, zeros)), {}


def _slim(graph: Any) -> Any:
    """Without the exporter's notes on where each node came from, which can outweigh the weights."""
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.input, *graph.graph.output):
        del part.metadata_props[:]
    for node in graph.graph.node:
        node.doc_string = ""
    for tensor in graph.graph.initializer:
        del tensor.metadata_props[:]
    del graph.graph.value_info[:]
    return graph
