"""A batch split over the threads of a CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from autocompress import Method, NotApplicable, NotForTarget, Plan, Target, Task, Technique, Trait
from autocompress.effect import output_error, outputs
from autocompress.errors import first_line
from autocompress.tensors import call, concatenate, first_tensor, map_tensors
from autocompress_acceleration.wrapper import Wrapper


class ParallelBatches(Method):
    """Each thread of the target runs the whole model on its part of the batch.

    PyTorch splits each operation over the threads and waits at its end; many small operations are faster when only the
    batch is split. Of no use for batches of 1 or one thread. Krizhevsky 2014, "One Weird Trick for Parallelizing
    Convolutional Neural Networks" (data parallelism).
    """

    name = "parallel_batches"
    technique = Technique.ACCELERATION
    gives = frozenset({Trait.WRAPPED})
    refuses = frozenset({Trait.PACKED})  # which is found by its name
    max_output_error = 1e-3

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable unless there are threads and a batch to split, and parts give what the whole does."""
        if target.is_cuda or target.batch_size < 2 or target.threads < 2:
            raise NotForTarget(
                f"{self.name} splits a batch over the threads of a CPU (`cpu@8x2`), but the target is {target}"
            )
        inputs, model = task.inputs(4), task.trained_model()
        try:
            error = output_error(outputs(Parallel(model, 2), inputs), outputs(model, inputs))
        except Exception as failure:  # the user's forward
            raise NotApplicable(f"the model must run on parts of a batch, but: {first_line(failure)}") from failure
        if error > self.max_output_error:
            raise NotApplicable(f"outputs for parts of a batch must be those for the whole, but differ by {error:.2g}")

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        return Parallel(model, target.threads)


class Parallel(Wrapper):
    """Runs a model on parts of a batch at once, each on one thread."""

    def __init__(self, model: nn.Module, threads: int) -> None:
        super().__init__(model)
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def run(self, inputs: Any) -> Any:
        size = len(first_tensor(inputs))
        step = -(-size // self.threads)
        parts = [map_tensors(_part(start, step), inputs) for start in range(0, size, step)]
        inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

        def run_part(part: Any) -> Any:
            with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
                return call(self.model, part)

        before = torch.get_num_threads()
        torch.set_num_threads(1)  # threads take their number from here when they first compute
        try:
            self._pool = self._pool or ThreadPoolExecutor(self.threads)
            return concatenate(list(self._pool.map(run_part, parts)))
        finally:
            torch.set_num_threads(before)


def _part(start: int, step: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor[start : start + step]
