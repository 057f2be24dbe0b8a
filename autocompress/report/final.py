"""What the final figures of a trial say, in sentences."""

from __future__ import annotations

from typing import Any

from autocompress.damage import Damage
from autocompress.limits import Scores, show_ms, target_suffix
from autocompress.measure.roofline import gap_closed
from autocompress.run import Run, Trial


def final_lines(run: Run, trial: Trial) -> list[str]:
    """How a finalist stood when it was judged again, beside the baseline's free acceleration and the hardware's bound.

    Empty for a trial that was not judged.
    """
    if trial.final is None:
        return []
    lines = [_again(trial.scores, trial.final.scores, target, run) for target in run.config.targets]
    if trial.final.damage is not None:
        lines += Damage.from_plain(trial.final.damage).lines()
    lines += _inside(trial.final.explanations, trial.final.representations)
    for target, found in run.surroundings.items():
        own = trial.final.scores[f"speedup{target_suffix(target, run.config.targets)}"]
        lines += [_free(target, found["free"], own), *_bound(target, found, own)]
    return lines + [_cost(target, cost) for target, cost in trial.final.costs.items()]


def _cost(target: str, found: dict[str, Any]) -> str:
    if "cost" not in found:
        return f"What it computes on {target} is not known: {found['unknown']}."
    cost = found["cost"]
    macs, unseen = cost["macs"], "".join(f"; {note}" for note in cost["unseen"])
    counted = "an unknown number of" if macs is None else f"{macs:,}"
    return f"A batch on {target} takes {counted} multiply-adds in {cost['launches']} operators{unseen}."


def _again(searched: Scores, final: Scores, target: str, run: Run) -> str:
    """The winner's curse, in one line."""
    end = target_suffix(target, run.config.targets)
    now, low, high = (final[f"{name}{end}"] for name in ("speedup", "speedup_low", "speedup_high"))
    difference = now / searched[f"speedup{end}"] - 1
    versus = "more" if difference > 0 else "less"
    return (
        f"Speedup on {target}: {now:.2f}x ({low:.2f}-{high:.2f}), {abs(difference):.1%} {versus} than the search saw."
    )


def _free(target: str, free: dict[str, Any], own: float) -> str:
    """Beside what the untouched model gains without compression."""
    speedup = free["latency"]["speedup"]
    if free["name"] == "eager":
        return f"Free acceleration makes the untouched model no faster on {target}."
    versus = "faster" if own > speedup else "slower"
    return (
        f"The untouched model with {free['name']}, which costs nothing, is {speedup:.2f}x as fast on {target}:"
        f" this one is {own / speedup:.2f}x of that, {versus}."
    )


def _bound(target: str, found: dict[str, Any], own: float) -> list[str]:
    """How far from the limit of the hardware."""
    if "bounds" not in found["baseline"]:
        return [f"The hardware's bound on {target} is not known: {found['baseline']['unknown']}"]
    bounds, baseline_ms = found["baseline"]["bounds"], found["free"]["latency"]["baseline_latency_ms"]
    closed = gap_closed(baseline_ms, baseline_ms / own, bounds["fused_ms"])
    gap = "" if closed is None else f"; of the gap this one closes {closed:.0%}"
    return [
        f"On {target} the untouched model takes {show_ms(baseline_ms)}, held back by {bounds['binding']};"
        f" the hardware's bound for it is {show_ms(bounds['fused_ms'])}{gap}."
    ]


def _inside(explanations: dict[str, Any] | None, representations: dict[str, Any] | None) -> list[str]:
    lines = []
    if explanations is not None and explanations["mean"] is not None:
        lines.append(
            f"Explanations (gradient x {explanations['of']}): cosine with the baseline's {explanations['mean']:.2f} on"
            f" average, {explanations['p10']:.2f} in the worst tenth."
        )
    if representations is not None and representations["blocks"]:
        block, least = min(representations["blocks"].items(), key=lambda item: float(item[1]))
        lines.append(f"Features (linear CKA with the baseline's): least alike in block {block!r}, {least:.2f}.")
    return lines
