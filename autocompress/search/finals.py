"""The finalists judged once more, in a fresh process, beside what the hardware and free acceleration can do."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autocompress.artifact import Artifact
from autocompress.damage import damage, explanation_similarity, representation_similarity
from autocompress.data import take
from autocompress.errors import first_line
from autocompress.final import Final
from autocompress.folders import trial_folder
from autocompress.limits import Limit
from autocompress.measure.accuracy import Answers, answers, scores_of
from autocompress.measure.cost import model_cost
from autocompress.measure.device import Target
from autocompress.measure.free import fastest_free
from autocompress.measure.lock import DeviceLock
from autocompress.measure.probe import DeviceLimits, probe_device
from autocompress.measure.roofline import bounds
from autocompress.measure.size import size_breakdown
from autocompress.metric import Metric
from autocompress.search.shipped import by_device, latency, latency_scores, load_shipped, plain, worst
from autocompress.search.trial import TrialContext
from autocompress.task import Task
from autocompress.tensors import to_device

EXPLAINED_SAMPLES = 128


class Judge:
    """Judges finalists in one process, which keeps the baseline and its answers at hand."""

    def __init__(self, context: TrialContext, limits: Sequence[Limit]) -> None:
        torch.set_num_threads(context.targets[0].threads)
        self._context = context.with_trained_model()
        self._margin = margin(limits, context.task.objective)
        self._baselines = self._context.baselines()

    def judge(self, number: int, surroundings: Mapping[str, Any]) -> Final | str:
        """A trial's final figures, or why there are none, which is the user's data, metrics or model."""
        try:
            return self._judge(number, surroundings)
        except Exception as error:
            return first_line(error)

    def surroundings(self, seconds: float) -> dict[str, Any]:
        """What each target's hardware can do at most for the baseline, and what free acceleration does for it."""
        return {str(target): self._surroundings(target, seconds) for target in self._context.targets}

    def _judge(self, number: int, surroundings: Mapping[str, Any]) -> Final:
        context, task, targets = self._context, self._context.task, self._context.targets
        folder = trial_folder(context.run, number)
        artifact = Artifact(folder)
        models = load_shipped(folder, artifact.student, task, targets)
        found = {
            first.device: answers(models[first.device], task.test, task, first) for first, *_ in by_device(targets)
        }
        latencies = {
            str(target): latency(models, self._baselines, task, target, context.latency_seconds) for target in targets
        }
        final = Final(
            test_scores=worst([scores_of(each, task.metrics) for each in found.values()], task.metrics),
            scores=latency_scores(latencies),
            latency=plain(latencies),
            size=size_breakdown(folder).plain(),
            costs={
                str(target): cost_of(
                    models[target.device], task, target, surroundings.get(str(target), {}).get("limits")
                )
                for target in targets
            },
        )
        if not artifact.recipe.steps and not artifact.recipe.recovery.epochs:
            return final
        return self._with_damage(final, found[targets[0].device], models[targets[0].device])

    def _with_damage(self, final: Final, found: Answers, model: nn.Module) -> Final:
        """On the first target's device."""
        task, device = self._context.task, self._context.targets[0]
        before = self._answers
        inputs = to_device(take(task.test, EXPLAINED_SAMPLES, task.collate), device.torch_device)
        baseline = self._baselines[device.device]
        with DeviceLock(device).shared():
            explanations = explanation_similarity(baseline, model, inputs, EXPLAINED_SAMPLES)
            representations = representation_similarity(baseline, model, inputs, EXPLAINED_SAMPLES)
        return replace(
            final,
            damage=damage(before.outputs, found.outputs, found.targets, task.metrics, self._margin).plain(),
            explanations=explanations.plain(),
            representations=representations.plain(),
        )

    @functools.cached_property
    def _answers(self) -> Answers:
        """The baseline's on the test split."""
        target = self._context.targets[0]
        return answers(self._baselines[target.device], self._context.task.test, self._context.task, target)

    def _surroundings(self, target: Target, seconds: float) -> dict[str, Any]:
        baseline = self._baselines[target.device]
        task, limits = self._context.task, probe_device(target, seconds / 2).plain()
        found = {"limits": limits, "baseline": cost_of(baseline, task, target, limits)}
        inputs = task.inputs(target.batch_size)
        return found | {"free": fastest_free(baseline, inputs, target, seconds / 2).plain()}


def cost_of(model: nn.Module, task: Task, target: Target, limits: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a batch costs, and the least that the hardware could take for it, where its limits are known."""
    inputs = to_device(task.inputs(target.batch_size), target.torch_device)
    try:
        cost = model_cost(model, inputs)
        found: dict[str, Any] = {"cost": cost.plain()}
        if limits is not None:
            found["bounds"] = bounds(cost, DeviceLimits(**limits), product_type(target)).plain()
    except Exception as error:  # a model of another runtime, or one that cannot be looked into
        return {"unknown": first_line(error)}
    return found


def margin(limits: Sequence[Limit], objective: Metric) -> float | None:
    """How much quality may drop, in 0-1, where the limits say so: fixed before any answer was seen."""
    drop = f"{objective.name}_drop"
    allowed = [limit.bound for limit in limits if limit.subject == drop and limit.upper]
    return min(allowed) if allowed and objective.is_share and 0 < min(allowed) < 1 else None


def product_type(target: Target) -> str:
    """The type in which the untouched model's products run."""
    if target.is_cuda and torch.backends.cudnn.allow_tf32:
        return "tf32"
    return "float32"
