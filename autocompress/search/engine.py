"""The main loop of a search.

`Search.propose` and `Search.finish` are the loop's two halves: Ray Tune asks for the next trial whenever a worker is
free, and hands back what became of it. Everything that must survive is in the run's folder before `finish` returns.
"""

from __future__ import annotations

import functools
import time
from contextlib import ExitStack
from dataclasses import replace

from autocompress.errors import AutocompressError, RunError
from autocompress.limits import check_against_baseline, missed_by_baseline
from autocompress.outcome import INTERRUPTED, STOPPED, Outcome
from autocompress.plugins import registry
from autocompress.run import PROMOTED, Run
from autocompress.search import ray_environment
from autocompress.search.chatter import log_records_to
from autocompress.search.context import check_store, discard_private_store, store_access, trial_context
from autocompress.search.display import Display
from autocompress.search.floor import check_reachable
from autocompress.search.folder import RunFolder, open_run
from autocompress.search.judging import judge_finalists, unjudged, unseen_hardware
from autocompress.search.look_ahead import look_ahead
from autocompress.search.sampler_check import check_sampler
from autocompress.search.settings import Settings
from autocompress.search.stopping import Stopping
from autocompress.search.study import (
    Proposal,
    SamplerFactory,
    SearchStudy,
    directions_of,
    free_beginning,
    grey_box,
    sharing_grey_box,
)
from autocompress.search.suggestions import after_probing
from autocompress.search.trial import dead_worker_outcome, finish_folder, recorded_outcome
from autocompress.search.warm_start import first_recipes
from autocompress.search.workers import with_workers
from autocompress.space import BoundSpace, bind


class Search:
    """One search while it runs: what is next, what came back."""

    def __init__(
        self, settings: Settings, folder: RunFolder, study: SearchStudy, display: Display, began: float
    ) -> None:
        """`began` is when the budget's hours began, by the monotonic clock."""
        self._settings, self._folder, self._study, self._display = settings, folder, study, display
        hours = settings.budget.hours
        self._deadline = None if hours is None else began + hours * 3600
        self._running: set[int] = set()
        self._exhausted = False
        self._stopping = Stopping(settings.task.objective, settings.limits)
        self._reports: dict[int, Outcome] = {}
        self._ends: dict[int, Outcome] = {}
        self._mild: set[str] = set()
        self.error: AutocompressError | None = None
        """What makes going on pointless: the baseline cannot be scored, or contradicts the limits."""

    @property
    def done(self) -> bool:
        """Whether nothing runs and nothing is left to propose."""
        return not self._running and not self._may_propose

    @property
    def unfinished(self) -> bool:
        """Whether it was stopped from outside, by Ctrl-C, before its budget was spent."""
        return not self.done and self.seconds_left != 0

    @property
    def seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def propose(self) -> Proposal | None:
        """The next trial; None while there is nothing to start: workers busy, baseline not scored yet, budget spent."""
        if not self._may_propose or len(self._running) >= self._settings.workers:
            return None
        if self._running and self._study.baseline is None:
            return None
        start = time.monotonic()
        self._promote()
        proposal = self._study.ask()
        if proposal is None:
            self._exhausted = True
            self._folder.event("exhausted")
            self._display.exhausted()
            return None
        self._running.add(proposal.number)
        if PROMOTED in proposal.proposed:
            stopped = self._study.outcomes[proposal.proposed[PROMOTED]]
            self._reports[proposal.number] = replace(stopped, state=INTERRUPTED)
        took = time.monotonic() - start
        self._folder.event(
            "started",
            trial=proposal.number,
            recipe=str(proposal.recipe),
            proposed=proposal.proposed,
            suggested_in_s=took,
        )
        self._display.started(proposal)
        return proposal

    def at_rung(self, number: int, outcome: Outcome) -> bool:
        """Whether a trial goes on with its training. The outcome is how it ended if it does not.

        One that goes on from where it was stopped is not judged there once more.
        """
        before = self._reports.get(number, Outcome(INTERRUPTED))
        outcome = replace(outcome, rungs=before.rungs | outcome.rungs)
        self._reports[number] = replace(outcome, state=INTERRUPTED)  # as long as it is not over
        if self._study.baseline is None or before.rung == outcome.rung:
            return True
        known = self._at_rungs
        for name, report in self._stopping.reports(known).items():
            if report.poor and name not in self._mild:
                self._mild.add(name)
                self._folder.event("milder", rung=name, **report.plain())
                self._display.mild(name, report)
        verdict = self._stopping.verdict(number, known, self._study.baseline)
        if not verdict.goes_on:
            self._ends[number] = replace(outcome, error=verdict.reason)
        return verdict.goes_on

    def finish(self, number: int, outcome: Outcome | str) -> None:
        """Record how a trial ended; of a failed one Ray gives its own message, and the trial's folder knows more.

        A trial at a rung that was not stopped there was interrupted.
        """
        if isinstance(outcome, str):
            path, minutes = self._folder.path, self._settings.budget.minutes_per_trial
            outcome = recorded_outcome(path, number) or dead_worker_outcome(path, number, minutes, outcome)
        elif outcome.state == STOPPED:
            if number not in self._ends:
                return
            outcome = self._ends.pop(number)
            finish_folder(self._folder.path, number, outcome)
        report = self._reports.pop(number, None)
        if report is not None:
            outcome = replace(outcome, rungs=report.rungs | outcome.rungs)
        first = self._study.baseline is None
        outcome = self._study.tell(number, outcome)
        self._running.discard(number)
        self._folder.event("finished", trial=number, state=outcome.state, error=outcome.error)
        self._display.finished(number, outcome)
        if first:
            self._check_baseline(outcome)

    def _promote(self) -> None:
        """Let a stopped trial go on if it now would; without a store its training is gone."""
        if self._study.baseline is None or not (self._settings.stopping and self._settings.store):
            return
        number = self._stopping.promotable(self._at_rungs, self._study.baseline)
        if number is not None:
            self._study.promote(number)

    @property
    def _at_rungs(self) -> dict[int, Outcome]:
        """Of each recipe what its latest trial reported at rungs, or how it ended after some."""
        found = {number: self._reports.get(number) or self._study.outcomes.get(number) for number in self._study.latest}
        return {number: outcome for number, outcome in found.items() if outcome is not None and outcome.rungs}

    @property
    def _may_propose(self) -> bool:
        trials = self._settings.budget.trials
        spent = trials is not None and self._study.count + len(self._running) >= trials
        return not (spent or self._exhausted or self.error or self.seconds_left == 0)

    def _check_baseline(self, outcome: Outcome) -> None:
        """The first trial is the baseline: without its scores nothing can be judged."""
        if self._study.baseline is None:
            self.error = RunError(f"the baseline could not be scored, so nothing can be compared: {outcome.error}")
            return
        try:
            check_against_baseline(self._settings.limits, self._study.baseline)
        except AutocompressError as error:
            self.error = error
            return
        missed = missed_by_baseline(self._settings.limits, self._study.baseline)
        self._display.baseline_misses(missed, self._study.baseline)


