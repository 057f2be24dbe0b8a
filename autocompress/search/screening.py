"""Screening: a trial that its size or latency rules out ends before it is trained."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from autocompress.artifact import write_model
from autocompress.compress import Compression, finalize
from autocompress.errors import first_line
from autocompress.folders import device_folder
from autocompress.limits import Limit, Scores
from autocompress.measure.device import Target
from autocompress.plugins import registry
from autocompress.recipe import Recipe
from autocompress.search.shipped import by_device, largest_bytes, latency, latency_scores, load_shipped
from autocompress.task import Task

SECONDS = 0.5
"""The longest that a latency measurement may take here: it need not tell who is better, only who is hopeless."""
SIZE_ERROR = 0.02
"""How much smaller than its untrained copy a model may be, as a share."""
AHEAD = 0.1
"""How much smaller and faster, as a share, a rival must be to rule a trial out."""
LEAST_SEEN = 10
"""Trials within the limits before one of them can rule another out: until then the best quality means little."""


@dataclass(frozen=True)
class Hurdles:
    """What is known when a trial is proposed."""

    baseline: Scores
    rivals: tuple[Scores, ...] = ()
    """The trials within all limits whose quality nothing scored so far exceeds, be it the baseline or beyond a limit:
    what might be better than all of these may be as good as that. None while few were seen."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Hurdles:
        data: dict[str, Any] = json.loads(text)
        return cls(data["baseline"], tuple(data["rivals"]))


class Screened(Exception):
    """The trial is hopeless, and why; with the size and latency that were measured."""

    def __init__(self, reason: str, scores: dict[str, float]) -> None:
        super().__init__(reason)
        self.reason, self.scores = reason, scores


class Screening:
    """Looks at what would ship if it were not trained, in one worker process.

    A recipe is hopeless when a limit on size or time is broken with all that measuring may be off by: the whole 95 %
    interval and the resolution of the A/A run, and 2 % of the size; an absolute latency also with how much slower than
    usual the baseline was in the same rounds. It is hopeless as well when it could not enter the front even with the
    best quality of all that was scored, the baseline and what breaks a limit included: then a trial within the limits
    that has that quality is at least 10 % smaller and, on every target and beyond the interval, 10 % faster.

    Not looked at are recipes whose weights become zero while training, since their size says nothing before; machine
    code that this process has not compiled yet; and what took longer to screen before than training would take. How it
    is finalized tells what that took; the median over others, where it was not screened yet. What fails to finalize
    without training is trained: it may be the training that it needs.
    """

    def __init__(self, task: Task, targets: Sequence[Target], limits: Sequence[Limit], seconds: float) -> None:
        self._task, self._targets, self._limits = task, targets, limits
        self._latency_s = min(SECONDS, seconds)
        self._screened_s: dict[tuple[str, ...], float] = {}
        self._finalized_s: dict[tuple[str, ...], float] = {}
        self._trained_s, self._epochs, self._warm = 0.0, 0, False

    def trained(self, seconds: float, epochs: int) -> None:
        """Told of every training of this process, or part of one, to know whether screening is worth its time.

        The first one does not count: a process takes long over what it does for the first time.
        """
        if self._warm:
            self._trained_s += seconds
            self._epochs += epochs
        self._warm = True

    def finalized(self, work: Compression, seconds: float) -> None:
        """Told how long each recipe's finalizers took, for the same reason."""
        self._finalized_s.setdefault(_finalizers(work), seconds)

    def __call__(
        self,
        work: Compression,
        recipe: Recipe,
        hurdles: Hurdles,
        baselines: Callable[[], Mapping[str, nn.Module]],
        scratch: Path,
    ) -> dict[str, float]:
        """Size and latency, unless it was not worth while to measure them; raises Screened if the recipe is hopeless.

        `work` is left as it is, and so is the folder `scratch`.
        """
        reason = self._not_worth_it(work, recipe.recovery.epochs)
        if reason:
            print(f"not screened: {reason}")
            return {}
        start = time.monotonic()
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the trial's log hears of its steps when they count
                models = ship_copies(work, recipe, scratch, self._task, self._targets)
            scores = {"size_bytes": float(largest_bytes(scratch, self._targets))}
            self._judge(scores, hurdles)
            scores |= self._timed(models, baselines())
            self._judge(scores, hurdles)
            return scores
        except Screened:
            raise
        except Exception as error:  # plugins' code on a model that was not trained
            print(f"not screened: {first_line(error)}")
            return {}
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            self._screened_s[_finalizers(work)] = time.monotonic() - start

    def _not_worth_it(self, work: Compression, epochs: int) -> str:
        methods = [step.method for step in work.steps]
        if any(method.overrides("schedule") for method in methods):
            return "its size comes with training"
        took = self._took_s(_finalizers(work))
        if took is None and any(method.native_code for method in methods):
            return "it has machine code to compile"
        if took is None and self._screened_s:
            took = median(self._screened_s.values())
        if took is not None and self._epochs and took > self._trained_s / self._epochs * epochs:
            return f"that takes {took:.1f} s, and training takes less"
        return ""

    def _took_s(self, finalizers: tuple[str, ...]) -> float | None:
        """What such recipes took to screen, or at least to finalize."""
        return self._screened_s.get(finalizers, self._finalized_s.get(finalizers))

    def _timed(self, models: Mapping[str, nn.Module], baselines: Mapping[str, nn.Module]) -> dict[str, float]:
        return latency_scores(
            {str(target): latency(models, baselines, self._task, target, self._latency_s) for target in self._targets}
        )

    def _judge(self, scores: dict[str, float], hurdles: Hurdles) -> None:
        hoped = at_best(scores, hurdles.baseline)
        for limit in self._limits:
            if judgeable(limit, scores) and limit.violation(hoped, hurdles.baseline) > 0:
                raise Screened(f"untrained, its {limit.miss(scores, hurdles.baseline)}", scores)
        if any(is_ahead(rival, hoped) for rival in hurdles.rivals):
            raise Screened("a trial with the best quality so far is smaller and faster", scores)


