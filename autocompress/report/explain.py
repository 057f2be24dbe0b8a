"""Why each trial was proposed, and why methods were left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from autocompress.limits import show_bytes
from autocompress.report.probe import prospect_lines
from autocompress.run import Run


def explanation_data(run: Run) -> dict[str, Any]:
    """`left_out`: reasons by method; `proposed`: by trial its `origin` and what the sampler expected of it.

    `probe`: what each method did alone before the first trial (`autocompress.prospect.Prospect`), or None.
    """
    probe = None if run.prospect is None else run.prospect.plain()
    return {"left_out": run.left_out, "proposed": run.proposed, "probe": probe}


def print_explanation(run: Run, console: Console) -> None:
    """All of that for people."""
    if run.prospect is not None:
        console.print("\nWhat the probe found before the first trial:", highlight=False)
        for line in prospect_lines(run.prospect):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for title, table in (
        ("Why each trial was proposed, and what was expected of it then:", _proposals(run)),
        ("Methods that were left out:" if run.left_out else "No method was left out.", _left_out(run)),
    ):
        console.print(f"\n{title}", highlight=False)
        console.print(table, markup=False, highlight=False)


def _proposals(run: Run) -> Table:
    """Size and latency are those of the first target; gain is hypervolume, as a share of the front's."""
    table = Table(box=None, pad_edge=False)
    for header in ("trial", "state"):
        table.add_column(header, no_wrap=True)
    table.add_column("proposed", overflow="fold")
    for header in (run.objective.name, "size", "latency", "gain", "meets the limits", "seconds"):
        table.add_column(header, no_wrap=True)
    for number, (_, outcome) in run.all_trials.items():
        proposed = run.proposed[number]
        table.add_row(str(number), outcome.state, proposed.get("origin", "not recorded"), *_expected(proposed))
    return table


def _expected(proposed: Mapping[str, Any]) -> Iterator[str]:
    """A cell for each column; empty where the sampler expected nothing."""
    if "expected" in proposed:
        quality, size, time = proposed["expected"][:3]
        yield from (f"{quality:.4f}", show_bytes(size), f"{time:.0%} of baseline")
    else:
        yield from ("", "", "")
    for name, style in (("gain", ".2%"), ("feasible", ".0%"), ("seconds", ".0f")):
        yield format(proposed[name], style) if name in proposed else ""


def _left_out(run: Run) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for method, reason in run.left_out.items():
        table.add_row(method, reason)
    return table
