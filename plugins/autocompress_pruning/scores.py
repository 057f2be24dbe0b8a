"""Scores of channels that are sums over the weights that go with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from autocompress import Task
from autocompress.data import batches
from autocompress.tensors import call
from autocompress_pruning.dependency import slices
from autocompress_pruning.trace import Group

Importance = Callable[[nn.Module, nn.Parameter], Tensor | None]
"""Of a layer's parameter, how much each element matters (same shape); None where it has no say."""


@torch.no_grad()
def group_scores(model: nn.Module, groups: Sequence[Group], importance: Importance) -> dict[str, Tensor]:
    """Of each group the scores of its channels (channels,), by its root: their importance in each layer that has them,
    summed over the layer's weights, averaged over the layers, relative to the group's mean.

    As in Torch-Pruning's `GroupMagnitudeImportance`, of every layer with a weight. A group in which the importance has
    no say has no scores.
    """
    found = {}
    for group in groups:
        parts = list(_parts(model, group, importance))
        if parts:
            score = torch.stack(parts).mean(dim=0)
            found[group.root] = score / score.mean().clamp_min(1e-12)
    return found


def _parts(model: nn.Module, group: Group, importance: Importance) -> Iterator[Tensor]:
    """What each layer says of the group's channels (channels,)."""
    for member in group.members:
        if member.dimension is not None:
            continue
        module = model.get_submodule(member.name)
        for part in slices(module, member.into, member.indices):
            weights = None if part.is_bias else importance(module, part.parameter)
            if weights is not None:
                rest = [dimension for dimension in range(weights.dim()) if dimension != part.dimension]
                channels = weights.sum(dim=rest) if rest else weights  # (channels of the layer,)
                roots = torch.tensor(member.roots)
                yield torch.zeros(group.size).index_add_(0, roots, channels[part.indices].float())


def magnitude(norm: int) -> Importance:
    """|w|^norm."""
    return lambda module, parameter: parameter.detach().abs().pow(norm)


def labelled(task: Task, samples: int, batch_size: int) -> Iterator[tuple[Any, Any]]:
    """Batches of inputs and targets of the calibration data, or else the training data, drawn with a fixed seed."""
    data = task.train if task.calibration is None else task.calibration
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:samples].tolist()
    chosen: Any = Subset(data, rows)  # type: ignore[arg-type]
    yield from batches(chosen, batch_size, collate=task.collate)


def from_gradients(
    model: nn.Module,
    task: Task,
    samples: int,
    batch_size: int,
    importance: Callable[[Tensor, Tensor], Tensor],
) -> Importance:
    """The mean over batches of `importance(weight, gradient of the loss)`, on samples of the calibration data."""
    probe = copy.deepcopy(model).eval().requires_grad_(True)
    sums = {name: torch.zeros_like(parameter) for name, parameter in probe.named_parameters()}
    count = 0
    for inputs, targets in labelled(task, samples, batch_size):
        with torch.enable_grad():
            probe.zero_grad()
            task.loss(call(probe, inputs), targets).backward()  # type: ignore[no-untyped-call]
        for name, parameter in probe.named_parameters():
            if parameter.grad is not None:
                sums[name] += importance(parameter.detach(), parameter.grad)
        count += 1
    by_parameter = {id(parameter): sums[name] / count for name, parameter in model.named_parameters()}
    return lambda module, parameter: by_parameter[id(parameter)]
