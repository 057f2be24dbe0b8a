"""What the methods share that compare what layers give inside the models."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autocompress import Float, Loss, Method, NotApplicable, Parameter, Plan, Target, Task, Technique
from autocompress.data import batches
from autocompress.method import NoEffect
from autocompress.tensors import call
from autocompress_distillation.outputs import tensors_of
from autocompress_distillation.teacher import TeacherLoss, Teachers

_MOST_LAYERS = 4
_SAMPLES = 4


class FeatureMethod(Method):
    """Learns from what a few layers of the teachers give, spread over the depth; the layers have the same names."""

    technique = Technique.DISTILLATION
    needed: ClassVar[str]
    """The layers that it can compare, in words."""
    fewest_layers: ClassVar[int] = 1
    usual_weight: ClassVar[float] = 1.0

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`weight`: of the distance, which is added to the task's own loss."""
        return {"weight": Float(0.1, 100.0, default=self.usual_weight, log=True)}

    def fits(self, feature: Tensor) -> bool:
        """Whether it can compare what a layer gives."""
        raise NotImplementedError

    def feature_loss(self, task: Task, weight: float, layers: list[str]) -> FeatureLoss:
        raise NotImplementedError

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable when model and teachers have no such layers in common."""
        count = len(self.layers(task.trained_model(), task))
        if count < self.fewest_layers:
            raise NotApplicable(f"{self.name} compares {self.needed}, but the model shares {count} with its teachers")

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """Which layers. Raises NoEffect when a student of another make shares none with the teachers."""
        layers = self.layers(model, task)
        if len(layers) < self.fewest_layers:
            raise NoEffect(f"{self.name} compares {self.needed}, but the model shares {len(layers)} with its teachers")
        return {"weight": params["weight"], "layers": spread(layers)}

    def loss(self, plan: Plan, task: Task) -> Loss:
        return self.feature_loss(task, plan["weight"], plan["layers"])

    def layers(self, model: nn.Module, task: Task) -> list[str]:
        """All layers that fit, in the order in which they run, by the names that they have in model and teachers."""
        first, *others = [features(each, task) for each in (model, *Teachers(task).models)]
        return [
            name
            for name, feature in first.items()
            if self.fits(feature) and all(name in other and self.fits(other[name]) for other in others)
        ]


class FeatureLoss(TeacherLoss):
    """The task's own loss + `weight` x the mean distance over layers and teachers."""

    def __init__(self, task: Task, weight: float, layers: list[str]) -> None:
        super().__init__(task, weight, own_weight=1.0)
        self.layers = layers
        self._taught = [Taps(teacher, layers) for teacher in self.teachers.models]
        self._own: Taps | None = None

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """A scalar, from what a layer gives in both."""
        raise NotImplementedError

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        missing = set(self.layers) - {name for name, _ in model.named_modules()}
        if missing:
            raise NoEffect(f"the loss compares layers {sorted(missing)}, which another step took from the model")
        self._own = Taps(model, self.layers)

    def detach(self) -> None:
        super().detach()
        if self._own is not None:
            self._own.remove()
            self._own = None

    def teach(self, inputs: Any, outputs: Any, targets: Any | None, rows: Tensor | None) -> Tensor:
        if self._own is None:
            raise RuntimeError("a loss of features is attached to the model that is trained before its first batch")
        self.teachers(inputs, self.paths)
        student = self._own.take()
        pairs = [(student[name], feature) for taps in self._taught for name, feature in taps.take().items()]
        return torch.stack([self.distance(*pair) for pair in pairs]).mean()


class Taps:
    """Hooks that keep what layers of a model gave last."""

    def __init__(self, model: nn.Module, layers: list[str]) -> None:
        self._given: dict[str, Tensor] = {}
        self._handles = [
            model.get_submodule(name).register_forward_hook(functools.partial(self._keep, name)) for name in layers
        ]

    def take(self) -> dict[str, Tensor]:
        """What was given since the last time, by layer."""
        given, self._given = self._given, {}
        return given

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        # The first tensor is the feature: of an LSTM the outputs, not the states; of packed sequences all steps.
        tensor = next(iter(tensors_of(output).values()), None)
        if tensor is not None:
            self._given.pop(name, None)  # a layer that runs again takes its place in the order again
            self._given[name] = tensor


def features(model: nn.Module, task: Task) -> dict[str, Tensor]:
    """What each layer gives for a few samples (B or more, ...), in the order in which they run.

    Without what is the same for any samples (tables of positions), what layers only pass on, and the model's outputs.
    Raises NotApplicable for a single sample.
    """
    if len(task.train) < 2:
        raise NotApplicable("features are compared between samples, but the training data have one sample")
    count = max(1, min(_SAMPLES, len(task.train) // 2))
    loader = iter(batches(task.train, count, collate=task.collate))
    taps = Taps(model, [name for name, _ in model.named_modules() if name])
    try:
        with torch.no_grad():
            outputs = call(model, next(loader)[0])
            given = taps.take()
            call(model, next(loader)[0])
            others = taps.take()
    finally:
        taps.remove()
    seen = {_storage(tensor) for tensor in tensors_of(outputs).values()}
    found = {}
    for name, tensor in given.items():
        if tensor.is_floating_point() and tensor.ndim > 1 and len(tensor) >= count and _storage(tensor) not in seen:
            seen.add(_storage(tensor))
            if name in others and not torch.equal(tensor, others[name]):
                found[name] = tensor
    return found


def spread(layers: list[str]) -> list[str]:
    """A few of them at equal distances, the last one included."""
    count = min(_MOST_LAYERS, len(layers))
    return [layers[(place + 1) * len(layers) // count - 1] for place in range(count)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
