"""The contract of a compression method. This file is the manual of whoever writes one.

A trial carries out a recipe in four moments, and a method may take part in any of the first three:

    reshape           train               finalize              score
    structure    ->   recover        ->   what ships       ->   accuracy, bytes on disk, latency
    (prune,           (task loss or       (quantize, pack,
    factorize)        a distillation      compile)
                      loss)

A method decides first and acts second. `decide` looks at model and data and writes a plan, which is plain JSON;
`reshape`, `finalize` and `restore` carry the plan out. So a compressed model is rebuilt anywhere without pickle:
the plans are replayed on the user's own model, and then the tensors are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from autocompress.errors import AutocompressError
from autocompress.parameters import Parameter

if TYPE_CHECKING:
    from autocompress.measure.device import Target
    from autocompress.task import Task

Plan = dict[str, Any]
"""What a method decided, as JSON: which channels, ranks, bits. It must not hold weights."""

API_VERSION = 1
"""The version of this contract. A plugin module may say which it was written for: `autocompress_api = 1`."""


class Technique(StrEnum):
    """The families of methods, in the order in which a recipe's steps run. This is the only place of that order."""

    PRUNING = "pruning"
    FACTORIZATION = "factorization"
    DISTILLATION = "distillation"
    QUANTIZATION = "quantization"
    ACCELERATION = "acceleration"

    @property
    def position(self) -> int:
        return list(Technique).index(self)


class NotApplicable(AutocompressError):
    """Raised by `Method.check`: the method can do nothing for this task, and why, in words."""


class NoEffect(AutocompressError):
    """A step changed nothing that ships; the trial ends as `failed:no_effect`."""


class Loss(nn.Module):
    """What the recovery training minimizes while a distillation step is in the recipe.

    Its submodules (a teacher) follow the model to its device. They are kept in eval mode and are not trained.
    """

    def forward(self, inputs: Any, outputs: Any, targets: Any) -> Tensor:
        """A scalar, from one batch: the model's inputs (B, ...), its outputs and the targets."""
        raise NotImplementedError


class Method:
    """One compression method. Subclasses set `name` and `technique` and override what they take part in.

    A method never changes a model that it was not handed to change: `decide` must leave its model as it was,
    `reshape`, `finalize` and `restore` own theirs and return it, changed or replaced.
    One instance serves all trials of a process and keeps no state between calls.
    """

    name: ClassVar[str]
    """Unique among all installed methods: lower case, digits and underscores."""
    technique: ClassVar[Technique]

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """Its own parameters, with ranges and defaults. Called once, before the first trial."""
        return {}

    def check(self, task: Task) -> None:
        """Raises NotApplicable with the reason if it can do nothing for this task. Called before any trial."""

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """What to do with this model, as JSON. Called once a trial, before `reshape`; must not change the model."""
        return dict(params)

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Changes the structure before training. Exact, without data; called again when an artifact is loaded."""
        return model

    def loss(self, plan: Plan, task: Task) -> Loss | None:
        """The training loss, if the method brings one. It takes the place of the task's own loss."""
        return None

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        """Makes what ships, after training, for the target's device: packed, quantized, compiled."""
        return model

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        """The structure that `finalize` leaves, without data: same tensors' names, shapes and types, any values.

        Called when an artifact is loaded; the stored tensors are loaded afterwards.
        """
        return model

    @property
    def needs_training(self) -> bool:
        """Whether it takes part before or while training, so that the recipe needs a recovery."""
        return type(self).reshape is not Method.reshape or type(self).loss is not Method.loss
