"""What the final figures of a trial say, in sentences."""

from __future__ import annotations

from typing import Any

from autocompress.damage import Damage
from autocompress.final import Final
from autocompress.limits import Scores, show_ms, target_suffix, verdict_of
from autocompress.measure.roofline import gap_closed
from autocompress.measure.statistics import Verdict
from autocompress.run import Run, Trial


def final_lines(run: Run, trial: Trial) -> list[str]:
    """How a finalist stood when it was judged again, beside the baseline's free acceleration and the hardware's bound.

    Empty for a trial that was not judged.
    """
    if trial.final is None:
        return []
    final = trial.final
    lines = [_again(trial.scores, final.scores, target, run) for target in run.config.targets]
    lines += _broken_limits(run, final)
    if final.damage is not None:
        lines += Damage.from_plain(final.damage).lines()
    lines += _inside(final.explanations, final.representations)
    for target, found in run.surroundings.items():
        end = target_suffix(target, run.config.targets)
        lines += [_free(target, found["free"], final.scores, end), *_bound(target, found, final.scores, end)]
    return lines + [_cost(target, cost) for target, cost in final.costs.items()]


def _cost(target: str, found: dict[str, Any]) -> str:
    if "cost" not in found:
        return f"What it computes on {target} is not known: {found['unknown']}."
    cost = found["cost"]
    if cost["macs"] is None:
        return f"What it computes on {target} is not known: {'; '.join(cost['unseen'])}."
    return f"A batch on {target} takes {cost['macs']:,} multiply-adds in {cost['launches']} operators."


def _again(searched: Scores, final: Scores, target: str, run: Run) -> str:
    """The winner's curse, in one line."""
    end = target_suffix(target, run.config.targets)
    now, low, high = (final[f"{name}{end}"] for name in ("speedup", "speedup_low", "speedup_high"))
    difference = now / searched[f"speedup{end}"] - 1
    return (
        f"Latency on {target}: {show_ms(final[f'latency_ms{end}'])}, and the baseline's"
        f" {show_ms(final[f'baseline_latency_ms{end}'])} beside it: {verdict_of(final, end)}, {now:.2f}x"
        f" ({low:.2f}-{high:.2f}), {abs(difference):.1%} {'more' if difference > 0 else 'less'} than the search saw."
    )


def _broken_limits(run: Run, final: Final) -> list[str]:
    """Those on time that the search saw met and that do not hold any more."""
    baseline = run.finals[run.baseline.number].scores if run.baseline.number in run.finals else run.baseline.scores
    timed = [limit for limit in run.limits if limit.subject in ("latency", "speedup")]
    return [
        f"This time it misses a limit: {limit.miss(final.scores, baseline)}."
        for limit in timed
        if limit.violation(final.scores, baseline) > 0
    ]


def _free(target: str, free: dict[str, Any], final: Scores, end: str) -> str:
    """Beside what the untouched model gains without compression."""
    if free["name"] == "eager":
        if not free["others"]:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in free["skipped"].items())
            return f"No free acceleration could be had for the untouched model on {target}: {reasons}."
        return f"Free acceleration makes the untouched model no faster on {target}."
    theirs, low, high = (free["latency"][name] for name in ("speedup", "speedup_low", "speedup_high"))
    said = (
        f"The untouched model with {free['name']}, which costs nothing, is {theirs:.2f}x as fast on {target}: this one"
    )
    if final[f"speedup_low{end}"] > high:
        return f"{said} is {final[f'speedup{end}'] / theirs:.2f}x of that, faster."
    if final[f"speedup_high{end}"] < low:
        return f"{said} is {final[f'speedup{end}'] / theirs:.2f}x of that, slower."
    return f"{said} is as fast as that."


def _bound(target: str, found: dict[str, Any], final: Scores, end: str) -> list[str]:
    """How far from the limit of the hardware."""
    if "bounds" not in found["baseline"]:
        return [f"The hardware's bound on {target} is not known: {found['baseline']['unknown']}"]
    bounds, baseline_ms = found["baseline"]["bounds"], final[f"baseline_latency_ms{end}"]
    closed = gap_closed(baseline_ms, final[f"latency_ms{end}"], bounds["fused_ms"])
    gap = (
        "" if closed is None or verdict_of(final, end) is Verdict.TIE else f"; of the gap this one closes {closed:.0%}"
    )
    return [
        f"What holds the untouched model back on {target} is {bounds['binding']};"
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
