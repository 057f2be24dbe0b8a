"""Carry out a recipe: reshape, train, finalize."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from autocompress.errors import InvalidInput, did_you_mean
from autocompress.leaves import leaves
from autocompress.measure.device import DeviceLock, Target
from autocompress.method import Loss, Method, NoEffect, Plan
from autocompress.parameters import Parameter
from autocompress.plugins import Registry
from autocompress.recipe import Recipe, Step
from autocompress.task import Task
from autocompress.training import TaskLoss, train


@dataclass(frozen=True)
class PlannedStep:
    """A step of a recipe with its method and what that decided."""

    method: Method
    plan: Plan


@dataclass(frozen=True)
class Compressed:
    """What a recipe made of a model."""

    model: nn.Module
    """What ships, in eval mode, on the target's device."""
    steps: tuple[PlannedStep, ...]


def resolve(recipe: Recipe, registry: Registry, task: Task) -> Recipe:
    """The recipe with all parameters filled in and checked.

    Raises InvalidInput for an unknown method or parameter, a value out of range, or steps out of order.
    """
    steps = []
    for step in recipe.steps:
        method = registry.get(step.method)
        params = fill(method.name, method.search_space(task), step.params)
        steps.append(Step(method=method.name, params=params))
    techniques = [registry.get(step.method).technique for step in steps]
    for before, after in zip(techniques, techniques[1:], strict=False):
        if before.position >= after.position:
            raise InvalidInput(f"a recipe has one step a technique, in their order, but got {after} after {before}")
    return Recipe(steps=tuple(steps), recovery=recipe.recovery)


def fill(method: str, space: Mapping[str, Parameter], params: Mapping[str, Any]) -> dict[str, Any]:
    """Given parameters, checked, and the defaults of the others."""
    for name in params:
        if name not in space:
            raise InvalidInput(f"method {method!r} has no parameter {name!r}{did_you_mean(name, space)}")
    filled = {}
    for name, parameter in space.items():
        try:
            filled[name] = parameter.check(params.get(name, parameter.default))
        except ValueError as error:
            raise InvalidInput(f"parameter {name!r} of method {method!r} {error}") from None
    return filled


def compress(
    task: Task,
    recipe: Recipe,
    *,
    registry: Registry,
    target: Target,
    seed: int = 0,
    log: Callable[[str], None] = print,
    on_step: Callable[[str], None] = lambda method: None,
) -> Compressed:
    """The compressed model of a resolved recipe, and the plans that rebuild it.

    `on_step` hears the name of each method before it acts, so that a failure can be told by name.
    Raises NoEffect when a step changes nothing that ships or trains.
    """
    model = task.trained_model()
    steps: list[PlannedStep] = []
    for step in recipe.steps:
        on_step(step.method)
        method = registry.get(step.method)
        plan = method.decide(model, step.params, task)
        before = structure(model)
        model = method.reshape(model, plan)
        steps.append(PlannedStep(method, plan))
        log(f"{method.name}: {_change(before, structure(model)) or 'structure unchanged so far'}")
        if type(method).reshape is not Method.reshape and structure(model) == before:
            raise NoEffect(f"{method.name} changed no tensor of the model with {step.params}")
    model = _recover(model, task, recipe, steps, target, seed, log, on_step)
    model = model.to(target.torch_device).eval()
    for planned in steps:
        on_step(planned.method.name)
        before = structure(model)
        model = planned.method.finalize(model, planned.plan, task, target)
        if type(planned.method).finalize is not Method.finalize and structure(model) == before:
            raise NoEffect(f"{planned.method.name} changed no tensor of the model with {planned.plan}")
    on_step("")
    return Compressed(model.eval(), tuple(steps))


def rebuild(model: nn.Module, steps: Sequence[PlannedStep], target: Target) -> nn.Module:
    """The structure that `compress` left, made of a model with the original structure; the tensors hold any values."""
    for step in steps:
        model = step.method.reshape(model, step.plan)
    model = model.to(target.torch_device).eval()
    for step in steps:
        model = step.method.restore(model, step.plan, target)
    return model.eval()


def structure(model: nn.Module) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Module types and leaf tensors' shapes and dtypes: what must differ after a step that had an effect."""
    modules = {f"<{name}>": (type(module).__name__, (), "") for name, module in model.named_modules()}
    tensors = {name: ("", tuple(tensor.shape), str(tensor.dtype)) for name, tensor in leaves(model).items()}
    return modules | tensors


def _recover(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    steps: Sequence[PlannedStep],
    target: Target,
    seed: int,
    log: Callable[[str], None],
    on_step: Callable[[str], None],
) -> nn.Module:
    losses: list[Loss] = []
    for planned in steps:
        on_step(planned.method.name)
        loss = planned.method.loss(planned.plan, task)
        if loss is not None:
            losses.append(loss)
            if recipe.recovery.epochs == 0:
                raise NoEffect(f"{planned.method.name} acts while training, but the recipe's recovery has 0 epochs")
    on_step("")
    if recipe.recovery.epochs == 0:
        return model
    lock = DeviceLock(target)
    return train(
        model, losses or [TaskLoss(task.loss)], task, recipe.recovery,
        device=target.torch_device, seed=seed, lock=lock, log=log,
    )  # fmt: skip


def _change(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    changed = sum(after.get(name) != value for name, value in before.items())
    return f"{changed} tensors and modules changed" if changed else ""
