"""What the methods share that take columns out of the outputs of recurrent layers and embeddings.

The columns go from the layers that read them too, where these can be found; else they are put back as zeros.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

from torch import Tensor, nn

from autocompress import Float, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.effect import output_error, outputs
from autocompress.errors import first_line
from autocompress_pruning.readers import cut, find_readers, replace
from autocompress_pruning.replay import decode, encode
from autocompress_pruning.scattered import Scattered

TRIED_SAMPLES = 4
SAME = 1e-5
"""Outputs that differ by less, as a share of their RMS, differ by the order of float32 sums alone."""


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
        plan = self.decide(task.trained_model(), {"ratio": 0.5}, task)
        if not plan["narrowings"]:
            reasons = "".join(f"; {layer} {reason}" for layer, reason in plan["left"].items())
            raise NotApplicable(f"{self.name} removes {self.columns}, but this model has none to remove{reasons}")

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The narrowings, each of which was tried on a copy, and the layers that are left as they are, with the reason.

        What stays is a nearest whole number of columns, at least one.
        """
        work, inputs = copy.deepcopy(model), task.inputs(TRIED_SAMPLES)
        narrowings: list[Narrowing] = []
        left: dict[str, str] = {}
        for name in [name for name, layer in model.named_modules() if type(layer) in self.kinds]:
            found = self._try(work, name, params["ratio"], inputs)
            if isinstance(found, str):
                left[name] = found
            else:
                narrowings.append(found)
                work = self._narrow(work, found)
        return {"narrowings": narrowings, "left": left}

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        left: dict[str, str] = plan["left"]
        return left

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        for narrowing in plan["narrowings"]:
            model = self._narrow(model, narrowing)
        return model

    def _try(self, model: nn.Module, name: str, ratio: float, inputs: Any) -> Narrowing | str:
        """How the layer is made narrower, or why it is not."""
        layer = model.get_submodule(name)
        reason = "shares weights with another layer" if is_shared(model, layer) else self.unsuitable(layer)
        if reason:
            return reason
        scores = self.rank(layer)
        count = max(1, round(len(scores[0]) * (1 - ratio)))
        if count == len(scores[0]):
            return f"has {count} columns, too few to remove {ratio:.0%}"
        kept = [encode(score.topk(count).indices.tolist()) for score in scores]
        scattered = Narrowing(layer=name, kept=kept, readers={})
        try:
            wide = self._narrow(copy.deepcopy(model), scattered)
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
            actual = outputs(self._narrow(copy.deepcopy(model), narrowing), inputs)
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


def is_shared(model: nn.Module, layer: nn.Module) -> bool:
    """Whether a weight of the layer has another name in the model: it is tied, or the layer stands in two places."""
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return any(uses[id(parameter)] > 1 for parameter in layer.parameters())
