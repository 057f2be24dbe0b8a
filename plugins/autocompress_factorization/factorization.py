"""What the factorizations share: everything but how one layer is split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from autocompress import Float, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress_factorization.low_rank import Factors, replace

Ranks = int | list[int]
"""Of one layer, as JSON."""


class Factorization(Method, ABC):
    """Splits layers into products of smaller ones, each at the rank that keeps a share of its weight's energy.

    Only layers whose factors are clearly smaller are split. The recovery training makes up for what is discarded.
    """

    technique = Technique.FACTORIZATION
    gives = frozenset({Trait.FACTORIZED})
    refuses = frozenset({Trait.SPARSE})  # a product of factors has no zeros where the weight had them
    kind: ClassVar[str]
    """The layers it works on, in words, plural."""

    @abstractmethod
    def layers(self, model: nn.Module) -> Mapping[str, str]:
        """The layers of its kind by name, with the reason why one cannot be split, or an empty string."""

    @abstractmethod
    def ranks(self, layer: nn.Module, energy: float) -> Ranks | None:
        """The ranks that keep this share of the energy; None if the factors would not be clearly smaller."""

    @abstractmethod
    def split(self, layer: nn.Module, ranks: Ranks) -> nn.Module:
        """The layer as a product, computed from its weight."""

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`energy`: share of the sum of squares of each weight that its factors keep."""
        return {"energy": Float(0.5, 0.98, default=0.8)}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if the model has no layer that can be split, or none that gets smaller."""
        model, energy = task.trained_model(), float(self.search_space(task)["energy"].default)
        layers = self.layers(model)
        free = [name for name, obstacle in layers.items() if not obstacle]
        if not free:
            why = "; ".join(f"{name}: {obstacle}" for name, obstacle in layers.items())
            raise NotApplicable(
                f"{self.name} splits {self.kind}, but this model has none for it" + f" ({why})" * bool(why)
            )
        if not any(self.ranks(model.get_submodule(name), energy) for name in free):
            raise NotApplicable(
                f"{self.name} splits {self.kind}, but {_too_large(energy)} in all it has: {', '.join(free)}"
            )

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """Ranks by layer."""
        energy = params["energy"]
        found = {
            name: self.ranks(model.get_submodule(name), energy)
            for name, obstacle in self.layers(model).items()
            if not obstacle
        }
        return {"energy": energy, "ranks": {name: ranks for name, ranks in found.items() if ranks is not None}}

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        layers = {model.get_submodule(name): ranks for name, ranks in plan["ranks"].items()}
        return replace(model, {layer: self.split(layer, ranks) for layer, ranks in layers.items()})

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        reason = _too_large(plan["energy"])
        made = [name for name, module in model.named_modules() if isinstance(module, Factors)]
        return {
            name: obstacle or reason
            for name, obstacle in self.layers(model).items()
            if not any(name == factors or name.startswith(f"{factors}.") for factors in made)
        }


def _too_large(energy: float) -> str:
    return f"factors that keep {energy:.0%} of the weight's energy would not be clearly smaller"
