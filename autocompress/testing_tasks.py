"""Tiny real tasks: models of a few kilobytes, trained in under a second on data that can be learned."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from autocompress.task import Task

CLASSES = 4


@functools.cache
def images() -> Task:
    """A convolutional net with batch norm; images (3, 8, 8), whose class is the quarter that is brighter."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24 * 2 * 2, CLASSES),
        )  # fmt: skip

    def sample(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        targets = torch.randint(CLASSES, (samples,), generator=generator)
        quarter = functional.one_hot(targets, CLASSES).float().view(samples, 1, 2, 2)
        bright = functional.interpolate(quarter, scale_factor=4.0)  # (samples, 1, 8, 8)
        return bright + torch.randn(samples, 3, 8, 8, generator=generator), targets

    return _task("images", build, sample)


@functools.cache
def features() -> Task:
    """A multilayer perceptron; features (16,), whose class is the largest of the first four."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def sample(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(samples, 16, generator=generator)
        return inputs, inputs[:, :CLASSES].argmax(dim=1)

    return _task("features", build, sample)


TASKS: dict[str, Callable[[], Task]] = {"images": images, "features": features}
"""Task by name; each is trained once a process."""

Sample = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


def _task(name: str, build: Callable[[], nn.Module], sample: Sample) -> Task:
    def data(samples: int, seed: int) -> TensorDataset:
        return TensorDataset(*sample(samples, torch.Generator().manual_seed(seed)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained = _train(build(), *data(256, 1).tensors)
    return Task(
        name=name, model=lambda: copy.deepcopy(trained), train=data(256, 1), validation=data(128, 2), test=data(128, 3)
    )


def _train(model: nn.Module, inputs: Tensor, targets: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()
