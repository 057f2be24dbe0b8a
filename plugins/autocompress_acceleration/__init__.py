"""Acceleration: the same model, run faster."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_acceleration.aot_inductor import AotInductor
from autocompress_acceleration.batch_norm_folding import BatchNormFolding
from autocompress_acceleration.channels_last import ChannelsLast
from autocompress_acceleration.cuda_graphs import CudaGraphs
from autocompress_acceleration.onnx_runtime import OnnxRuntime
from autocompress_acceleration.parallel_batches import ParallelBatches
from autocompress_acceleration.torch_compile import TorchCompile

__all__ = [
    "AotInductor",
    "BatchNormFolding",
    "ChannelsLast",
    "CudaGraphs",
    "OnnxRuntime",
    "ParallelBatches",
    "TorchCompile",
]


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [
        BatchNormFolding(),
        ChannelsLast(),
        ParallelBatches(),
        CudaGraphs(),
        TorchCompile(),
        AotInductor(),
        OnnxRuntime(),
    ]
