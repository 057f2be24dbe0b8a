"""Carry out a recipe: reshape, train, finalize."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from autocompress.batch_norm import recalibrate
from autocompress.checkpoint import Checkpoint
from autocompress.effect import Change, Snapshot, byte_count, compare, file_bytes, output_error, outputs
from autocompress.errors import InvalidInput, did_you_mean
from autocompress.leaves import leaves, load_leaves
from autocompress.left_alone import left_alone, weights_of
from autocompress.measure.accuracy import NotANumber
from autocompress.measure.device import Target
from autocompress.measure.lock import DeviceLock
from autocompress.method import Loss, Method, NoEffect, OutputsDiffer, Plan, Schedule
from autocompress.no_op_guard import NoOpGuard
from autocompress.parameters import Parameter
from autocompress.plugins import Registry
from autocompress.prefix import Prefixes, Trained, prefix_of
from autocompress.recipe import Recipe, Recovery, Step
from autocompress.task import Task
from autocompress.tensors import to_device
from autocompress.training import Halted, TaskLoss, train

COMPARED_SAMPLES = 32
"""Inputs on which the outputs before and after finalizing are compared."""


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
    student: str | None = None
    """The name of the task's student that it was made of, if not of the trained model."""
    changes: tuple[Change, ...] = ()

    def tensors(self) -> dict[str, Tensor]:
        """The model's tensors as they are stored, packed, on the CPU."""
        stored = {name: tensor.cpu() for name, tensor in leaves(self.model).items()}
        for step in self.steps:
            stored = step.method.pack(stored, step.plan)
        return {name: tensor.contiguous().clone() for name, tensor in stored.items()}


def resolve(recipe: Recipe, registry: Registry, task: Task) -> Recipe:
    """The recipe with all parameters filled in and checked.

    Raises InvalidInput for an unknown method or parameter, a value out of range, steps that cannot follow another, or a
    training without data.
    """
    if recipe.recovery.epochs and not task.has_training:
        raise InvalidInput(f"recipe '{recipe}' trains, but the task has no training data: give it `train`")
    methods = [registry.get(step.method) for step in recipe.steps]
    check_order(methods)
    steps = [
        Step(method=method.name, params=fill(method.name, method.search_space(task), step.params))
        for method, step in zip(methods, recipe.steps, strict=True)
    ]
    return Recipe(steps=tuple(steps), recovery=recipe.recovery)


def check_order(methods: Sequence[Method]) -> None:
    """Raises InvalidInput when a step cannot come after one before it, and why: all from what each method states."""
    for position, method in enumerate(methods):
        for earlier in methods[:position]:
            if earlier.name == method.name:
                raise InvalidInput(f"a recipe has each method once, but got {method.name!r} twice")
            early = method.technique in earlier.may_precede
            if earlier.technique.position > method.technique.position and not early:
                raise InvalidInput(
                    f"a recipe's steps are in the order of their techniques, but {method.name!r} ({method.technique})"
                    f" comes after {earlier.name!r} ({earlier.technique})"
                )
            trait = method.conflict(earlier)
            if trait is not None:
                swaps = earlier.technique is method.technique and earlier.conflict(method) is None
                raise InvalidInput(
                    f"{method.name!r} cannot follow {earlier.name!r}, which leaves {trait}:"
                    + (" put it first" if swaps else " use one of the two")
                )


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
    Raises NoEffect when a step changes nothing that ships and brings no loss, OutputsDiffer when what it finalizes
    gives other outputs than the model before, NotANumber when these are NaN.
    """
    return finalize(train_recipe(task, recipe, registry=registry, target=target, seed=seed, on_step=on_step), target)


def train_recipe(
    task: Task,
    recipe: Recipe,
    *,
    registry: Registry,
    target: Target,
    seed: int = 0,
    on_step: Callable[[str], None] = lambda method: None,
    prefixes: Prefixes | None = None,
    before_training: Callable[[Compression], None] = lambda work: None,
    until: Callable[[int], int | None] = lambda epochs: None,
    begun: Trained | None = None,
) -> Compression:
    """A recipe up to the end of its training, on the target's device; `finalize` makes of it what ships.

    `before_training` sees what is about to be trained, if it is, and may raise to end it; it must leave it as it is.
    What was trained before is taken from `prefixes`, if there are any; on a CPU the result is the same, bit for bit.

    `until` is asked where to halt a training that has that many epochs done: after which epoch, None for nowhere. What
    is halted has a `checkpoint`, and the same call goes on with what it `trained` as `begun`. A recipe whose methods
    act from step to step of the training is not halted.
    """
    work = Compression(task, on_step, seed)
    device, lock = target.torch_device, DeviceLock(target)
    methods = [(registry.get(step.method), step.params) for step in recipe.steps]
    prefix, epochs = prefix_of(recipe, registry), recipe.recovery.epochs
    with prefixes.claim(prefix) if prefixes and epochs else nullcontext() as found:
        known = _furthest(found, begun)
        finished = known is not None and not known.halted
        work.reshape(methods, known.plans if known else {})
        losses = work.losses(epochs)
        work.model = work.model.to(device)
        if known and finished:
            work.resume(known)
        elif epochs:
            before_training(work)
            work.train(losses, recipe.recovery, known, until, device=device, lock=lock)
        if work.guard.changes and not finished:  # by reshaping, so that the running statistics are of another model
            recalibrate(work.model, task, device=device, lock=lock, seed=seed)
        if prefixes and epochs and not finished:
            prefixes.keep(prefix, work.trained())
    seed_all(seed)  # whatever the training drew, and whether there was one here
    return work


def _furthest(*known: Trained | None) -> Trained | None:
    """What has most of its training done."""
    there = [each for each in known if each is not None]
    return max(there, key=lambda each: each.checkpoint.epochs if each.checkpoint else math.inf, default=None)


def seed_all(seed: int) -> None:
    """Of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def finalize(trained: Compression, target: Target, *, keep: bool = False) -> Compressed:
    """What ships to the target's device. With `keep`, `trained` can be finalized once more, for another device."""
    work = copy.deepcopy(trained) if keep else trained
    work.finalize(target)
    return Compressed(work.model.eval(), tuple(work.steps), work.student, tuple(work.guard.changes))


