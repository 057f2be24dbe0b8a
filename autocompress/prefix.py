"""The prefix of a recipe: all that its training depends on, and what is left of a training that others can share."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from autocompress.checkpoint import Checkpoint
from autocompress.method import Plan
from autocompress.plugins import Registry
from autocompress.recipe import Recipe


@dataclass(frozen=True)
class Trained:
    """What a training left: enough to go on as if it had been done here."""

    plans: Mapping[str, Plan]
    """What the prefix's steps decided, by method."""
    tensors: Mapping[str, Tensor]
    """The trained model's, as `leaves` names them, on the CPU."""
    seconds: float
    """What the training took."""
    halted: Mapping[str, Any] = field(default_factory=dict)
    """Of a training that is not finished, where it stands; then the tensors are those of its checkpoint."""

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Where to go on; None when it is finished."""
        return Checkpoint(self.tensors, self.halted) if self.halted else None


class Prefixes(Protocol):
    """Where trained prefixes are kept."""

    def claim(self, prefix: Recipe) -> AbstractContextManager[Trained | None]:
        """What is kept of a prefix; unless it is finished, nobody else trains it until the context ends."""
        ...

    def keep(self, prefix: Recipe, trained: Trained) -> None:
        """Called within the claim of a prefix that was not finished, after its training, or where that is halted."""
        ...


def prefix_of(recipe: Recipe, registry: Registry) -> Recipe:
    """The recipe without the steps that act only after the training, since no trained weight depends on those.

    A step is part of the prefix when its method has a say in structure, loss, schedule or student
    (`Method.needs_training`): fake quantization is, int8 weights are not.
    """
    steps = tuple(step for step in recipe.steps if registry.get(step.method).needs_training)
    return Recipe(steps=steps, recovery=recipe.recovery)
