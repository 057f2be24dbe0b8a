"""One trial, in a worker process: compress, save, load what was saved, score it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import torch
from torch import nn

from autocompress.artifact import RECIPE_FILE, seal, write_model
from autocompress.compress import Compressed, Compression, finalize, seed_all, train_recipe
from autocompress.errors import first_line
from autocompress.folders import device_folder, partial_folder, publish, trial_folder
from autocompress.limits import Limit
from autocompress.measure.accuracy import NotANumber
from autocompress.measure.device import Target
from autocompress.method import NoEffect, OutputsDiffer
from autocompress.outcome import OK, SCREENED, STOPPED, Outcome, failure
from autocompress.plugins import registry
from autocompress.prefix import prefix_of
from autocompress.recipe import Recipe
from autocompress.rungs import rungs_of
from autocompress.search.prefixes import StoreAccess, StoredPrefixes
from autocompress.search.progress import Progress, rung_score
from autocompress.search.screening import Hurdles, Screened, Screening
from autocompress.search.shipped import by_device, largest_bytes, load_shipped, plain, score_shipped
from autocompress.search.watchdog import Watchdog
from autocompress.sensitivity import kept_in
from autocompress.task import Task

CAUSE_OF: dict[type[Exception], str] = {NoEffect: "no_effect", OutputsDiffer: "outputs_differ", NotANumber: "nan"}
HANG_FILE, ERROR_FILE, LOG_FILE, OUTCOME_FILE = "hang.txt", "error.json", "log.txt", "outcome.json"
PROFILES = "profiles"
"""The folder of a run with the sensitivities of layers, which all its trials share."""


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a search share; sent once to each worker."""

    task: Task
    targets: tuple[Target, ...]
    run: Path
    seed: int
    minutes_per_trial: float | None
    latency_seconds: float
    store: StoreAccess | None = None
    """Where trained prefixes are kept; None for nowhere."""
    limits: tuple[Limit, ...] = ()
    """What trials are screened for."""
    stopping: bool = False
    """Whether trials halt at rungs."""

    def with_trained_model(self) -> TrialContext:
        """With the trained model itself in place of its factory, so that a process builds it once."""
        return replace(self, task=replace(self.task, model=self.task.trained_model(), weights=None))

    def baselines(self) -> dict[str, nn.Module]:
        """The trained model, by device."""
        firsts = [first for first, *_ in by_device(self.targets)]
        return {first.device: self.task.trained_model().to(first.torch_device) for first in firsts}


class TrialFailed(Exception):
    """The trial failed and its folder says how; raised so that its process is not used again."""


