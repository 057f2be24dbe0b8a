"""Structured pruning by the measured change of the loss."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autocompress import Integer, Parameter, Task
from autocompress.tensors import call
from autocompress_pruning.belonging import left_out
from autocompress_pruning.scores import group_scores, labelled, magnitude
from autocompress_pruning.structured import StructuredPruning
from autocompress_pruning.trace import Group

_BATCH = 64


class StructuredErrorChange(StructuredPruning):
    """Removes the channels without which the loss changes least, measured by leaving them out.

    The truth that `structured_taylor` and `structured_hessian` estimate, for one channel at a time, at the price of a
    forward pass each; a channel without which the loss falls goes first. Where there are more channels than
    `evaluations`, or than `seconds` allow, those of like size are left out together. Good for small models and few
    channels; slow for large ones, where the estimates do as well. The loss is that on calibration data, or
    else training data: were it on validation data, channels would be chosen by the very score that trials are compared
    by, and that score would flatter this method.
    Mozer and Smolensky 1989, "Skeletonization"; ablation as Morcos et al. 2018, "On the Importance of Single
    Directions for Generalization".
    """

    name = "structured_error_change"

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`samples`: of the calibration data, that each loss is measured on; `evaluations`: losses measured a round.

        `seconds`: about how long a round may take; what does not fit is made to by measuring more channels together.
        """
        return {
            **super().search_space(task),
            "samples": Integer(16, 1024, default=64, log=True),
            "evaluations": Integer(32, 4096, default=256, log=True),
            "seconds": Integer(1, 3600, default=60, log=True),
        }

    def scores(
        self, model: nn.Module, groups: Sequence[Group], params: Mapping[str, Any], task: Task
    ) -> Mapping[str, Tensor]:
        probe = copy.deepcopy(model).eval()
        data = list(labelled(task, params["samples"], _BATCH))

        @torch.no_grad()
        def loss() -> float:
            return sum(float(task.loss(call(probe, inputs), targets)) for inputs, targets in data) / len(data)

        loss()  # the first call is slower than the others
        started = time.perf_counter()
        unpruned = loss()
        affordable = int(params["seconds"] / (time.perf_counter() - started))
        sizes = group_scores(probe, groups, magnitude(2))
        bundles = _bundles(groups, sizes, max(1, min(params["evaluations"], affordable)))
        return {group.root: _changes(probe, group, bundles[group.root], loss, unpruned) for group in groups}


def _bundles(groups: Sequence[Group], sizes: Mapping[str, Tensor], evaluations: int) -> dict[str, list[list[int]]]:
    """Channels that are left out together, by group: alone where that takes no more than `evaluations`."""
    together = -(-sum(group.size // group.blocks for group in groups) // evaluations)
    bundles = {}
    for group in groups:
        places = group.size // group.blocks
        order = torch.argsort(sizes[group.root].view(group.blocks, places).mean(dim=0), stable=True).tolist()
        bundles[group.root] = [
            [block * places + place for block in range(group.blocks) for place in order[first : first + together]]
            for first in range(0, places, together)
        ]
    return bundles


def _changes(
    model: nn.Module, group: Group, bundles: Sequence[list[int]], loss: Callable[[], float], unpruned: float
) -> Tensor:
    """How much the loss rises without each channel (channels,); what is left out together shares the change."""
    changes = torch.zeros(group.size)
    for channels in bundles:
        with left_out(model, group, channels):
            changes[channels] = (loss() - unpruned) / len(channels)
    return changes
