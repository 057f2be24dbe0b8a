"""The command line: the same verbs as in Python."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import autocompress
from autocompress import report
from autocompress.bench import named, random_inputs, table
from autocompress.budget import Budget
from autocompress.errors import AutocompressError, RunError
from autocompress.run import Run
from autocompress.task_reference import load_task

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Compress trained PyTorch models: search, measure, save."
)
plugins_app = typer.Typer(no_args_is_help=True, help="Installed plugins.")
app.add_typer(plugins_app, name="plugins")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ExplainOption = Annotated[
    bool, typer.Option("--explain", help="Tell why each trial was proposed, and why methods were left out.")
]
RunArgument = Annotated[Path, typer.Argument(help="The run's folder, like runs/digits.")]
LimitOption = Annotated[list[str] | None, typer.Option("--limit", help="Like 'accuracy_drop <= 1%'; may be repeated.")]


def main() -> None:
    """Run the command line: a user's mistake is one line on stderr and exit code 1, Ctrl-C outside of trials 130."""
    try:
        app()
    except AutocompressError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {error}", markup=False)
        sys.exit(1)


@contextlib.contextmanager
def _to_be_continued() -> Iterator[None]:
    """Says so when Ctrl-C ends a search where it has no trials yet, or none any more; typer itself says nothing."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def search(
    task: Annotated[
        str, typer.Argument(help="The task, or a function that gives it: package.module:name or file.py:name.")
    ],
    space: Annotated[str | None, typer.Option(help="A shipped search space's name, or a YAML file.")] = None,
    limit: LimitOption = None,
    trials: Annotated[int | None, typer.Option(help="Trials in all.  [default: 50, or no bound with --hours]")] = None,
    hours: Annotated[float | None, typer.Option(help="Wall time of this call.")] = None,
    minutes_per_trial: Annotated[float | None, typer.Option(help="A longer trial fails.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Where latency is measured: cpu@1, cuda:0@32; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The run's name.  [default: the task's name]")] = None,
    runs: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
    workers: Annotated[int | None, typer.Option(help="Trials at a time.")] = None,
    latency_seconds: Annotated[float, typer.Option(help="The longest that one latency measurement may take.")] = 3.0,
    hardware_seconds: Annotated[
        float, typer.Option(help="A target, for its hardware's limits and free acceleration; 0: not at all.")
    ] = 20.0,
    seed: Annotated[int, typer.Option(help="Of the sampler and the training.")] = 0,
    portfolio: Annotated[bool, typer.Option(help="Try first what was good for such models on such a device.")] = True,
    like: Annotated[
        list[Path] | None, typer.Option(help="A run on a similar task, whose front is tried next; may be repeated.")
    ] = None,
    explain: ExplainOption = False,
    store: Annotated[
        str | None, typer.Option(help="Where trainings are kept that recipes share.  [default: the run's folder]")
    ] = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="Train for each recipe anew.")] = False,
    no_screening: Annotated[bool, typer.Option("--no-screening", help="Train what size or latency rules out.")] = False,
    no_stopping: Annotated[bool, typer.Option("--no-stopping", help="Train every recipe to its end.")] = False,
    probe_seconds: Annotated[
        float, typer.Option(help="The longest that methods may be looked at alone before the first trial.")
    ] = 60.0,
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Try all methods, also those that cannot help.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search for compressed models; the same command again continues the run."""
    with _to_be_continued(), contextlib.redirect_stdout(sys.stderr):  # what the user's code prints is no result
        run = autocompress.search(
            load_task(task),
            space=space,
            limits=limit,
            budget=Budget.parse(
                {
                    "trials": 50 if trials is None and hours is None else trials,
                    "hours": hours,
                    "minutes_per_trial": minutes_per_trial,
                },
                "budget",
            ),
            target=target,
            name=name,
            runs=runs,
            workers=workers,
            latency_seconds=latency_seconds,
            hardware_seconds=hardware_seconds,
            seed=seed,
            portfolio=portfolio,
            like=like or (),
            store=False if no_store else store or True,
            screening=not no_screening,
            stopping=not no_stopping,
            probe_seconds=0 if no_probe else probe_seconds,
        )

    def show() -> None:
        report.print_result(run, report.output())
        if explain:
            report.print_explanation(run, report.output())

    _show(report.as_data(run), as_json, show)


