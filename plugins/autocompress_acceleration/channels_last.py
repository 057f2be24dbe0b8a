"""Convolutions with their channels stored last."""

from __future__ import annotations

import torch
from torch import nn

from autocompress import Method, NotApplicable, Plan, Target, Task, Technique


class ChannelsLast(Method):
    """Stores the weights of 2-d convolutions with channels last, and so makes activations be computed that way.

    The same bytes and outputs; faster where the device's kernels want that order (many CPUs, tensor cores), slower
    where few channels leave them nothing to do at once. The search finds out.
    PyTorch developers 2020, "Channels Last Memory Format in PyTorch".
    """

    name = "channels_last"
    technique = Technique.ACCELERATION
    max_output_error = 1e-3

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable unless the model has 2-d convolutions."""
        if not any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in task.trained_model().modules()):
            raise NotApplicable(f"{self.name} is for 2-d convolutions, but this model has none")

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        return model.to(memory_format=torch.channels_last)
