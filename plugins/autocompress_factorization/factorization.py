"""What the factorizations share: everything but how one layer is split."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from autocompress import Choice, Float, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.sensitivity import Profile, profile
from autocompress_factorization.low_rank import Factors, replace
from autocompress_factorization.ranks import LEVELS, Ladder, Ranks, solved_ranks

ENERGY, SENSITIVITY = "energy", "sensitivity"


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
    def spectra(self, layer: nn.Module) -> Sequence[Tensor]:
        """Energies along the directions (directions,), the largest first, that each of its ranks chooses among."""

    @abstractmethod
    def shapes(self, layer: nn.Module, ranks: Ranks) -> Sequence[tuple[int, ...]]:
        """Shapes, whose products add up to the weights of all factors."""

    @abstractmethod
    def split(self, layer: nn.Module, ranks: Ranks) -> nn.Module:
        """The layer as a product, computed from its weight."""

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`energy`: share of the sum of squares of each weight that its factors keep.

        `allocation`: `energy` keeps that share in each layer; `sensitivity` keeps as many weights as that leaves in
        all, in the layers where they matter most to the outputs.
        """
        return {"energy": Float(0.5, 0.98, default=0.8), "allocation": Choice((ENERGY, SENSITIVITY), ENERGY)}

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
        if not any(self.ladder(model.get_submodule(name)).ranks(energy) for name in free):
            raise NotApplicable(
                f"{self.name} splits {self.kind}, but {_too_large(energy)} in all it has: {', '.join(free)}"
            )

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """Ranks by layer."""
        energy = params["energy"]
        free = [name for name, obstacle in self.layers(model).items() if not obstacle]
        ladders = {name: self.ladder(model.get_submodule(name)) for name in free}
        allocation = params.get("allocation", ENERGY)
        if allocation == ENERGY:
            found = {name: ladder.ranks(energy) for name, ladder in ladders.items()}
        else:
            found = solved_ranks(ladders, energy, self._profile(model, ladders, task))
        return {
            "energy": energy,
            "allocation": allocation,
            "ranks": {name: ranks for name, ranks in found.items() if ranks is not None},
        }

    def ladder(self, layer: nn.Module) -> Ladder:
        weight: Any = layer.weight
        return Ladder(weight.numel(), self.spectra(layer), lambda ranks: self.shapes(layer, ranks))

    def _profile(self, model: nn.Module, ladders: Mapping[str, Ladder], task: Task) -> Profile:
        """What each layer alone does to the outputs at shares of its energy."""

        def changed(energies: Mapping[str, float]) -> nn.Module:
            ranks = {name: ladders[name].ranks(energy) for name, energy in energies.items()}
            split = {name: ranks for name, ranks in ranks.items() if ranks is not None}
            return self.reshape(copy.deepcopy(model), {"ranks": split})

        return profile(model, task, f"{self.name} 1", list(ladders), LEVELS, changed)

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        layers = {model.get_submodule(name): ranks for name, ranks in plan["ranks"].items()}
        return replace(model, {layer: self.split(layer, ranks) for layer, ranks in layers.items()})

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        solved = plan.get("allocation") == SENSITIVITY
        reason = "the solver found other layers cheaper to split" if solved else _too_large(plan["energy"])
        made = [name for name, module in model.named_modules() if isinstance(module, Factors)]
        return {
            name: obstacle or reason
            for name, obstacle in self.layers(model).items()
            if not any(name == factors or name.startswith(f"{factors}.") for factors in made)
        }


def _too_large(energy: float) -> str:
    return f"factors that keep {energy:.0%} of the weight's energy would not be clearly smaller"
