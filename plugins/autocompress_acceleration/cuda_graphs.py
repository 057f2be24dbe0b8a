"""CUDA graphs: all kernels of a model launched at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autocompress import Method, NotApplicable, NotForTarget, Plan, Target, Task, Technique, Trait
from autocompress.errors import first_line
from autocompress.tensors import call, map_tensors, to_device
from autocompress_acceleration.wrapper import Wrapper, all_tensors

WARM_UP, SHAPES = 3, 8


class CudaGraphs(Method):
    """Records the kernels of a forward pass once for each shape of inputs and then launches them together.

    For small batches on a GPU, where launching kernels one by one takes longer than running them. Memory of all
    activations is kept for each shape. Nguyen et al. 2021, "Accelerating PyTorch with CUDA Graphs".
    """

    name = "cuda_graphs"
    technique = Technique.ACCELERATION
    gives = frozenset({Trait.WRAPPED})
    refuses = frozenset({Trait.PACKED})  # which is found by its name
    max_output_error = 1e-3

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable unless the target is a GPU and the model's kernels can be recorded."""
        if not target.is_cuda:
            raise NotForTarget(f"{self.name} needs a CUDA target like 'cuda:0@1', but the target is {target}")
        model = GraphedModel(task.trained_model().to(target.torch_device))
        try:
            with torch.no_grad():
                call(model, to_device(task.inputs(2), target.torch_device))
        except Exception as error:  # the user's forward, or CUDA
            raise NotApplicable(f"CUDA must be able to record the model, but: {first_line(error)}") from error

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        return GraphedModel(model)


class GraphedModel(Wrapper):
    """A model with a graph for each of the first `SHAPES` shapes of inputs; others run kernel by kernel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    def run(self, inputs: Any) -> Any:
        tensors = all_tensors(inputs)
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if key not in self._graphs:
            if len(self._graphs) == SHAPES or torch.is_grad_enabled():
                return call(self.model, inputs)
            self._graphs[key] = self._record(inputs)
        graph, places, outputs = self._graphs[key]
        for place, tensor in zip(places, tensors, strict=True):
            place.copy_(tensor)
        graph.replay()
        return map_tensors(torch.clone, outputs)  # the next replay writes over them

    def _record(self, inputs: Any) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any]:
        places = map_tensors(torch.clone, inputs)
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are chosen and memory is taken before the recording
            for _ in range(WARM_UP):
                call(self.model, places)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = call(self.model, places)
        return graph, all_tensors(places), outputs
