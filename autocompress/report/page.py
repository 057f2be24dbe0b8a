"""A run as one HTML page with pictures, which needs no network."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from autocompress.damage import Classification, Damage
from autocompress.damage.figures import class_bars
from autocompress.errors import AutocompressError
from autocompress.measure.cost import Cost
from autocompress.measure.probe import DeviceLimits
from autocompress.measure.size import size_breakdown
from autocompress.report.figures import front_figure, roofline_figure, size_figure
from autocompress.report.tables import print_result
from autocompress.run import Run, Trial

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PAGE_FILE = "report.html"
STYLE = "body{font-family:sans-serif;max-width:75rem;margin:2rem auto}pre{overflow-x:auto;line-height:1.35}"


def write_page(run: Run) -> Path:
    """`report.html` in the run's folder: what the command line prints, then the pictures."""
    title = html.escape(f"autocompress: {run.path.name}")
    parts = [f"<h1>{title}</h1>", f"<pre>{html.escape(_tables(run))}</pre>"]
    for heading, figure in _pictures(run):
        first = len(parts) == 2  # plotly's code comes once, with the first picture
        parts += [f"<h2>{html.escape(heading)}</h2>", figure.to_html(full_html=False, include_plotlyjs=first)]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    path = run.path / PAGE_FILE
    path.write_text("\n".join([head, *parts]), encoding="utf-8")
    return path


def _tables(run: Run) -> str:
    console = Console(width=160, force_terminal=False, no_color=True)
    with console.capture() as captured:
        print_result(run, console)
    return captured.get()


def _pictures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Those for which there are figures."""
    yield (
        "All trials",
        front_figure(run.trials, [*run.front.index], run.baseline.number, run.objective.name),
    )
    try:
        best = run.best()
    except AutocompressError:  # nothing fits: there is no model to picture
        return
    try:
        yield (
            "Size on disk",
            size_figure({"baseline": size_breakdown(run.baseline.path), "best": size_breakdown(best.path)}),
        )
    except AutocompressError:  # a trial's folder that is gone
        pass
    yield from _classes(best)
    yield from _roofs(run, best)


def _classes(best: Trial) -> Iterator[tuple[str, Figure]]:
    if best.final is None or best.final.damage is None:
        return
    for head in Damage.from_plain(best.final.damage).heads:
        if isinstance(head, Classification) and head.classes:
            yield f"Classes {head.head}".strip(), class_bars(head)


def _roofs(run: Run, best: Trial) -> Iterator[tuple[str, Figure]]:
    """The untouched model and the best one under the roof of each target's device."""
    for target, found in run.surroundings.items():
        final = best.final
        if "bounds" not in found["baseline"] or final is None:
            continue
        costs = {"baseline": found["baseline"], "best": final.costs[target]}
        known = {name: Cost.from_plain(of["cost"]) for name, of in costs.items() if "cost" in of}
        latencies = {
            "baseline": found["free"]["latency"]["baseline_latency_ms"],
            "best": final.latency[target]["latency_ms"],
        }
        limits = DeviceLimits(**found["limits"])
        yield (
            f"Limits of {target}",
            roofline_figure(known, latencies, limits, found["baseline"]["bounds"]["dtype"]),
        )
