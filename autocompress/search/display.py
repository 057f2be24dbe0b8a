"""What a search shows while it runs: a live table on a terminal, one line a trial elsewhere. All on stderr."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import track
from rich.table import Table
from rich.text import Text

from autocompress.errors import NothingFits
from autocompress.limits import Limit, Scores, show_bytes, show_ms
from autocompress.measure.device import Target, hardware_name
from autocompress.metric import Metric
from autocompress.outcome import FAILED, INFEASIBLE, Outcome
from autocompress.plugins import Registry
from autocompress.prospect import Prospect
from autocompress.recipe import Recipe
from autocompress.report.probe import prospect_lines
from autocompress.rungs import RungReport
from autocompress.search.settings import Settings
from autocompress.search.study import Proposal
from autocompress.selection import choose
from autocompress.space import BoundSpace

STARTING = "starting workers"


class Display:
    """Told what happens; never asked what to do."""

    def __init__(self, settings: Settings, space: BoundSpace, plugins: Registry) -> None:
        self._settings, self._space, self._plugins = settings, space, plugins
        self._console = Console(stderr=True, quiet=not settings.progress, soft_wrap=True, highlight=False, markup=False)
        self._started = time.monotonic()
        self._recipes: dict[int, Recipe] = {}
        self._running: dict[int, float] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._baseline: Scores | None = None
        self._waiting = STARTING
        self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Display:
        self._say_header()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def probing(self, methods: int) -> None:
        seconds = self._settings.probe_seconds
        self._console.print(f"probing {methods} methods alone on the trained model, for at most {seconds:g} s")

    def looking_at(self, method: str) -> None:
        self._waiting = f"probing {method}"

    def probed(self, found: Prospect) -> None:
        self._waiting = STARTING
        for line in prospect_lines(found):
            self._console.print(line)

    def not_probed(self, reason: str) -> None:
        self._waiting = STARTING
        self._console.print(f"methods were not probed: {reason}")

    def left_out(self, reasons: Mapping[str, str]) -> None:
        for name, reason in reasons.items():
            self._console.print(f"left out {name}: {reason}")

    def impossible(self, reasons: Sequence[str]) -> None:
        """What of other runs this search does not try."""
        for reason in reasons:
            self._console.print(reason)

    def known(self, outcomes: Mapping[int, Outcome]) -> None:
        """What earlier calls of the same search found."""
        for number, outcome in outcomes.items():
            self._add(number, outcome)
        if self._outcomes:
            self._console.print(f"continuing: {self._done} of {self._settings.budget.trials or 'any'} trials are done")

    def started(self, proposal: Proposal) -> None:
        self._recipes[proposal.number] = proposal.recipe
        self._running[proposal.number] = time.monotonic()

    def finished(self, number: int, outcome: Outcome) -> None:
        self._running.pop(number, None)
        self._add(number, outcome)
        if not self._console.is_terminal or outcome.failed:
            self._console.print(f"{self._progress()}  trial {number}  {self._line(outcome)}  {self._recipes[number]}")

    def baseline_misses(self, limits: Sequence[Limit], baseline: Scores) -> None:
        """Limits on a metric that the untouched model does not hold."""
        for limit in limits:
            value = f"{baseline[limit.subject]:.4f}"
            self._console.print(
                f"the untouched model itself misses {limit.text!r} ({value}): compression rarely mends that"
            )

    def exhausted(self) -> None:
        self._console.print("the space has no other recipe")

    def interrupted(self) -> None:
        self._console.print(f"interrupted after {self._done} trials; the same command continues")

    def judging(self, numbers: Sequence[int]) -> Iterator[int]:
        """The numbers, one after the other, while each is judged."""
        if numbers:
            self._console.print(
                f"judging the baseline and the front, {len(numbers)} models, in a fresh process and on the test split"
            )
        yield from track(
            numbers, "judging", console=self._console, transient=True, disable=not self._console.is_terminal
        )

    def looking_around(self, targets: Sequence[Target]) -> None:
        named = ", ".join(map(str, targets))
        self._console.print(f"measuring what {named} can do at most, and the baseline with free acceleration")

    @property
    def _objective(self) -> Metric:
        return self._settings.task.objective

    @property
    def _done(self) -> int:
        return sum(outcome.counts for outcome in self._outcomes.values())

    def _add(self, number: int, outcome: Outcome) -> None:
        self._outcomes[number] = outcome
        if self._baseline is None and outcome.scored:
            self._baseline = outcome.scores

    def not_judged(self, number: int, reason: str) -> None:
        self._console.print(
            f"trial {number} could not be judged once more: {reason}; it is reported without, and the same command"
            " tries again"
        )

    def private_store(self, reason: str) -> None:
        self._console.print(f"trainings are shared within this call only: {reason}")

    def mild(self, rung: str, report: RungReport) -> None:
        self._console.print(
            f"the order of trials at {rung} of their epochs says little about the end ({report}): from here on two"
            " thirds go on there instead of one"
        )

    def no_surroundings(self, reason: str) -> None:
        self._console.print(f"the hardware's limits are not known: {reason}")

    def _say_header(self) -> None:
        settings, budget = self._settings, self._settings.budget
        spans = [f"{budget.trials} trials" if budget.trials else "", f"{budget.hours:g} h" if budget.hours else ""]
        span = ", ".join(text for text in spans if text) or "until the space is exhausted"
        where = ", ".join(f"{target} ({hardware_name(target)})" for target in settings.targets)
        self._console.print(f"run {settings.run}: latency on {where}, {span}, {settings.workers} at a time")
        self._console.print(f"limits: {', '.join(limit.text for limit in settings.limits) or 'none'}")
        self._console.print(f"methods: {', '.join(self._space.parameters) or 'none'}")
        self.left_out(self._space.left_out)
        for plugin in self._plugins.broken:
            self._console.print(f"{plugin} failed to load: {plugin.reason}")

    def _progress(self) -> str:
        trials = self._settings.budget.trials
        return f"[{self._done}/{trials}]" if trials else f"[{self._done}]"

    def _time_left(self) -> str:
        """From the time budget, or from the pace so far."""
        elapsed = time.monotonic() - self._started
        budget = self._settings.budget
        left = [] if budget.hours is None else [budget.hours * 3600 - elapsed]
        finished_here = sum(number in self._recipes for number in self._outcomes)
        if budget.trials and finished_here:
            left.append((budget.trials - self._done) * elapsed / finished_here)
        return f"about {max(0.0, min(left)) / 60:.1f} min left" if left else "time left unknown"

    def _table(self) -> RenderableType:
        failed = Counter(o.state.removeprefix(FAILED) for o in self._outcomes.values() if o.failed)
        causes = f" ({', '.join(f'{cause} {count}' for cause, count in failed.items())})" if failed else ""
        counts = f"{self._progress()} done, {len(self._running)} running, {failed.total()} failed{causes}"
        table = Table("trial", "state", self._objective.name, "size", "latency", "speedup", "recipe", box=None)
        for label, number in self._best_rows():
            outcome = self._outcomes[number]
            table.add_row(label, self._state(outcome), *self._cells(outcome.scores), self._name(number))
        if not (self._running or self._recipes):
            counts += f", {self._waiting}"
        for number, since in list(self._running.items()):
            running = f"running {time.monotonic() - since:.0f} s"
            table.add_row(str(number), running, "", "", "", "", self._name(number))
        return Group(Text(f"{counts}, {self._time_left()}"), table)

    def _best_rows(self) -> list[tuple[str, int]]:
        scored = {number: outcome.scores for number, outcome in self._outcomes.items() if outcome.scored}
        if self._baseline is None:
            return []
        rows = [(f"{min(scored)} baseline", min(scored))]
        try:
            best = choose(scored, self._baseline, self._objective, self._settings.limits, dict.fromkeys(scored, ""))
        except NothingFits:
            return rows
        return [*rows, (f"{best} best", best)]

    def _name(self, number: int) -> str:
        recipe = self._recipes.get(number)
        return str(recipe) if recipe is not None else "from an earlier call"

    def _line(self, outcome: Outcome) -> str:
        """A trial's end in one line."""
        if outcome.scored:
            quality, *rest = self._cells(outcome.scores)
            return f"{self._state(outcome)}  {self._objective.name} {quality}  {'  '.join(rest)}"
        where = f" in {outcome.method}" if outcome.method else ""
        return f"{outcome.state}{where}  {outcome.error}"

    def _state(self, outcome: Outcome) -> str:
        """The state, and which limits do not hold: `infeasible (size)`."""
        if outcome.state != INFEASIBLE or self._baseline is None:
            return outcome.state
        limits = self._settings.limits
        broken = [limit.name for limit in limits if limit.violation(outcome.scores, self._baseline) > 0]
        return f"{outcome.state} ({', '.join(broken)})"

    def _cells(self, scores: Scores) -> tuple[str, str, str, str]:
        """Quality, size, and latency and speedup on the first target."""
        return (
            f"{scores[self._objective.name]:.4f}",
            show_bytes(scores["size_bytes"]),
            show_ms(scores["latency_ms"]),
            f"{scores['speedup']:.2f}x",
        )
