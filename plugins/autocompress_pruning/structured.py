"""What the structured pruning methods share: everything but which channels matter least."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autocompress import Choice, Float, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.effect import outputs
from autocompress.sensitivity import profile
from autocompress_pruning.belonging import belong
from autocompress_pruning.group_shares import LEVELS, group_macs, group_weights, solved_shares
from autocompress_pruning.ranking import Scope, least_important, lowest
from autocompress_pruning.replay import replay
from autocompress_pruning.trace import Group, find_groups, removals
from autocompress_pruning.trial import largest_that_works

FIXED = (
    "the model's own code fixes its width or changes the order of its channels,"
    " or a layer that reads them (a grouped transposed convolution) can lose none"
)
_NOT_SCORING = ("ratio", "round_to", "scope", "steps")
"""Parameters that do not decide which channels of a group go first."""
Choose = Callable[[Sequence[Group]], Mapping[str, list[int]]]
"""The channels to remove, by the root of their group."""


class StructuredPruning(Method, ABC):
    """Removes the least important channels of convolutions and linear layers, and all that depends on them.

    Channels are ranked in groups of layers that must lose them together (Fang et al. 2023, "DepGraph: Towards Any
    Structural Pruning"): a convolution's channels, the width of a transformer's feed-forward layers, the width of what
    goes through its residual stream. Channels that are the model's outputs stay, as do attention's heads, which are for
    `attention_heads`, recurrent layers, and widths that the model's own code holds.
    """

    technique = Technique.PRUNING
    gives = frozenset({Trait.PRUNED})
    scopes: ClassVar[tuple[Scope, ...]] = tuple(Scope)
    """Among which channels it may rank; the first is the default."""
    iterates: ClassVar[bool] = True
    """Whether scoring anew after some channels are gone can change which ones go next."""

    @abstractmethod
    def scores(
        self, model: nn.Module, groups: Sequence[Group], params: Mapping[str, Any], task: Task
    ) -> Mapping[str, Tensor]:
        """Scores of the channels (channels,) by their group's root; the lowest go. Groups without scores stay."""

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`ratio`: share of the channels that is removed; `round_to`: what the channels left are multiples of.

        Wide vector instructions want multiples of 8, tensor cores of 16 to 64; layers of no more than `round_to`
        channels are not rounded. `scope`: see `Scope`. `steps`: prune in so many rounds, and score what is
        left anew in each; nothing is trained in between, all recovery comes after the last round.
        """
        space: dict[str, Parameter] = {
            "ratio": Float(0.1, 0.9, default=0.5, step=0.05),
            "round_to": Choice((1, 8, 16, 32, 64), default=8),
        }
        if len(self.scopes) > 1:
            space["scope"] = Choice(tuple(str(scope) for scope in self.scopes), default=str(self.scopes[0]))
        if self.iterates:
            space["steps"] = Choice((1, 2, 4), default=1)
        return space

    def eligible(self, model: nn.Module, group: Group) -> bool:
        """Whether it can score the group. Cheap: called by `check`."""
        return True

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if the model cannot be traced or has no channels to remove."""
        model, inputs = task.trained_model(), task.inputs(2)
        groups = [group for group in find_groups(model, inputs) if self.eligible(model, group)]
        scores = {group.root: torch.arange(group.size).float() for group in groups}
        chosen = least_important(groups, scores, 0.5, 1, Scope.UNIFORM)
        if not _that_work(model, inputs, groups, chosen, enough=1):
            raise NotApplicable(f"{self.name} {self.rule}" + "".join(f"; {root}: {FIXED}" for root in chosen))

    rule: ClassVar[str] = (
        "removes channels of convolutions and linear layers, but this model has none that may go: layers that give"
        " its outputs, attention's heads, recurrent layers and fixed widths are left alone"
    )
    """Why it is not applicable where there is nothing for it to do."""

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """Which indices go from which dimension of which layer, as lists of `replay.Removal`, one list a round.

        What is chosen was tried: the pruned model runs, its outputs keep their shapes, and what goes belongs together.
        Groups that fail are left.
        """
        inputs, steps = task.inputs(2), int(params.get("steps", 1))
        scope = Scope(params.get("scope", self.scopes[0]))
        pruned, rounds, fixed, shares = copy.deepcopy(model), [], set[str](), dict[str, float]()
        for step in range(1, steps + 1):
            groups = [group for group in find_groups(pruned, inputs) if self.eligible(pruned, group)]
            scores = self.scores(pruned, [group for group in groups if group.root not in fixed], params, task)
            round_to = params["round_to"] if step == steps else 1
            if scope.by_sensitivity:
                shares = shares or self._shares(pruned, groups, scores, params, task)
                chosen = lowest(groups, scores, {r: _part(share, step, steps) for r, share in shares.items()}, round_to)
            else:
                chosen = least_important(groups, scores, _part(params["ratio"], step, steps), round_to, scope)
            working = _that_work(pruned, inputs, groups, chosen)
            fixed |= chosen.keys() - working.keys()
            rounds.append(removals(groups, working))
            pruned = replay(pruned, rounds[-1])
        return {"rounds": [made for made in rounds if made], "fixed": sorted(fixed)}

    def _shares(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        scores: Mapping[str, Tensor],
        params: Mapping[str, Any],
        task: Task,
    ) -> dict[str, float]:
        """The share that each group with scores is to lose; those that cannot lose any, the ratio, and are told of."""
        ranked, inputs = [group for group in groups if group.root in scores], task.inputs(2)
        able = [g for g in ranked if _that_work(model, inputs, [g], lowest([g], scores, {g.root: 0.5}, 1))]
        scoring = {name: value for name, value in sorted(params.items()) if name not in _NOT_SCORING}

        def changed(shares: Mapping[str, float]) -> nn.Module:
            return replay(copy.deepcopy(model), removals(able, lowest(able, scores, shares, 1)))

        method = f"{self.name} {json.dumps(scoring)} 1"
        made = profile(model, task, method, [group.root for group in able], LEVELS, changed)
        costs = group_weights(model, able) if params["scope"] == Scope.SENSITIVITY else group_macs(model, able, inputs)
        return {group.root: params["ratio"] for group in ranked} | solved_shares(
            able, made, costs, params["ratio"], params["round_to"]
        )

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        return dict.fromkeys(plan["fixed"], FIXED)

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        for made in plan["rounds"]:
            model = replay(model, made)
        return model


def _part(share: float, step: int, steps: int) -> float:
    """What goes in one round of what is left, so that the share is gone after all of them."""
    return 1 - (1 - share * step / steps) / (1 - share * (step - 1) / steps)


def _that_work(
    model: nn.Module,
    inputs: Any,
    groups: Sequence[Group],
    chosen: Mapping[str, list[int]],
    enough: int | None = None,
) -> dict[str, list[int]]:
    """Those removals that the model runs without, all together, with its outputs' shapes kept.

    Groups fail for a width written into the model's code, a layer that Torch-Pruning does not understand, or channels
    that do not belong together.
    """
    right = belong(model, inputs, groups, chosen)
    shapes = [tensor.shape for tensor in outputs(model, inputs)]

    def works(roots: Sequence[str]) -> bool:
        pruned = replay(copy.deepcopy(model), removals(groups, {root: chosen[root] for root in roots}))
        emptied = any(tensor.numel() == 0 for tensor in pruned.parameters())
        return not emptied and [tensor.shape for tensor in outputs(pruned, inputs)] == shapes

    return {root: chosen[root] for root in largest_that_works(right, works, enough)}
