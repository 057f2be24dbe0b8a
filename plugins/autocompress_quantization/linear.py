"""What the quantizers of linear layers share: which layers, and torchao's `quantize_` applied to them."""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from autocompress import Method, NotApplicable, Plan, Target, Task, Technique, Trait
from autocompress.errors import first_line
from autocompress.tensors import call, to_device
from autocompress_quantization.weights import FLOATS, find_weights, is_transformers_conv1d, unfit_weights


class LinearQuantization(Method, ABC):
    """Quantizes linear layers with torchao, nn.Linear and transformers' Conv1D; everything else stays as it is."""

    technique = Technique.QUANTIZATION
    gives = frozenset({Trait.QUANTIZED})
    refuses = frozenset({Trait.QUANTIZED, Trait.PACKED, Trait.HALF})

    @abstractmethod
    def config(self, plan: Plan, target: Target) -> Any:
        """torchao's configuration; the same for the same plan and kind of device, also when an artifact is loaded."""

    def layers(self, model: nn.Module) -> list[str]:
        """Names of the layers that it can quantize."""
        return linear_layers(model)

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if the model has no layer to quantize, or cannot be run with quantized ones."""
        model = task.trained_model()
        if not self.layers(model):
            left = "".join(f"; {layer}: {reason}" for layer, reason in self.skipped(model, {"layers": []}).items())
            raise NotApplicable(
                f"{self.name} quantizes linear layers, but this model has no nn.Linear layer for it{left}"
            )
        plan, device = self.decide(model, {}, task), target.torch_device
        try:
            with torch.no_grad():
                call(self.restore(model.to(device), plan, target), to_device(task.inputs(2), device))
        except Exception as error:  # the user's forward on weights that are no plain tensors, or torchao's kernels
            raise NotApplicable(
                f"{self.name} needs a model that runs with quantized weights, but: {first_line(error)}"
            ) from error

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """The names of the layers to quantize."""
        return {"layers": self.layers(model)}

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        """Linear layers that are not in the plan."""
        left = {}
        for weight in find_weights(model):
            module, _ = weight.owners[-1]
            if isinstance(module, nn.MultiheadAttention | nn.modules.linear.NonDynamicallyQuantizableLinear):
                left[weight.name] = "nn.MultiheadAttention reads the weight without calling a layer"
            elif _is_linear(module) and weight.layer not in plan["layers"]:
                tied = len(weight.owners) > 1
                left[weight.name] = "another layer has the same weight" if tied else self.why_skipped()
        unfit = unfit_weights(model)
        return left | {name: unfit[name] for name in unfit if _is_linear(model.get_submodule(name.rpartition(".")[0]))}

    def why_skipped(self) -> str:
        return "its weight cannot be replaced"

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        """Quantizes whatever weights the model has: weights are all that it looks at, so it needs no data."""
        layers = set(plan["layers"])
        config = self.config(plan, target)
        with quiet_import():
            from torchao.quantization import quantize_
        for name in plan["layers"]:
            if is_transformers_conv1d(model.get_submodule(name)):
                model.set_submodule(name, _as_linear(model.get_submodule(name)))
        quantize_(model, config, filter_fn=lambda module, name: name in layers)
        return model


def linear_layers(model: nn.Module) -> list[str]:
    """Names of the linear layers whose weight can be replaced.

    Left out: what nn.MultiheadAttention holds, because it reads the weight without calling the layer; weights that are
    tied to another layer, because that one would keep its floating-point copy; weights that are
    computed (parametrized), or of a type that torchao does not quantize.
    """
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return [
        name
        for name, module in model.named_modules()
        if _is_linear(module)
        and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
        and "weight" in module._parameters
        and module.weight.dtype in FLOATS
        and uses[id(module.weight)] == 1
    ]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_transformers_conv1d(module)


def _as_linear(layer: Any) -> nn.Linear:
    """nn.Linear for a Conv1D, whose weight is (in, out)."""
    linear = nn.Linear(1, 1, bias=False)
    linear.in_features, linear.out_features = layer.weight.shape
    linear.weight = nn.Parameter(layer.weight.detach().t().contiguous())
    linear.bias = layer.bias
    return linear.train(layer.training)


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
