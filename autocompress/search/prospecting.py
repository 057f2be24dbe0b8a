"""Before the first trial: each method alone on the trained model, and what cannot help is left out."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from autocompress.compress import Compression, seed_all
from autocompress.errors import first_line
from autocompress.measure.probe import probe_device
from autocompress.method import Method, NoEffect, NotApplicable, Technique
from autocompress.plugins import Registry, registry
from autocompress.prospect import Look, Prospect
from autocompress.recipe import Recipe, Step
from autocompress.search.finals import cost_of
from autocompress.search.screening import ship_copies
from autocompress.search.shipped import largest_bytes, latency, latency_scores
from autocompress.search.trial import TrialContext
from autocompress.space import BoundSpace
from autocompress.task import Task

LATENCY_S = 1.0
"""The longest that one latency measurement may take: it need not tell by how much a method helps."""
HARDWARE_S = 3.0
"""For each target, to know its peaks well enough to say what binds the model."""
MOST_SHARE = 1 / 6
"""The share of the time that one method may take at one setting."""
SIZES_SHARE = 1 / 6
"""The share of the time that it may take to see how small methods that help can make the model."""
SCRATCH = ".probe"
TIME_UP = "the time was up"


class Looks(Protocol):
    """Who looks at a model: a process of its own, which may take too long or die."""

    def model(self, seconds: float) -> dict[str, Any] | str:
        """`size_bytes` and, by target, `bounds` of the untouched model; or why they are not known."""
        ...

    def method(self, step: Step, seconds: float) -> Look | str:
        """What a method does alone, or why that is not known."""
        ...

    def size(self, step: Step, seconds: float) -> float | str:
        """Bytes of what a method alone would ship, infinite if that is nothing; or why they are not known."""
        ...


class Prospector:
    """Looks in this process, which keeps the baseline at hand."""

    def __init__(self, context: TrialContext) -> None:
        torch.set_num_threads(context.targets[0].threads)
        self._context = context.with_trained_model()
        self._baselines = self._context.baselines()
        self._scratch = context.run / "trials" / SCRATCH

    def model(self, seconds: float) -> dict[str, Any]:
        """As `Looks.model` has it; of the seconds for all looks, a twentieth goes to each target's hardware."""
        task, targets = self._context.task, self._context.targets
        try:
            ship_copies(self._compression(Recipe()), Recipe(), self._scratch, task, targets)
            size = largest_bytes(self._scratch, targets)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        bounds = {
            str(t): cost_of(self._baselines[t.device], task, t, probe_device(t, min(HARDWARE_S, seconds / 20)).plain())
            for t in targets
        }
        return {"size_bytes": size, "bounds": bounds}

    def method(self, step: Step) -> Look:
        """What a method does alone, without training."""
        start = time.monotonic()
        shutil.rmtree(self._scratch, ignore_errors=True)  # of a process that was stopped
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                found: dict[str, Any] = {"scores": self._scores(Recipe(steps=(step,)))}
        except NoEffect:
            found = {"no_effect": True}
        except NotApplicable as reason:
            found = {"impossible": str(reason)}
        except Exception as error:  # plugins' code
            found = {"failure": first_line(error)}
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        return Look(step.params, **found, seconds=time.monotonic() - start)

    def size(self, step: Step) -> float:
        """Bytes of what a method alone would ship without training; infinite where it has no effect or fails."""
        recipe = Recipe(steps=(step,))
        shutil.rmtree(self._scratch, ignore_errors=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                ship_copies(self._compression(recipe), recipe, self._scratch, self._context.task, self._context.targets)
            return float(largest_bytes(self._scratch, self._context.targets))
        except Exception:  # plugins' code
            return math.inf
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _scores(self, recipe: Recipe) -> dict[str, float]:
        """Of what would ship without training."""
        task, targets, seconds = (
            self._context.task,
            self._context.targets,
            min(LATENCY_S, self._context.latency_seconds),
        )
        models = ship_copies(self._compression(recipe), recipe, self._scratch, task, targets)
        latencies = {str(target): latency(models, self._baselines, task, target, seconds) for target in targets}
        return {"size_bytes": float(largest_bytes(self._scratch, targets)), **latency_scores(latencies)}

    def _compression(self, recipe: Recipe) -> Compression:
        seed_all(self._context.seed)
        work = Compression(self._context.task, lambda method: None, self._context.seed)
        work.reshape([(registry().get(step.method), step.params) for step in recipe.steps], {})
        return work


def prospect(
    looks: Looks,
    space: BoundSpace,
    plugins: Registry,
    context: TrialContext,
    kept: Collection[str],
    seconds: float,
    tell: Callable[[str], None] = lambda method: None,
) -> Prospect | str:
    """Looks at every method of the space for at most so many seconds, or says why that is not possible.

    First all at their defaults, one of each technique after the other, formats and runtimes before structure, machine
    code last; then those that were no gain at the ends of their parameters. Last comes the size at these ends of those
    that make the model smaller, the best of them first, and of machine code not at all; and the time where they make it
    smallest. `tell` hears the name of each. The methods in `kept` are left out in no case.
    """
    start = time.monotonic()
    model = looks.model(seconds)
    if isinstance(model, str):
        return model
    methods = _in_order([plugins.get(name) for name in space.parameters])
    nothing = Prospect(
        targets=tuple(map(str, context.targets)),
        baseline_bytes=model["size_bytes"],
        looks={},
        unknown={method.name: unseen(method) for method in methods if unseen(method)},
        kept=tuple(kept),
        bounds=model["bounds"],
        samples=samples(context.task),
        seconds=0.0,
    )
    probe = _Probe(looks, nothing, start + seconds, MOST_SHARE * seconds)
    for first, last in ((0, 1), (1, None)):
        for name in (method.name for method in methods):
            if not (probe.is_settled(name) or (first and name in kept)):
                tell(name)
                probe.look(name, itertools.islice(space.settings(name), first, last))
    found = replace(nothing, looks=probe.seen, unknown=nothing.unknown | probe.unknown)
    end, ends = (
        min(start + seconds, time.monotonic() + SIZES_SHARE * seconds),
        dict[str, tuple[float, dict[str, Any]]](),
    )
    for name in (name for name in found.smaller if not plugins.get(name).native_code):
        tell(name)
        smallest = probe.smallest(name, space.settings(name), end)
        if smallest is not None:
            ends[name] = smallest
    timed = {}
    for name, (_, params) in ends.items():
        tell(name)
        look = probe.timed(name, params)
        if look is not None:
            timed[name] = look
    least = {name: size for name, (size, _) in ends.items()}
    return replace(found, least_bytes=least, smallest=timed, seconds=time.monotonic() - start)


class _Probe:
    """What was seen so far, until the time is up."""

    def __init__(self, looks: Looks, nothing: Prospect, end: float, longest: float) -> None:
        self._looks, self._nothing, self._end, self._longest = looks, nothing, end, longest
        self.seen: dict[str, tuple[Look, ...]] = {}
        self.unknown: dict[str, str] = {}

    def is_settled(self, name: str) -> bool:
        """Whether no further look at a method could say more: it helps, cannot be known, or cannot act."""
        is_unknown = name in self.unknown or name in self._nothing.unknown
        return is_unknown or any(look.impossible or self._nothing.helps(look) for look in self.seen.get(name, ()))

    def look(self, name: str, settings: Iterable[dict[str, Any]]) -> None:
        """At the settings, one after the other, until that settles it."""
        for params in settings:
            left = self._end - time.monotonic()
            if left <= 0:
                self.unknown[name] = TIME_UP
                return
            look = self._looks.method(Step(method=name, params=params), min(left, self._longest))
            if isinstance(look, str):
                self.unknown[name] = look if time.monotonic() < self._end else TIME_UP
                return
            self.seen[name] = (*self.seen.get(name, ()), look)
            if look.failure:
                self.unknown[name] = f"it failed: {look.failure}"
            if self.is_settled(name):
                return

    def smallest(
        self, name: str, settings: Iterable[dict[str, Any]], end: float
    ) -> tuple[float, dict[str, Any]] | None:
        """The smallest size at the settings, and where that is; None where it is not known of all by `end`."""
        sizes = []
        for params in settings:
            seen = [look.scores.get("size_bytes", math.inf) for look in self.seen[name] if look.params == params]
            left = end - time.monotonic()
            if not seen and left <= 0:
                return None
            size = seen[0] if seen else self._looks.size(Step(method=name, params=params), left)
            if isinstance(size, str):
                return None
            sizes.append((size, params))
        return min(sizes, key=lambda each: each[0])

    def timed(self, name: str, params: dict[str, Any]) -> Look | None:
        """A look at one setting with its times, one that was made before if there is one; None where time is up."""
        for look in self.seen[name]:
            if look.params == params:
                return look
        left = self._end - time.monotonic()
        made = self._looks.method(Step(method=name, params=params), min(left, self._longest)) if left > 0 else None
        return made if isinstance(made, Look) and made.scores else None


def _in_order(methods: Sequence[Method]) -> list[Method]:
    position: Counter[Technique] = Counter()
    places = {}
    for method in methods:
        places[method.name] = (method.native_code, method.needs_training, position[method.technique])
        position[method.technique] += 1
    return sorted(methods, key=lambda method: places[method.name])


def unseen(method: Method) -> str:
    """Why what a method does cannot be seen without training; empty where it can."""
    if method.overrides("schedule"):
        return "what it does comes with training"
    return "" if not method.overrides("loss") or method.overrides("reshape", "student") else "it acts while training"


def samples(task: Task) -> dict[str, int]:
    """By split, of those that the task has."""
    splits = {name: getattr(task, name) for name in ("train", "validation", "test", "calibration", "unlabelled")}
    return {name: len(data) for name, data in splits.items() if data is not None and len(data)}