class Compression:
    """One model on its way through a recipe."""

    def __init__(self, task: Task, on_step: Callable[[str], None], seed: int = 0) -> None:
        self.task, self.on_step, self.model, self._seed = task, on_step, task.trained_model(), seed
        self.steps: list[PlannedStep] = []
        self.guard = NoOpGuard()
        self.student: str | None = None
        self.training_s = 0.0
        """Seconds of the training, if there was one here."""
        self.epochs = 0
        """Its epochs."""
        self.spared_s = 0.0
        """Seconds of the training that was done before, if it was."""
        self.checkpoint: Checkpoint | None = None
        """Where the training stands, if it was halted."""

    def reshape(self, steps: Sequence[tuple[Method, Mapping[str, Any]]], known: Mapping[str, Plan]) -> None:
        """Decide and reshape, step by step; what is `known` was decided before, by method.

        Each step draws from the same seed: what it does must not depend on what others before it drew.
        """
        for method, params in steps:
            self.on_step(method.name)
            seed_all(self._seed)
            plan = known[method.name] if method.name in known else method.decide(self.model, params, self.task)
            planned = PlannedStep(method, plan)
            self.steps.append(planned)
            before, weights = Snapshot.of(self.model), weights_of(self.model)
            student = method.student(planned.plan, self.task)
            if student is not None:
                self.model, self.student = student, planned.plan["student"]
            self.model = method.reshape(self.model, planned.plan)
            change = compare(before, self.model, method.name, "reshape")
            self.guard.saves(method, before.file_bytes - file_bytes(leaves(self.model)))
            skipped = dict(method.skipped(self.model, planned.plan))
            if not method.overrides("finalize", "pack"):
                skipped |= left_alone(method, weights, leaves(self.model), skipped)
            self.guard.note(replace(change, skipped=skipped))
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
                self.guard.trains(step.method)
            elif not step.method.overrides("finalize", "pack"):
                self.guard.check(step.method, step.plan, self.model)
        self.on_step("")
        return found

    def train(
        self,
        losses: Sequence[Loss],
        recovery: Recovery,
        begun: Trained | None,
        until: Callable[[int], int | None],
        *,
        device: torch.device,
        lock: DeviceLock,
    ) -> None:
        """Train, from where it was halted if it was, and maybe not to the end."""
        start = time.monotonic()
        seed_all(self._seed)
        checkpoint = begun.checkpoint if begun else None
        done = checkpoint.epochs if checkpoint else 0
        whole = any(step.method.overrides("schedule") for step in self.steps)
        try:
            self.model = train(
                self.model, losses or [TaskLoss(self.task.loss)], self.task, recovery,
                device=device, seed=self._seed, lock=lock, schedules=self.schedules,
                start=checkpoint, until=None if whole else until(done),
            )  # fmt: skip
        except Halted as halted:
            self.checkpoint = halted.checkpoint
        self.training_s, self.spared_s = time.monotonic() - start, begun.seconds if begun else 0.0
        self.epochs = (self.checkpoint.epochs if self.checkpoint else recovery.epochs) - done

    @property
    def seconds(self) -> float:
        """What the training took so far, here and before."""
        return self.training_s + self.spared_s

    def trained(self) -> Trained:
        """What whoever goes on needs: others with the same prefix, and whoever halted the training."""
        plans = {step.method.name: step.plan for step in self.steps if step.method.needs_training}
        if self.checkpoint is not None:
            return Trained(plans, self.checkpoint.tensors, self.seconds, self.checkpoint.state)
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in leaves(self.model).items()}
        return Trained(plans, tensors, self.seconds)

    def resume(self, trained: Trained) -> None:
        """Go on after a training that was done elsewhere."""
        load_leaves(self.model, trained.tensors)
        self.model.eval()
        self.spared_s = trained.seconds

    def schedules(self) -> list[Schedule]:
        """What methods do to the model from step to step of its training."""
        found = []
        for step in self.steps:
            self.on_step(step.method.name)
            schedule = step.method.schedule(self.model, step.plan)
            if schedule is not None:
                found.append(schedule)
        self.on_step("")
        return found

    def finalize(self, target: Target) -> None:
        self.model = self.model.to(target.torch_device).eval()
        inputs = to_device(self.task.inputs(COMPARED_SAMPLES), target.torch_device)
        for step in self.steps:
            self.on_step(step.method.name)
            if step.method.overrides("finalize", "pack"):
                self._finalize_step(step, target, inputs)
            self.guard.check(step.method, step.plan, self.model)
        self.on_step("")

    def _finalize_step(self, step: PlannedStep, target: Target, inputs: Any) -> None:
        """Also packs what came of it, to see what that does; what the step left alone is told once."""
        method = step.method
        before, expected, weights = Snapshot.of(self.model), outputs(self.model, inputs), weights_of(self.model)
        self.model = method.finalize(self.model, step.plan, self.task, target).eval()
        change = compare(before, self.model, method.name, "finalize")
        given = outputs(self.model, inputs)
        error = output_error(given, expected)
        if math.isinf(error) and any(tensor.isnan().any() for tensor in given):
            raise NotANumber(f"{method.name} makes outputs NaN when it finalizes, which were numbers before")
        if error > method.max_output_error:
            raise OutputsDiffer(
                f"{method.name} must not change the outputs by more than {method.max_output_error:.2g}"
                f" of their RMS when it finalizes, but did by {error:.2g}"
            )
        tensors = {name: tensor.cpu() for name, tensor in leaves(self.model).items()}
        packed = method.pack(dict(tensors), step.plan)
        self.guard.saves(method, before.file_bytes - file_bytes(packed))
        skipped = dict(method.skipped(self.model, step.plan))
        skipped |= left_alone(method, weights, packed, skipped)
        told = self.guard.note(replace(change, output_error=error, skipped=skipped))
        if method.overrides("pack"):
            self.guard.note(replace(_packing(method, tensors, packed), skipped={} if told else skipped))

    def __deepcopy__(self, memo: dict[int, Any]) -> Compression:
        """A copy with a model of its own; task, plans and methods never change and are shared."""
        twin = copy.copy(self)
        twin.model = with_own_classes(copy.deepcopy(self.model, memo))
        twin.steps, twin.guard = list(self.steps), copy.deepcopy(self.guard)
        return twin