class TrialRunner:
    """Carries out trials in one process, which keeps the baseline at hand."""

    def __init__(self, context: TrialContext) -> None:
        self._shared = context
        self._acting = ""
        self._progress = Progress(-1)
        self._watchdog = Watchdog(context.minutes_per_trial)

    def run(self, number: int, recipe: Recipe, hurdles: Hurdles | None = None) -> Outcome:
        """The outcome, with the trial's folder complete; raises TrialFailed after a failure was written there.

        Without hurdles it is not screened. A trial that is `stopped` is at a rung: it goes on when it is run again, and
        else its folder is left for who decides that to finish.
        """
        folder = partial_folder(self._shared.run, number)
        if number != self._progress.number:
            self._progress = Progress(number)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        started = time.monotonic()
        self._acting = ""
        watching = self._watchdog.watching(folder / HANG_FILE, self._progress.spent_s)
        with _logging_to(folder / LOG_FILE) as log, watching, kept_in(self._shared.run / PROFILES):
            try:
                outcome = self._carry_out(folder, recipe, hurdles)
            except Screened as end:
                print(f"screened: {end.reason}", file=log)
                spent_s, left = time.monotonic() - started, recipe.recovery.epochs
                outcome = Outcome(SCREENED, end.scores, end.reason, work_s=spent_s, epochs_left=left)
            except (Exception, SystemExit) as error:  # plugins' and users' code
                traceback.print_exc(file=log)
                outcome = self._failure(error, time.monotonic() - started)
        outcome = replace(self._progress.told(outcome), prefix=self._prefix(recipe))
        (folder / HANG_FILE).unlink()
        if outcome.state == STOPPED:
            self._progress.work_s = outcome.work_s
            self._progress.spent_s += time.monotonic() - started - self._waited_s
            return outcome
        self._progress = Progress(-1)
        finish_folder(self._shared.run, number, outcome)
        if outcome.failed:
            raise TrialFailed(outcome.error)
        return outcome

    @functools.cached_property
    def context(self) -> TrialContext:
        """What all trials share, once it is built."""
        torch.set_num_threads(self._shared.targets[0].threads)
        return self._shared.with_trained_model()

    def _carry_out(self, folder: Path, recipe: Recipe, hurdles: Hurdles | None) -> Outcome:
        context = self.context
        seed_all(context.seed)
        start, screened_s = time.monotonic(), self._progress.screening_s
        trained = self._train(recipe, hurdles, folder / "screening")
        if trained.checkpoint is not None:
            self._score_at_rung(trained, trained.checkpoint.epochs, recipe.recovery.epochs)
            worked = time.monotonic() - start - self._waited_s
            looked_s = self._progress.screening_s - screened_s
            self._progress.rungs_s += worked - trained.training_s - looked_s
            left = recipe.recovery.epochs - trained.checkpoint.epochs
            return Outcome(STOPPED, self._progress.screened, work_s=worked, epochs_left=left)
        firsts = [first for first, *_ in by_device(context.targets)]
        finalizing = time.monotonic()
        compressed = {first: finalize(trained, first, keep=first is not firsts[-1]) for first in firsts}
        self._screening.finalized(trained, time.monotonic() - finalizing)
        worked = time.monotonic() - start - self._waited_s
        for first, what_ships in compressed.items():
            self._write(device_folder(folder, first.device, context.targets[0].device), what_ships, recipe, first)
        models = load_shipped(folder, trained.student, context.task, context.targets)
        del trained, compressed
        start = time.monotonic()
        scores, latencies = score_shipped(
            models, self.baselines, context.task, context.targets, context.latency_seconds
        )
        worked += time.monotonic() - start
        scores["size_bytes"] = largest_bytes(folder, context.targets)
        (folder / "metrics.json").write_text(json.dumps(scores), encoding="utf-8")
        (folder / "latency.json").write_text(json.dumps(plain(latencies)), encoding="utf-8")
        return Outcome(OK, scores, work_s=worked)

    def _train(self, recipe: Recipe, hurdles: Hurdles | None, scratch: Path) -> Compression:
        """The recipe trained as far as its next rung, or to its end."""
        context, progress = self.context, self._progress
        trained = train_recipe(
            context.task,
            recipe,
            registry=registry(),
            target=context.targets[0],
            seed=context.seed,
            on_step=self._on_step,
            prefixes=self._prefixes,
            before_training=lambda work: self._screen(work, recipe, hurdles, scratch),
            until=lambda done: progress.until(done, recipe.recovery.epochs) if context.stopping else None,
            begun=progress.halted,
        )
        if trained.training_s:
            self._screening.trained(trained.training_s, trained.epochs)
        progress.training_s += trained.training_s
        progress.spared_s = max(0.0, trained.seconds - progress.training_s)
        if trained.seconds:
            progress.epochs = trained.checkpoint.epochs if trained.checkpoint else recipe.recovery.epochs
        return trained

    def _prefix(self, recipe: Recipe) -> str:
        """What those trials of the run have in common that share a training."""
        if self._shared.store is None:
            return ""
        return hashlib.sha256(prefix_of(recipe, registry()).key.encode()).hexdigest()[:16]

    def _score_at_rung(self, trained: Compression, done: int, epochs: int) -> None:
        task, progress = self.context.task, self._progress
        progress.halted, name = trained.trained(), rungs_of(epochs)[done]
        progress.rungs[name] = rung_score(trained.model, task, self.context.targets[0])
        print(f"at {name} of its epochs: {task.objective.name} {progress.rungs[name]:.4f}")

    @property
    def _waited_s(self) -> float:
        """How long this step waited for another trial's training."""
        return self._prefixes.waited_s if self._prefixes else 0.0

    def _screen(self, work: Compression, recipe: Recipe, hurdles: Hurdles | None, scratch: Path) -> None:
        if hurdles is None or self._progress.looked:
            return
        start = time.monotonic()
        self._progress.looked = True
        try:
            self._progress.screened = self._screening(work, recipe, hurdles, lambda: self.baselines, scratch)
        finally:
            self._progress.screening_s = time.monotonic() - start
            self._on_step("")

    @functools.cached_property
    def _screening(self) -> Screening:
        context = self.context
        return Screening(context.task, context.targets, context.limits, context.latency_seconds)

    def _write(self, folder: Path, compressed: Compressed, recipe: Recipe, target: Target) -> None:
        folder.mkdir(exist_ok=True)
        write_model(folder, compressed, recipe, target, registry())
        changes = [change.plain() for change in compressed.changes]
        (folder / "changes.json").write_text(json.dumps(changes, indent=1), encoding="utf-8")

    @functools.cached_property
    def _prefixes(self) -> StoredPrefixes | None:
        """Trained prefixes. A wait is for others' trainings, each of which has no more minutes than a trial has."""
        shared = self._shared
        if shared.store is None:
            return None
        patience = shared.minutes_per_trial and 60 * shared.minutes_per_trial
        return StoredPrefixes(
            shared.store, registry(), shared.targets[0], shared.seed, patience_s=patience, paused=self._watchdog.paused
        )

    @functools.cached_property
    def baselines(self) -> dict[str, nn.Module]:
        """The trained model on each device."""
        return self.context.baselines()

    def _on_step(self, method: str) -> None:
        self._acting = method

    def _failure(self, error: BaseException, seconds: float) -> Outcome:
        cause = next((cause for kind, cause in CAUSE_OF.items() if isinstance(error, kind)), "raise")
        plugin = registry().plugin_of(self._acting).release if self._acting else ""
        return failure(cause, first_line(error), self._acting, plugin, seconds)


