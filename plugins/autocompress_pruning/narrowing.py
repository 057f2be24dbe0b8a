"""What the methods share that take columns out of the outputs of recurrent layers and embeddings.

The columns go from the layers that read them too, where these can be found; else they are put back as zeros.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypedDict

from torch import Tensor, nn

from autocompress import Float, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.effect import byte_count, output_error, outputs
from autocompress.errors import first_line
from autocompress_pruning.readers import cut, find_readers, replace, same_tensors, shared_parameters
from autocompress_pruning.replay import decode, encode
from autocompress_pruning.scattered import Scattered

TRIED_SAMPLES = 4
SAME = 1e-5
"""Outputs that differ by less, as a share of their RMS, differ by the order of float32 sums alone."""


CLEARLY = 4
"""How many times what a narrowing takes in the plan, which ships too, it must save."""


class Narrowing(TypedDict):
    """One layer made narrower."""

    layer: str
    kept: list[str]
    """Columns that stay, as ranges, for each part of the layer that has columns of its own."""
    readers: dict[str, str]
    """Layers that read the columns, and which of their inputs go. None: zeros stand where the columns were."""


class ColumnPruning(Method, ABC):
    """Takes the least important columns out of the outputs of one kind of layer."""

    technique = Technique.PRUNING
    gives = frozenset({Trait.PRUNED})
    kinds: ClassVar[tuple[type[nn.Module], ...]]
    alike: ClassVar[tuple[type[nn.Module], ...]]
    """Kinds that one might expect it to handle, and it does not."""
    columns: ClassVar[str]
    """What it removes of which layers, for errors."""

    @abstractmethod
    def rank(self, layer: Any) -> list[Tensor]:
        """The importance of each column (columns,), for each part of the layer that has columns of its own."""

    @abstractmethod
    def shrink(self, layer: Any, kept: Sequence[Sequence[int]]) -> nn.Module:
        """A copy of the layer with these columns only."""

    @abstractmethod
    def scatter(self, narrow: Any, layer: Any, kept: Sequence[Sequence[int]]) -> Scattered:
        """The narrow layer with zeros where it had columns before."""

    def unsuitable(self, layer: Any) -> str:
        """Why a layer of its kind cannot lose columns; empty if it can."""
        return ""

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`ratio`: share of each layer's columns that is removed."""
        return {"ratio": Float(0.1, 0.9, default=0.5, step=0.05)}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if no layer can lose columns."""
        left = []
        for name, found in self._find(task.trained_model(), 0.5, task):
            if not isinstance(found, str):
                return
            left.append(f"; {name} {found}")
        raise NotApplicable(f"{self.name} removes {self.columns}, but this model has none to remove{''.join(left)}")

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The narrowings, each of which was tried on a copy, and the layers that are left as they are, with the reason.

        What stays is a nearest whole number of columns, at least one.
        """
        found = dict(self._find(model, params["ratio"], task))
        return {
            "narrowings": [how for how in found.values() if not isinstance(how, str)],
            "left": {name: reason for name, reason in found.items() if isinstance(reason, str)},
        }

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        left: dict[str, str] = plan["left"]
        return left

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        for narrowing in plan["narrowings"]:
            model = self._narrow(model, narrowing)
        return model

    def _find(self, model: nn.Module, ratio: float, task: Task) -> Iterator[tuple[str, Narrowing | str]]:
        """By layer, how it is made narrower after those before it, or why it is not."""
        work, inputs = same_tensors(model), task.inputs(TRIED_SAMPLES)
        for name, layer in model.named_modules():
            if isinstance(layer, self.alike):
                yield name, f"is an nn.{type(layer).__name__}, which is not handled"
        for name in [name for name, layer in model.named_modules() if type(layer) in self.kinds]:
            found = self._try(work, name, ratio, inputs)
            yield name, found
            if not isinstance(found, str):
                work = self._narrow(work, found)

    def _try(self, model: nn.Module, name: str, ratio: float, inputs: Any) -> Narrowing | str:
        """How the layer is made narrower, or why it is not."""
        layer = model.get_submodule(name)
        if not shared_parameters(model).isdisjoint(layer.parameters()):
            return "shares weights with another layer"
        reason = self.unsuitable(layer)
        if reason:
            return reason
        scores = self.rank(layer)
        count = max(1, round(len(scores[0]) * (1 - ratio)))
        if count == len(scores[0]):
            return f"has {count} columns, too few to remove {ratio:.0%}"
        kept = [encode(score.topk(count).indices.tolist()) for score in scores]
        scattered = Narrowing(layer=name, kept=kept, readers={})
        saved, cost = _bytes(layer) - _bytes(self.shrink(layer, [decode(part) for part in kept])), _cost(scattered)
        if saved < CLEARLY * cost:
            return f"would save {saved} bytes, hardly more than the {cost} of the list of its columns"
        try:
            wide = self._narrow(same_tensors(model), scattered)
            expected = outputs(wide, inputs)
        except Exception as error:  # the user's forward, with another module where it expects the layer
            return f"cannot be replaced: {first_line(error)}"
        cut_through = Narrowing(layer=name, kept=kept, readers=find_readers(wide, name, inputs))
        return cut_through if self._gives(cut_through, model, inputs, expected) else scattered

    def _gives(self, narrowing: Narrowing, model: nn.Module, inputs: Any, expected: list[Tensor]) -> bool:
        """Whether the model has these outputs after it: the readers that were found are then all there are."""
        if not narrowing["readers"]:
            return False
        try:
            actual = outputs(self._narrow(same_tensors(model), narrowing), inputs)
        except Exception:  # the user's forward, where something else reads the columns or knows their number
            return False
        return output_error(actual, expected) <= SAME

    def _narrow(self, model: nn.Module, narrowing: Narrowing) -> nn.Module:
        layer = model.get_submodule(narrowing["layer"])
        kept = [decode(part) for part in narrowing["kept"]]
        narrow = self.shrink(layer, kept)
        for reader, columns in narrowing["readers"].items():
            cut(model.get_submodule(reader), decode(columns))
        return replace(model, narrowing["layer"], narrow if narrowing["readers"] else self.scatter(narrow, layer, kept))


def _bytes(layer: nn.Module) -> int:
    return byte_count(dict(layer.named_parameters()))


def _cost(narrowing: Narrowing) -> int:
    """Bytes in the plan."""
    return len(json.dumps(narrowing))