def with_own_classes(model: nn.Module) -> nn.Module:
    """The model, with classes of its own for what is parametrized.

    torch gives such a module a class with a property for each of its parametrized tensors, takes them away with the
    parametrization, and has copies share it: taken away from one of them, all others would be left without.
    """
    for module in model.modules():
        if is_parametrized(module):
            kind = type(module)
            own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, own)
    return model


def _packing(method: Method, tensors: Mapping[str, Tensor], packed: Mapping[str, Tensor]) -> Change:
    before, after = byte_count(tensors), byte_count(packed)
    changed = len(tensors.keys() ^ packed.keys()) if after < before else 0
    return Change(method.name, "pack", changed, 0, before, after)


def rebuild(model: nn.Module, steps: Sequence[PlannedStep], target: Target) -> nn.Module:
    """The structure that `compress` left, made of a model with the original structure; the tensors hold any values."""
    for step in steps:
        model = step.method.reshape(model, step.plan)
    model = model.to(target.torch_device).eval()
    for step in steps:
        model = step.method.restore(model, step.plan, target)
    return model.eval()


def unpack(stored: dict[str, Tensor], model: nn.Module, steps: Sequence[PlannedStep]) -> dict[str, Tensor]:
    """The tensors of a rebuilt model, from what `Compressed.tensors` gave."""
    like = leaves(model)
    for step in reversed(steps):
        stored = step.method.unpack(stored, like, step.plan)
    return stored


def runtime_step(steps: Sequence[PlannedStep]) -> PlannedStep | None:
    """The step whose method saves and loads the model itself, if there is one."""
    return next((step for step in steps if step.method.overrides("load")), None)
