"""Tiny real tasks: models of a few kilobytes, trained in under a second on data that can be learned."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.data import Samples, batches
from autocompress.metric import ACCURACY, Metric
from autocompress.task import Task
from autocompress.tensors import call, first_tensor, map_tensors

CLASSES = 4


@functools.cache
def images() -> Task:
    """A convolutional net with batch norm; images (3, 8, 8), whose class is the quarter that is brighter."""

    def build(width: int = 8) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, 3 * width, 3, padding=1, bias=False), nn.BatchNorm2d(3 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(3 * width * 2 * 2, CLASSES),
        )  # fmt: skip

    return replace(train_task("images", build, bright_quarters), students={"half": lambda: build(4)})


@functools.cache
def features() -> Task:
    """A multilayer perceptron; features (16,), whose class is the largest of the first four."""

    def build(width: int = 32) -> nn.Module:
        layers = [nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)]
        return nn.Sequential(*layers)

    def sample(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(samples, 16, generator=generator)
        return inputs, inputs[:, :CLASSES].argmax(dim=1)

    return replace(train_task("features", build, sample), students={"half": lambda: build(16)})


TASKS: dict[str, Callable[[], Task]] = {"images": images, "features": features}
"""Task by name; each is trained once a process."""

Sample = Callable[[int, torch.Generator], tuple[Any, Any]]
"""Draws that many inputs and targets, nested as the model takes and the loss wants them."""


def train_task(
    name: str,
    build: Callable[[], nn.Module],
    sample: Sample,
    loss: Callable[[Any, Any], Tensor] = functional.cross_entropy,
    *metrics: Metric,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Task:
    """A task of 256 training, 128 validation and 128 test samples, with a model that was trained on them for a second.

    It is judged by `metrics`, or by accuracy.
    """

    def data(samples: int, seed: int) -> Samples:
        return _Nested(*sample(samples, torch.Generator().manual_seed(seed)))

    train = data(256, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained = _train(build(), train, loss, collate)
    return Task(
        name=name,
        model=lambda: copy.deepcopy(trained),
        train=train,
        validation=data(128, 2),
        test=data(128, 3),
        loss=loss,
        metrics=metrics or (ACCURACY,),
        collate=collate,
    )


def bright_quarters(samples: int, generator: torch.Generator, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    """Images (samples, 3, 8, 8) and the quarter of each that is brighter (samples,)."""
    targets = torch.randint(CLASSES, (samples,), generator=generator)
    quarter = functional.one_hot(targets, CLASSES).float().view(samples, 1, 2, 2)
    bright = functional.interpolate(quarter, scale_factor=4.0)  # (samples, 1, 8, 8)
    return bright + noise * torch.randn(samples, 3, 8, 8, generator=generator), targets


class _Nested:
    """A data set of nested tensors, samples along the first dimension of each."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self._data = inputs, targets
        self._length = len(first_tensor(inputs))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return map_tensors(lambda tensor: tensor[index], self._data)


def _train(model: nn.Module, data: Samples, loss: Callable[[Any, Any], Tensor], collate: Any) -> nn.Module:
    loader = list(batches(data, 64, shuffle=True, collate=collate))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for inputs, targets in loader * 20:
        optimizer.zero_grad()
        loss(call(model, inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()
