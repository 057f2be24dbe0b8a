"""What the structured pruning methods share: everything but which channels matter least."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn

from autocompress import Choice, Float, Method, NotApplicable, Parameter, Plan, Target, Task, Technique
from autocompress_pruning.replay import replay
from autocompress_pruning.trace import Importance, choose


class StructuredPruning(Method, ABC):
    """Removes the least important channels of convolutions and linear layers, and all that depends on them.

    Channels are ranked within each group of layers that must lose them together (Fang et al. 2023, "DepGraph: Towards
    Any Structural Pruning"). Layers that give the model's outputs keep theirs. Groups that the model's own code holds
    at a fixed width, and recurrent layers, are left as they are.
    """

    technique = Technique.PRUNING

    @abstractmethod
    def importance(self) -> Importance:
        """A fresh scorer: of a Torch-Pruning group, one score a channel (channels,); the lowest are removed."""

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`ratio`: share of each layer's channels that is removed; `round_to`: what the channels left are multiples of.

        Wide vector instructions want multiples of 8; layers of no more than `round_to` channels are not rounded.
        """
        return {"ratio": Float(0.1, 0.9, default=0.5, step=0.05), "round_to": Choice((1, 8), default=8)}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if the model cannot be traced or has no channels to remove."""
        if not choose(task.trained_model(), task.inputs(2), self.importance(), ratio=0.5, round_to=1):
            raise NotApplicable(
                f"{self.name} removes channels of Conv and Linear layers, but this model has none that may go:"
                " layers that give its outputs, recurrent layers and fixed widths are left alone"
            )

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """Which indices go from which dimension of which layer, as `replay.Removal`."""
        return {"removals": choose(model, task.inputs(2), self.importance(), params["ratio"], params["round_to"])}

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        return replay(model, plan["removals"])