def finish_folder(run: Path, number: int, outcome: Outcome) -> None:
    """Write the outcome into a trial's partial folder and give the folder its name."""
    folder = partial_folder(run, number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OUTCOME_FILE).write_text(outcome.to_json(), encoding="utf-8")
    if outcome.scored:
        for recipe in folder.rglob(RECIPE_FILE):
            seal(recipe.parent)
    publish(folder, trial_folder(run, number))


def dead_worker_outcome(run: Path, number: int, minutes: float | None, message: str) -> Outcome:
    """What became of a trial whose process is gone: never began, over its minutes, or killed. Completes its folder.

    `message` is what Ray says of it.
    """
    hang = partial_folder(run, number) / HANG_FILE
    if not hang.parent.is_dir():
        reason = ([line.strip() for line in message.splitlines() if line.strip()] or ["no reason given"])[-1]
        outcome = failure("nothing", f"its worker could not start: {reason}")
    elif hang.is_file() and hang.stat().st_size:
        outcome = failure("timeout", f"took longer than {minutes or 0:g} min; {HANG_FILE} says where it was")
    else:
        outcome = failure("killed", "its process died: killed by a signal, out of memory, or crashed")
    finish_folder(run, number, outcome)
    return outcome


def recorded_outcome(run: Path, number: int) -> Outcome | None:
    """The outcome in a finished trial's folder, if there is one."""
    file = trial_folder(run, number) / OUTCOME_FILE
    return Outcome.from_json(file.read_text(encoding="utf-8")) if file.is_file() else None


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[TextIO]:
    """Everything that Python code prints goes to the trial's log."""
    with path.open("a", encoding="utf-8", buffering=1) as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield log
    sys.stdout.flush()
