"""What the probe found, in words and as a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from autocompress.limits import show_ms
from autocompress.prospect import Prospect


def prospect_lines(found: Prospect) -> list[str]:
    """What the model is bound by on each target, what data there are, and what the looks at methods are."""
    bounds = [_bound(target, of) for target, of in found.bounds.items()]
    samples = ", ".join(f"{count} {split}" for split, count in found.samples.items())
    seen = f"in {found.seconds:.0f} s, each method alone on the trained model and without training:"
    return [*bounds, f"samples with targets, and without where they are unlabelled: {samples}", seen]


def prospect_table(found: Prospect) -> Table:
    """A row a method: what it does, and whether it is kept."""
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    table.add_column("alone", overflow="fold")
    table.add_column("", overflow="fold")
    left_out = found.left_out
    for name in dict.fromkeys([*found.looks, *found.unknown]):
        best, looks = found.best(name), found.looks.get(name, ())
        alone = found.words(best or looks[0]) if looks else ""
        what = "left out" if name in left_out else "kept"
        if name in found.unknown:
            what += f": not known, {found.unknown[name]}"
        elif name not in left_out and best is None:
            what += ": asked for"
        table.add_row(name, Text(alone), Text(what))
    return table


def _bound(target: str, found: dict[str, object]) -> str:
    bounds = found.get("bounds")
    if not isinstance(bounds, dict):
        return f"what binds the model on {target} is not known: {found.get('unknown', 'the hardware was not probed')}"
    parts = ", ".join(f"{name} {show_ms(bounds[f'{name}_ms'])}" for name in ("compute", "memory", "launch"))
    return f"on {target} the model is bound by {bounds['binding']}: at the hardware's peaks it would take {parts}"
