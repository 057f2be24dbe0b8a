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
    on_step: Callable[[str], None] = lambda method: None,
) -> Compressed:
    """The compressed model of a resolved recipe, and the plans that rebuild it.

    `on_step` hears the name of each method before it acts, so that a failure can be told by name.
    Raises NoEffect when a step changes nothing that ships and brings no loss.
    """
    work = _Compression(task, target, on_step, task.trained_model())
    work.reshape([(registry.get(step.method), step.params) for step in recipe.steps])
    losses = work.losses(recipe.recovery.epochs)
    if recipe.recovery.epochs:
        lock = DeviceLock(target)
        terms = losses or [TaskLoss(task.loss)]
        work.model = train(work.model, terms, task, recipe.recovery, device=target.torch_device, seed=seed, lock=lock)
    work.finalize()
    return Compressed(work.model.eval(), tuple(work.steps))


class _Compression:
    """One model on its way through a recipe."""

    def __init__(self, task: Task, target: Target, on_step: Callable[[str], None], model: nn.Module) -> None:
        self.task, self.target, self.on_step, self.model = task, target, on_step, model
        self.steps: list[PlannedStep] = []
        self._structure = structure(model)
        self._effective: set[str] = set()

    def reshape(self, steps: Sequence[tuple[Method, Mapping[str, Any]]]) -> None:
        for method, params in steps:
            self.on_step(method.name)
            planned = PlannedStep(method, method.decide(self.model, params, self.task))
            self.steps.append(planned)
            self._change(method, method.reshape(self.model, planned.plan))
        self.on_step("")

    def losses(self, epochs: int) -> list[Loss]:
        """The losses that methods bring; a step that can have no effect any more fails before the training."""
        found = []
        for step in self.steps:
            self.on_step(step.method.name)
            loss = step.method.loss(step.plan, self.task)
            if loss is not None:
                if epochs == 0:
                    raise NoEffect(f"{step.method.name} acts while training, but the recipe's recovery has 0 epochs")
                found.append(loss)
                self._effective.add(step.method.name)
            elif type(step.method).finalize is Method.finalize:
                self._check_effect(step.method)
        self.on_step("")
        return found

    def finalize(self) -> None:
        self.model = self.model.to(self.target.torch_device).eval()
        for step in self.steps:
            self.on_step(step.method.name)
            self._change(step.method, step.method.finalize(self.model, step.plan, self.task, self.target))
            self._check_effect(step.method)
        self.on_step("")

    def _check_effect(self, method: Method) -> None:
        if method.name not in self._effective:
            raise NoEffect(f"{method.name} changed nothing of the model")

    def _change(self, method: Method, model: nn.Module) -> None:
        """Take over what a method made, and note whether it differs in structure."""
        after = structure(model)
        changed = sum(after.get(name) != value for name, value in self._structure.items())
        if after != self._structure:
            self._effective.add(method.name)
            print(f"{method.name}: {changed} of {len(after)} modules and tensors changed")
        self.model, self._structure = model, after


def rebuild(model: nn.Module, steps: Sequence[PlannedStep], target: Target) -> nn.Module:
    """The structure that `compress` left, made of a model with the original structure; the tensors hold any values."""
    for step in steps:
        model = step.method.reshape(model, step.plan)
    model = model.to(target.torch_device).eval()
    for step in steps:
        model = step.method.restore(model, step.plan, target)
    return model.eval()


def structure(model: nn.Module) -> dict[str, tuple[object, ...]]:
    """Module types and leaf tensors' shapes, layouts and dtypes: what must differ after a step that had an effect."""
    modules: dict[str, tuple[object, ...]] = {f"<{n}>": (type(module).__name__,) for n, module in model.named_modules()}
    tensors = {n: (tensor.shape, tensor.stride(), tensor.dtype) for n, tensor in leaves(model).items()}
    return modules | tensors
