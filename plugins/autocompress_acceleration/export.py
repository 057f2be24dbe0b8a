"""A model as a graph that another runtime can take over: `torch.export` with the dimensions that the data varies."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from autocompress import NotApplicable, Task
from autocompress.data import batches
from autocompress.errors import first_line
from autocompress.tensors import call, to_device
from autocompress_acceleration.nesting import Nesting, assemble, describe, flatten

EXAMPLES = 4
"""Samples in the batch that is traced: a size of 1 would be taken for a constant."""
INTERFACE_FILE = "interface.json"
BATCHES = 16
"""Batches of the validation data whose shapes tell which dimensions vary."""

Made = TypeVar("Made")


class FlatModel(nn.Module):
    """A model that takes and gives its tensors one by one."""

    def __init__(self, model: nn.Module, inputs: Nesting) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = call(self.model, self.nested(tensors))
        return tuple(flatten(describe(outputs), outputs))

    def nested(self, tensors: tuple[Tensor, ...]) -> Any:
        """The tensors as the model takes them."""
        return assemble(self.inputs, iter(tensors))


@dataclass(frozen=True)
class Interface:
    """How a model is called and what it gives: kept beside the file of a runtime, which knows flat tensors only."""

    inputs: Nesting
    outputs: Nesting

    def flat(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """The tensors of a call, in order. Raises TypeError for a call unlike that of the data."""
        if args and kwargs:
            raise TypeError("inputs must be all positional or all by name")
        single = len(args) == 1 and "tuple" not in self.inputs
        return flatten(self.inputs, args[0] if single else kwargs or args)

    def nested(self, tensors: Iterable[Tensor]) -> Any:
        """What the model gives, of its output tensors in order."""
        return assemble(self.outputs, iter(tensors))

    def save(self, folder: Path) -> str:
        """Writes its file and returns the name."""
        (folder / INTERFACE_FILE).write_text(json.dumps(asdict(self), separators=(",", ":")), encoding="utf-8")
        return INTERFACE_FILE

    @classmethod
    def load(cls, folder: Path) -> Interface:
        return cls(**json.loads((folder / INTERFACE_FILE).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Traceable:
    """A model with what its export needs to know of the task's data."""

    flat: FlatModel
    interface: Interface
    examples: tuple[Tensor, ...]
    """One batch of `EXAMPLES` samples."""
    outputs: int
    """How many tensors it gives."""
    dynamic: tuple[frozenset[int], ...]
    """Of each input tensor, the dimensions that vary: the batch, and lengths that differ in the validation data."""

    @classmethod
    def of(cls, model: nn.Module, task: Task) -> Traceable:
        """Raises NotApplicable for inputs or outputs that are no tensors."""
        device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
        inputs = to_device(task.inputs(EXAMPLES), device)
        try:
            with torch.no_grad():
                outputs = call(model, inputs)
            interface = Interface(describe(inputs), describe(outputs))
            return cls(
                FlatModel(model, interface.inputs),
                interface,
                tuple(flatten(interface.inputs, inputs)),
                len(flatten(interface.outputs, outputs)),
                _dynamic(task, interface.inputs),
            )
        except TypeError as error:
            raise NotApplicable(
                f"{first_line(error)}; a Hugging Face model gives no cache with `use_cache=False`"
            ) from error

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """`dynamic` as torch.export takes it, for a graph of flat tensors."""
        return tuple(dict.fromkeys(dims, Dim.AUTO) for dims in self.dynamic)

    def export(self, strict: bool = False) -> ExportedProgram:
        """The graph. Raises NotApplicable with torch's reason, also when it would fix a dimension that varies."""
        shapes = (self.dynamic_shapes,)  # of `*tensors`
        try:
            with quiet(), plain_attention(), torch.no_grad():
                program = torch.export.export(self.flat, self.examples, dynamic_shapes=shapes, strict=strict)
        except Exception as error:  # the user's forward, or torch
            raise NotApplicable(f"torch.export must be able to trace the model, but: {first_line(error)}") from error
        self._check_dynamic(program)
        return program

    def _check_dynamic(self, program: ExportedProgram) -> None:
        names = program.graph_signature.user_inputs
        values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
        for name, dims in zip(names, self.dynamic, strict=True):
            for dim in sorted(dims):
                size = values[name].shape[dim]
                if is_concrete_int(size):
                    raise NotApplicable(
                        f"the exported model must take any size of dimension {dim} of input {name!r},"
                        f" but its code fixes it to {size}"
                    )


def _dynamic(task: Task, inputs: Nesting) -> tuple[frozenset[int], ...]:
    found: list[list[torch.Size]] = []
    for batch, _ in itertools.islice(batches(task.validation, EXAMPLES, collate=task.collate), BATCHES):
        found.append([tensor.shape for tensor in flatten(inputs, batch)])
    return tuple(
        frozenset(dim for dim, sizes in enumerate(zip(*shapes, strict=True)) if dim == 0 or len(set(sizes)) > 1)
        for shapes in zip(*found, strict=True)
    )


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Transformer layers as their separate operators, not as the fused one, which no other runtime knows."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Around exporters and compilers, which warn and log of their own inner deprecations: nothing a user could mend.

    What goes wrong in them is raised; what comes out of them is compared with the model.
    """
    root, handler, level = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)  # without one, `logging.warning` would set up a log for the whole process
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        root.removeHandler(handler)


class TaskCache:
    """What was made of a task's trained model, or why not: once a task object and process, for all methods that ask."""

    def __init__(self) -> None:
        self._made: dict[int, dict[Callable[[Task], Any], Any]] = {}

    def get(self, make: Callable[[Task], Made], task: Task) -> Made:
        """`make(task)`. Raises the NotApplicable that it raised the first time."""
        if id(task) not in self._made:
            self._made[id(task)] = {}
            weakref.finalize(task, self._made.pop, id(task), None)
        made = self._made[id(task)]
        if make not in made:
            try:
                made[make] = make(task)
            except NotApplicable as reason:
                made[make] = _Refusal(str(reason))  # the exception itself would keep the task alive
        if isinstance(made[make], _Refusal):
            raise NotApplicable(made[make].reason)
        result: Made = made[make]
        return result


@dataclass(frozen=True)
class _Refusal:
    reason: str


TRIED = TaskCache()
"""What checks tried on the trained models."""
