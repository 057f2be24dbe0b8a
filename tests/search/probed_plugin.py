"""A plugin whose methods do to a model what a probe must see; tests install it as a distribution."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import torch
from autocompress_quantization.float16_storage import Float16Storage
from torch import Tensor, nn

from autocompress import Choice, Loss, Method, Parameter, Plan, Target, Task, Technique, hookimpl

SLEEP_S, BALLAST = 0.005, 10_000


class Sleeping(nn.Module):
    """A model that sleeps before it answers, and carries numbers that nobody needs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("ballast", torch.zeros(BALLAST))

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(SLEEP_S)
        output: Tensor = self.model(x)
        return output


class Slow(Method):
    name = "slow"
    technique = Technique.ACCELERATION

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return self.restore(model, plan, target)

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        return Sleeping(model)


class SlowStructure(Method):
    """Slow from before the training on."""

    name = "slow_structure"
    technique = Technique.PRUNING

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        return Sleeping(model)


class Idle(Method):
    name = "idle"
    technique = Technique.ACCELERATION

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"way": Choice(("one", "two", "three"), "one")}

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return model


class Faulty(Method):
    name = "broken"
    technique = Technique.ACCELERATION

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        raise ValueError("it was not trained")


class Halving(Float16Storage):
    """Without effect at its default."""

    name = "halving"

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"halves": Choice((False, True), False)}

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        return super().finalize(model, plan, task, target) if plan["halves"] else model

    def pack(self, tensors: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        return super().pack(tensors, plan) if plan["halves"] else tensors


class Teaching(Method):
    name = "teaching"
    technique = Technique.DISTILLATION

    def loss(self, plan: Plan, task: Task) -> Loss:
        raise RuntimeError("nobody trains here")


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [Slow(), SlowStructure(), Idle(), Faulty(), Halving(), Teaching()]
