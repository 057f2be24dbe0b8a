"""The contract of a compression method. This file is the manual of whoever writes one.

A trial carries out a recipe in four moments, and a method may take part in any of the first three:

    reshape           train               finalize              score
    structure    ->   recover        ->   what ships       ->   accuracy, bytes on disk, latency
    (prune,           (task loss or       (quantize, compile,
    factorize)        a distillation      export)
                      loss)

A method decides first and acts second. `decide` looks at model and data and writes a plan, which is plain JSON;
`reshape`, `finalize` and `restore` carry the plan out. So a compressed model is rebuilt anywhere without pickle:
the plans are replayed on the user's own model, and then the tensors are loaded. Two things need more than that: tensors
that are stored in fewer bits than they run with (`pack`, `unpack`), and a model that another runtime runs (`Runtime`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from autocompress.errors import AutocompressError
from autocompress.parameters import Parameter

if TYPE_CHECKING:
    from autocompress.measure.device import Target
    from autocompress.task import Task

Plan = dict[str, Any]
"""What a method decided, as JSON: which channels, ranks, bits. It must not hold weights."""

Schedule = Callable[[float], None]
"""Hears before each training step which share of the training is done, and 1.0 after the last one."""

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


class Trait(StrEnum):
    """What a step leaves on a model that a later step may be unable to work with; the values are said in errors."""

    PRUNED = "removed channels"
    MERGED = "rows that share one"
    SPARSE = "zeros that must stay"
    PATTERN = "a pattern of zeros that ends where channels move"
    FACTORIZED = "layers split in two"
    QUANTIZED = "weights that are no floating-point parameters any more"
    PACKED = "weights stored in fewer bits than they run with"
    HALF = "half precision"
    FOLDED = "weights that change after the training"
    WRAPPED = "the model inside another module"
    FOREIGN = "another runtime"


class NotApplicable(AutocompressError):
    """Raised by `Method.check`: the method can do nothing for this task, and why, in words."""


class NotForTarget(NotApplicable):
    """The same, where the reason is the target and not the task: on another device or batch it could do something."""


class NoEffect(AutocompressError):
    """A step changed nothing that ships; the trial ends as `failed:no_effect`."""


class OutputsDiffer(AutocompressError):
    """What ships does not compute what the model computed before it was finalized; `failed:outputs_differ`."""


class Loss(nn.Module):
    """What the recovery training minimizes while a distillation step is in the recipe.

    Its submodules (a teacher) follow the model to its device. They are kept in eval mode and are not trained.
    """

    rows: Tensor | None = None
    """Set before each batch: where its samples stand in the training data (B,), so that answers can be kept."""

    def attach(self, model: nn.Module) -> None:
        """Called once, before the training, with the model that is trained: the place for hooks on its layers.

        Here, and in `forward`, a loss may run models on the device: no latency is measured there meanwhile.
        """

    def detach(self) -> None:
        """Called once, after the training: takes the hooks away."""

    def forward(self, inputs: Any, outputs: Any, targets: Any) -> Tensor:
        """A scalar, from one batch: the model's inputs (B, ...), its outputs and the targets."""
        raise NotImplementedError


class Runtime(nn.Module):
    """A model that something else than eager PyTorch runs, kept in files of its own. What a `finalize` may return."""

    def save(self, folder: Path) -> list[str]:
        """Writes its files into the folder and returns their names: all that `Method.load` needs, and no pickle."""
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
    may_precede: ClassVar[frozenset[Technique]] = frozenset()
    """Earlier techniques whose steps it may come before all the same."""
    gives: ClassVar[frozenset[Trait]] = frozenset()
    """What it leaves on a model."""
    refuses: ClassVar[frozenset[Trait]] = frozenset()
    """What it cannot work with. Whoever finalizes or packs refuses `Trait.FOREIGN`, and whoever gives
    `Trait.PRUNED` refuses `Trait.PATTERN`, without saying so."""
    max_output_error: ClassVar[float] = 0.5
    """How much `finalize` may change the outputs: the RMS of the difference by the RMS of the outputs; more fails."""
    reload_error: ClassVar[float] = 0.0
    """The same for a model that was saved and loaded: 0 is bit for bit, on the same machine."""
    native_code: ClassVar[bool] = False
    """Whether its files hold machine code, which is loaded only when the user says that it may."""
    needs_calibration: ClassVar[bool] = False
    """Whether it looks at inputs in any case, so that it cannot act for a task without calibration or training data."""

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """Its own parameters, with ranges and defaults. Called once, before the first trial."""
        return {}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable with the reason if it can do nothing for this task there. Called before any trial."""

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """What to do with this model, as JSON. Called once a trial, before `reshape`; must not change the model."""
        return dict(params)

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        """Layers of the kind it works on that it leaves as they are, with the reason: for the trial's log."""
        return {}

    def student(self, plan: Plan, task: Task) -> nn.Module | None:
        """A model to go on with in place of the trained one. What is made of it is loaded on the student's factory."""
        return None

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Changes the structure before training. Exact, without data; called again when an artifact is loaded."""
        return model

    def loss(self, plan: Plan, task: Task) -> Loss | None:
        """The training loss, if the method brings one. It takes the place of the task's own loss."""
        return None

    def schedule(self, model: nn.Module, plan: Plan) -> Schedule | None:
        """What happens to the model from step to step of the training (a mask that grows), if anything does.

        Called once before the training, with the model on its device. What it gives may change parameters in place;
        the gradients of the step before are still there. It is called in no recipe without training.
        """
        return None

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        """Makes what ships, after training, for the target's device: quantized, compiled, exported."""
        return model

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        """The structure that `finalize` leaves, without data: same tensors' names, shapes and types, any values.

        Called when an artifact is loaded; the stored tensors are loaded afterwards.
        """
        return model

    def pack(self, tensors: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        """The model's tensors as they are stored, where that takes fewer bytes than how they run. Exact."""
        return tensors

    def unpack(self, stored: dict[str, Tensor], like: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        """The way back: `like` has the names, shapes and types of the tensors to give; their values mean nothing."""
        return stored

    def load(self, folder: Path, plan: Plan, target: Target) -> Runtime:
        """The model whose `Runtime.save` wrote into the folder. Only for methods that give a Runtime."""
        raise NotImplementedError

    @property
    def needs_training(self) -> bool:
        """Whether it takes part before or while training, so that the recipe needs a recovery."""
        return self.overrides("reshape", "loss", "schedule", "student")

    def overrides(self, *functions: str) -> bool:
        """Whether it has its own version of any of these parts of the contract."""
        return any(getattr(type(self), name) is not getattr(Method, name) for name in functions)

    def conflict(self, earlier: Method) -> Trait | None:
        """What the earlier step leaves that this one cannot work with."""
        refused = set(self.refuses)
        if self.overrides("finalize", "pack"):
            refused.add(Trait.FOREIGN)
        if Trait.PRUNED in self.gives:
            refused.add(Trait.PATTERN)
        return next((trait for trait in Trait if trait in earlier.gives & refused), None)
