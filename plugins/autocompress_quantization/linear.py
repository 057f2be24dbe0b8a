"""What the quantizers of linear layers share: which layers, and torchao's `quantize_` applied to them."""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from autocompress import Method, NotApplicable, Plan, Target, Task, Technique


class LinearQuantization(Method, ABC):
    """Quantizes the weights of nn.Linear layers with torchao; everything else stays as it is."""

    technique = Technique.QUANTIZATION

    @abstractmethod
    def config(self, plan: Plan, target: Target) -> Any:
        """torchao's configuration; the same for the same plan and kind of device, also when an artifact is loaded."""

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if the model has no layer to quantize."""
        if not linear_layers(task.trained_model()):
            raise NotApplicable(f"{self.name} quantizes linear layers, but this model has no nn.Linear layer for it")

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The names of the layers to quantize."""
        return {"layers": linear_layers(model)}

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        """Quantizes whatever weights the model has: weights are all that it looks at, so it needs no data."""
        layers = set(plan["layers"])
        config = self.config(plan, target)
        with quiet_import():
            from torchao.quantization import quantize_
        quantize_(model, config, filter_fn=lambda module, name: name in layers)
        return model


def linear_layers(model: nn.Module) -> list[str]:
    """Names of the nn.Linear layers whose weight can be replaced.

    Left out: what nn.MultiheadAttention holds, because it reads the weight without calling the layer; weights that are
    tied to another layer, because that one would keep its floating-point copy; weights that are
    computed (parametrized).
    """
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
        and "weight" in module._parameters
        and uses[id(module.weight)] == 1
    ]


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Around imports of torchao, which are late because they take seconds that only those who quantize should pay.

    It registers an enum in a way that torch calls deprecated, in its log: nothing that a user could mend.
    """
    logger = logging.getLogger("torch.utils._pytree")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