def ship_copies(
    work: Compression, recipe: Recipe, scratch: Path, task: Task, targets: Sequence[Target]
) -> dict[str, nn.Module]:
    """What would ship now, by device, as it is loaded from the folder that it was written to; `work` stays as it is."""
    for first, *_ in by_device(targets):
        folder = device_folder(scratch, first.device, targets[0].device)
        folder.mkdir(parents=True)
        write_model(folder, finalize(work, first, keep=True), recipe, first, registry())
    return load_shipped(scratch, work.student, task, targets)


def judgeable(limit: Limit, scores: Scores) -> bool:
    """Whether a limit can be judged by a size and, if it was measured, a latency."""
    if limit.metric is not None:
        return False
    if limit.subject == "size":
        return limit.upper
    return limit.upper == (limit.subject == "latency") and all(f"speedup{end}" in scores for end in limit.suffixes)


def at_best(scores: Scores, baseline: Scores) -> dict[str, float]:
    """The scores with all that measuring may be off by in their favour, also that the machine is slow just now."""
    best = dict(scores) | {"size_bytes": scores["size_bytes"] * (1 - SIZE_ERROR)}
    for end in _ends(scores):
        best[f"speedup{end}"] = scores[f"speedup_high{end}"] * (1 + scores[f"resolution{end}"])
    return best | usual_latencies(best, baseline)


def usual_latencies(scores: Scores, baseline: Scores) -> dict[str, float]:
    """Those that follow from the speedups and the baseline's usual latencies, or its latest ones where those are less:
    what was measured in a slow moment of the machine says little of an absolute latency.
    """
    latest = {end: scores[f"baseline_latency_ms{end}"] for end in _ends(scores)}
    return {
        f"latency_ms{end}": min(baseline_ms, baseline[f"latency_ms{end}"]) / scores[f"speedup{end}"]
        for end, baseline_ms in latest.items()
    }


def is_ahead(rival: Scores, hoped: Scores) -> bool:
    """Whether a rival is clearly smaller and clearly faster on every target; not where latency was not measured."""
    names = [f"speedup{end}" for end in _ends(hoped)]
    smaller = rival["size_bytes"] <= (1 - AHEAD) * hoped["size_bytes"]
    return bool(names) and smaller and all((1 - AHEAD) * rival[name] >= hoped[name] for name in names)


def _ends(scores: Scores) -> list[str]:
    """What the names of the scores of each target end in, if latency was measured."""
    return [name.removeprefix("speedup") for name in scores if name == "speedup" or name.startswith("speedup[")]


def _finalizers(work: Compression) -> tuple[str, ...]:
    return tuple(step.method.name for step in work.steps if step.method.overrides("finalize", "pack"))