def run_search(settings: Settings) -> Run:
    """Check everything, search until the budget is spent, score the front on the test split, and read the run back."""
    began = time.monotonic()
    settings.task.check()
    plugins = registry()
    space = bind(settings.space, settings.task, plugins, *settings.targets)
    settings = with_workers(settings, space)
    versions = {name: plugins.plugin_of(name).release for name in space.parameters}
    starts, impossible = first_recipes(settings, space, plugins)
    check_reachable(settings.limits, settings.task, settings.targets)
    if settings.sampler is not None:
        check_sampler(settings.sampler, space, directions_of(settings.task.objective, len(settings.targets)))
    with (
        open_run(settings, versions) as folder,
        log_records_to(folder.log_file, "optuna"),
        Display(settings, space, plugins) as display,
        ExitStack() as sessions,
    ):
        check_store(settings)
        found = look_ahead(settings, space, starts, folder, display, sessions)
        if found is not None:
            space = space.without(found.left_out)
            starts = after_probing(starts, found, settings, space, plugins)
        folder.write_left_out(space.left_out)
        study = SearchStudy(
            folder.study_url,
            space,
            settings.task.objective,
            settings.limits,
            settings.seed,
            targets=len(settings.targets),
            screening=settings.screening,
            sampler=_sampler(settings, space),
        )
        study.adopt_orphans(lambda number: recorded_outcome(folder.path, number))
        if study.baseline is not None:
            check_against_baseline(settings.limits, study.baseline)
        for start in starts:
            study.enqueue(start.recipe, start.why)
        display.impossible(impossible)
        display.known(study.outcomes)
        search = Search(settings, folder, study, display, began)
        try:
            _run(search, settings, folder, display)
        finally:
            study.close()
            discard_private_store(folder.path)
        if search.error is not None:
            raise search.error
        if search.unfinished:
            display.interrupted()
    return Run(folder.path, settings.task.model, settings.task.students)


def _sampler(settings: Settings, space: BoundSpace) -> SamplerFactory:
    wanted = settings.sampler
    if wanted is not None:
        return lambda define, seed: wanted
    startup = free_beginning(settings.budget.trials)
    return sharing_grey_box(space, startup=startup) if settings.store else functools.partial(grey_box, startup=startup)


def _run(search: Search, settings: Settings, folder: RunFolder, display: Display) -> None:
    """All in one session of Ray, which is not started for a run that has everything."""
    if search.done and not (unjudged(folder) or unseen_hardware(settings, folder)):
        return
    ray_environment.prepare()
    from autocompress.search.ray_session import run_trials, session

    context = trial_context(settings, folder, store_access(settings, display))
    with session(settings.workers, settings.gpu_share):
        if not search.done:
            run_trials(search, context, settings, folder.log_file)
        if search.error is None:  # who pressed Ctrl-C does not wait for what the hardware can do
            wanted = replace(settings, hardware_seconds=0) if search.unfinished else settings
            judge_finalists(context, wanted, folder, display)