@app.command()
def status(run: RunArgument, as_json: AsJson = False) -> None:
    """What a run has done so far: its trials and failures."""
    found = Run(run)
    _show(report.status_data(found), as_json, lambda: report.print_status(found, report.output()))


@app.command("report")
def write_report(run: RunArgument, explain: ExplainOption = False, as_json: AsJson = False) -> None:
    """Draw a run as a page with pictures, report.html in its folder; a search does that at its end."""
    found = Run(run)
    path = report.write_page(found)

    def show() -> None:
        print(path)
        if explain:
            report.print_explanation(found, report.output())

    _show({"report": str(path), **(report.explanation_data(found) if explain else {})}, as_json, show)


@app.command()
def best(
    run: RunArgument,
    limit: LimitOption = None,
    save: Annotated[Path | None, typer.Option(help="Copy the artifact to this new folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """The model of a run that fits the limits best; other limits need no new search."""
    found = Run(run)
    chosen = found.best(limit)
    if not chosen.path.is_dir():
        raise RunError(f"{chosen.path} is missing: the trial was scored, but its model is gone")
    if save is not None:
        chosen.save(save)
    _show(report.best_data(found, chosen), as_json, lambda: report.print_best(found, chosen, report.output()))


@app.command()
def bench(
    model: Annotated[
        str,
        typer.Argument(help="An artifact's folder, or a model, factory or task: file.py:name."),
    ],
    target: Annotated[
        list[str] | None, typer.Option(help="Where to measure: cpu@1, cpu@8x2, cuda:0@32; may be repeated.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Its model is the baseline; an artifact needs it.")] = None,
    shape: Annotated[str | None, typer.Option(help="Of one input, like 3x224x224, where there is no task.")] = None,
    seconds: Annotated[float, typer.Option(help="The longest that one measurement may take.")] = 3.0,
    native_code: Annotated[bool, typer.Option("--native-code", help="Allow an artifact with machine code.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model beside its baseline; without a task, beside itself."""
    with contextlib.redirect_stdout(sys.stderr):  # what the user's code prints is no part of the result
        subject, its_task = named(model, task)
        inputs = None if shape is None else random_inputs(shape)
        measured = autocompress.bench(
            subject, its_task, targets=target, seconds=seconds, inputs=inputs, native_code=native_code
        )

    def show() -> None:
        console = report.output()
        console.print(table(measured), highlight=False)
        for latency in measured:
            for note in latency.notes:
                console.print(f"{latency.target}: {note}", markup=False, highlight=False, soft_wrap=True)

    _show([latency.plain() for latency in measured], as_json, show)


@plugins_app.command("list")
def plugins_list(as_json: AsJson = False) -> None:
    """Every plugin with its methods, version, status and, if it failed to load, the reason."""
    from autocompress.plugins import registry

    rows = [
        {
            "plugin": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "status": plugin.status,
            "reason": plugin.reason,
            "methods": [{"name": m.name, "technique": str(m.technique)} for m in plugin.methods],
        }
        for plugin in registry().plugins
    ]
    _show(rows, as_json, lambda: _print_plugins(rows))


def _print_plugins(rows: list[dict[str, Any]]) -> None:
    table = Table("plugin", "distribution", "status", "technique", "method", box=None, pad_edge=False)
    for row in rows:
        start = (row["plugin"], f"{row['distribution']} {row['version']}", row["status"])
        if not row["methods"]:
            table.add_row(*start, "", row["reason"])
        for method in row["methods"]:
            table.add_row(*start, method["technique"], method["name"])
    report.output().print(table)


def _show(data: Any, as_json: bool, show: Any) -> None:
    if as_json:
        print(json.dumps(data, indent=1))
    else:
        show()
