"""What the probe found, in words."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from autocompress.limits import show_ms, target_suffix
from autocompress.prospect import Prospect

WITHOUT = {
    "labels": "",
    "calibration only": ", so nothing is trained",
    "none": ", so nothing is trained or calibrated",
}


def prospect_lines(found: Prospect) -> list[str]:
    """What binds the model on each target, what data there are, what each method did, and what is not known."""
    samples = ", ".join(f"{count} {split}" for split, count in found.samples.items())
    return [
        *(_bound(found, target, of) for target, of in found.bounds.items()),
        f"data to compress with: {found.data}{WITHOUT[found.data]}",
        f"samples, with targets unless they are called unlabelled: {samples}",
        f"in {found.seconds:.0f} s, what methods did to the trained model, each alone and without training, and what"
        " they can do at most:",
        *(f"  {line}" for line in (*_seen(found), *_unknown(found))),
    ]


def _seen(found: Prospect) -> Iterator[str]:
    width = max(map(len, found.looks), default=0)
    for name, looks in found.looks.items():
        best = found.best(name)
        asked_for = best is None and name in found.kept
        end = ", left out" if name in found.left_out else ", kept since it was asked for" if asked_for else ""
        most = f", {found.at_most(name)}" if found.at_most(name) else ""
        yield f"{name.ljust(width)}  {found.words(best or looks[0])}{most}{end}"


def _unknown(found: Prospect) -> Iterator[str]:
    """Methods by the reason."""
    methods = defaultdict(list)
    for name, reason in found.unknown.items():
        methods[reason].append(name)
    for reason, names in methods.items():
        yield f"not known of {', '.join(names)}, and so kept: {reason}"


def _bound(found: Prospect, target: str, of: dict[str, Any]) -> str:
    """With the untouched model's own time, since hardware's peaks may be far from it."""
    if "bounds" not in of:
        return f"what binds the model on {target} is not known: {of['unknown']}"
    bounds, name = of["bounds"], f"baseline_latency_ms{target_suffix(target, found.targets)}"
    floors = {"compute": bounds["compute_ms"], "memory": bounds["memory_ms"], "launch": bounds["launch_ms"]}
    shown = ", ".join(f"{floor} {show_ms(ms)}" for floor, ms in floors.items())
    line = f"on {target} {bounds['binding']} binds the model most: at the hardware's peaks it would take {shown}"
    times = [look.scores[name] for looks in found.looks.values() for look in looks if look.scores]
    if not times:
        return line
    time = statistics.median(times)
    most = time / max(bounds["compute_ms"], bounds["memory_ms"])  # launches can be merged
    return (
        f"{line}; it takes {show_ms(time)}, {time / max(floors.values()):.1f} times the largest of these;"
        f" acceleration alone can make it at most {most:.1f}x faster"
    )
