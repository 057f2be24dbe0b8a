"""A run as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from autocompress.errors import NothingFits
from autocompress.limits import Scores, show_bytes, show_ms, target_suffix, verdict_of
from autocompress.measure.statistics import Verdict
from autocompress.recipe import Recipe
from autocompress.report.data import failures, status_data
from autocompress.report.final import final_lines
from autocompress.run import Run, Trial


def output() -> Console:
    """Standard output: as wide as the terminal, and wide enough for the tables where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def print_result(run: Run, console: Console | None = None) -> None:
    """The front, if there is one, and the model that fits the limits beside the baseline."""
    console = console or output()
    where = ", ".join(run.config.targets)
    front = [run.trial(int(number)) for number in run.front.index]
    if front:
        console.print(f"Front of {len(run.all_trials)} trials, latency on {where}:", highlight=False)
        console.print(_table(run, front))
    else:
        _say(console, f"None of {len(run.all_trials)} trials meets the limits, so there is no front.")
    print_failures(run, console)
    for line in run.savings.lines():
        _say(console, line)
    for name, rung in run.rungs.items():
        _say(console, f"Rung at {name} of the epochs: {rung}.")
    try:
        print_best(run, run.best(), console)
    except NothingFits as nothing:
        _say(console, str(nothing))


def print_best(run: Run, best: Trial, console: Console) -> None:
    """The chosen model beside the baseline, and where it lies."""
    baseline = run.baseline
    _say(console, f"\nBest: trial {best.number}, {best.recipe}")
    table = Table("", "baseline", "best", "", box=None, pad_edge=False)
    for metric in run.metrics:
        own, other = best.scores[metric.name], baseline.scores[metric.name]
        table.add_row(f"validation {metric.name}", f"{other:.4f}", f"{own:.4f}", f"{own - other:+.4f}")
        if best.test_scores and baseline.test_scores:
            own, other = best.test_scores[metric.name], baseline.test_scores[metric.name]
            table.add_row(f"test {metric.name}", f"{other:.4f}", f"{own:.4f}", f"{own - other:+.4f}")
    sizes = baseline.scores["size_bytes"], best.scores["size_bytes"]
    table.add_row("size", show_bytes(sizes[0]), show_bytes(sizes[1]), f"{sizes[1] / sizes[0]:.1%} of baseline")
    for target in run.config.targets:
        end = target_suffix(target, run.config.targets)
        latency = best.scores[f"baseline_latency_ms{end}"], best.scores[f"latency_ms{end}"]  # of the same rounds
        speedup = f"speedup {best.scores[f'speedup{end}']:.2f}x ({_interval(best.scores, end)})"
        table.add_row(f"latency {target}", *map(show_ms, latency), speedup)
    console.print(table)
    if best.final is None:
        _say(console, "not judged once more: a search does that for the front of its own limits, or says why it cannot")
    else:
        _say(console, "Judged once more, in a fresh process and on the test split:")
    for line in final_lines(run, best):
        _say(console, f"- {line}")
    if best.recipe == Recipe():
        _say(console, "Nothing beats the untouched model under these limits: compression does not help here.")
    _say(console, f"Artifact: {best.path}")


def print_failures(run: Run, console: Console) -> None:
    """Failed trials by cause, with the first of each in words."""
    for cause, numbers in failures(run).items():
        outcome = run.all_trials[numbers[0]][1]
        where = f" in {outcome.method}" if outcome.method else ""
        trials = ", ".join(map(str, numbers))
        _say(console, f"{cause}{where}: {len(numbers)} (trial {trials}), first: {outcome.error}")


def print_status(run: Run, console: Console) -> None:
    """How far a run has come."""
    data = status_data(run)
    states = ", ".join(f"{count} {state}" for state, count in data["states"].items()) or "none finished"
    _say(console, f"{run.path}: {data['trials']} trials ({states}), budget {data['budget']['trials'] or 'open'} trials")
    _say(console, f"limits: {', '.join(run.config.limits) or 'none'}; latency on {', '.join(run.config.targets)}")
    print_failures(run, console)
    if run.scored:
        console.print(_table(run, [run.trial(number) for number in sorted(run.scored)]))


def _table(run: Run, trials: list[Trial]) -> Table:
    """A row a trial; where latency is measured on several targets, each has its columns."""
    name, targets = run.objective.name, run.config.targets
    table = Table(box=None, pad_edge=False)
    on = [f"latency {target}" for target in targets] if len(targets) > 1 else ["latency"]
    times = [header for latency in on for header in (latency, "speedup", "95 % interval")]
    for header in ("trial", name, f"test {name}", "size", *times):
        table.add_column(header, no_wrap=True)
    table.add_column("recipe", overflow="fold")
    for trial in trials:
        test = f"{trial.test_scores[name]:.4f}" if trial.test_scores else ""
        quality = (f"{trial.scores[name]:.4f}", test, show_bytes(trial.scores["size_bytes"]))
        table.add_row(str(trial.number), *quality, *_times(run, trial.scores), str(trial.recipe))
    return table


def _times(run: Run, scores: Scores) -> list[str]:
    """Latency, speedup and its interval on each target."""
    ends = [target_suffix(target, run.config.targets) for target in run.config.targets]
    return [
        cell
        for end in ends
        for cell in (
            show_ms(scores[f"latency_ms{end}"]),
            f"{scores[f'speedup{end}']:.2f}x",
            _interval(scores, end),
        )
    ]


def _interval(scores: Scores, end: str) -> str:
    """`1.27-1.33`, and in words when that is no gain; `end` is how the scores of a further target end."""
    found = verdict_of(scores, end)
    low, high = scores[f"speedup_low{end}"], scores[f"speedup_high{end}"]
    return f"{low:.2f}-{high:.2f}{'' if found is Verdict.FASTER else f', {found}'}"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
