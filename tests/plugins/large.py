"""A model that is large enough for its file to be mostly weights."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from autocompress import Task
from autocompress.testing_tasks import CLASSES, train_task


@functools.cache
def large() -> Task:
    """A trained perceptron, most of whose weights are in two large layers."""
    return train_task("large", _perceptron, largest_of_four)


def _perceptron() -> nn.Module:
    layers = [nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, CLASSES))


def largest_of_four(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features (samples, 16), of whose first four the largest is the class (samples,)."""
    x = torch.randn(samples, 16, generator=generator)
    return x, x[:, :CLASSES].argmax(dim=1)
