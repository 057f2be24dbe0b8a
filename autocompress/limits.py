"""Limits: constraints in words, with units, absolute or relative to the baseline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.errors import InvalidInput, did_you_mean
from autocompress.measure.statistics import Verdict, verdict
from autocompress.metric import Metric

Scores = Mapping[str, float]
"""What a trial scored: the metrics by name, `size_bytes`, `latency_ms`, `speedup` (baseline's latency over its own).

Of a second target the names end in it: `latency_ms[cpu@8]`, `speedup[cpu@8]`.
"""

UNITS = {
    "size": {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "speedup": {"x": 1.0},
}
SHARE_UNITS = {"%": 0.01, "point": 0.01, "points": 0.01}
METRIC_PRECISION = 1e-6
"""Share of a metric that is noise of float32: 90 % less 89 % must not be more than 1 %."""
EXAMPLES = {"size": "4 MB", "latency": "5 ms", "speedup": "2x"}

_FORM = re.compile(
    r"(?P<subject>\w+)(?:\[(?P<target>[^\]]+)\])?\s*(?P<relation><=|>=)\s*"
    r"(?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*(?P<unit>[A-Za-z]+|%)?(?P<relative>\s+of\s+baseline)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Limit:
    """A bound on one thing that a trial scored."""

    text: str
    """As the user wrote it."""
    subject: str
    """`size`, `latency`, `speedup`, a metric's name, or that name with `_drop`."""
    upper: bool
    """Whether the value may be at most the bound, or must be at least."""
    bound: float
    """In bytes, milliseconds or the metric's own unit; a ratio when relative."""
    relative: bool = False
    """Whether the bound is a share of the baseline's value."""
    metric: Metric | None = None
    """What `subject` speaks of, when it is a metric or its drop."""
    target: str | None = None
    """The target of a limit on time, if it names one: `cpu@8`, or all of a device, `cuda:0`."""
    suffixes: tuple[str, ...] = ("",)
    """Of the scores that a limit on time bounds, one a target: it holds when it holds for the slowest."""

    def value(self, scores: Scores, baseline: Scores) -> float:
        """What the limit bounds, in the bound's unit."""
        if self.metric is not None:
            own, other = scores[self.metric.name], baseline[self.metric.name]
            if self.relative:
                return own / other if other else 1.0  # nothing is compared with 0: see `check_against_baseline`
            return self.metric.drop(own, other) if self.is_drop else own
        if self.subject == "size":
            return scores["size_bytes"] / (baseline["size_bytes"] if self.relative else 1)
        if self.subject == "latency" and not self.relative:
            return max(scores[f"latency_ms{suffix}"] for suffix in self.suffixes)
        speedup = min(scores[f"speedup{suffix}"] for suffix in self.suffixes)
        return speedup if self.subject == "speedup" else 1 / speedup

    def violation(self, scores: Scores, baseline: Scores) -> float:
        """How far beyond the bound, as a share of it; zero or less when it holds."""
        excess = self.value(scores, baseline) - self.bound
        if self.metric is not None:
            size = max(abs(scores[self.metric.name]), abs(baseline[self.metric.name]))
            if abs(excess) <= METRIC_PRECISION * size:
                return 0.0
        return (excess if self.upper else -excess) / max(abs(self.bound), 0.01)

    def miss(self, scores: Scores, baseline: Scores) -> str:
        """`accuracy_drop is 1.80%, 0.80% beyond 'accuracy_drop <= 1%'`."""
        value = self.value(scores, baseline)
        excess = self._show(abs(value - self.bound)).removesuffix(" of baseline")
        return f"{self.name} is {self._show(value)}, {excess} beyond {self.text!r}"

    @property
    def name(self) -> str:
        """What it bounds: `size`, `latency[cpu@8]`."""
        return f"{self.subject}[{self.target}]" if self.target else self.subject

    @property
    def is_drop(self) -> bool:
        return self.metric is not None and self.subject != self.metric.name

    def _show(self, value: float) -> str:
        if self.relative:
            return f"{value:.1%} of baseline"
        if self.metric is not None:
            return f"{value:.2%}" if self.metric.is_share else f"{value:.4g}"
        if self.subject == "size":
            return show_bytes(value)
        return f"{value:.2f}x" if self.subject == "speedup" else show_ms(value)


def parse_limit(text: str, metrics: Sequence[Metric], targets: Sequence[str] = ("cpu@1",)) -> Limit:
    """A limit in words. Raises InvalidInput, naming the limit, for another form, subject, unit or target.

    `targets` are those that latency is measured on, the first one first.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(
            f"limit {text!r} must read SUBJECT <= NUMBER UNIT, like 'size <= 4 MB', 'latency <= 50% of baseline'"
            " or 'accuracy_drop <= 1%'"
        )
    subject, unit, relative = match["subject"], match["unit"], bool(match["relative"])
    number, upper = float(match["number"]), match["relation"] == "<="
    metric = _metric_of(subject, metrics)
    if metric is None and subject not in UNITS:
        known = [*UNITS, *(name for metric in metrics for name in (metric.name, f"{metric.name}_drop"))]
        raise InvalidInput(f"limit {text!r} bounds the unknown {subject!r}{did_you_mean(subject, known)}")
    if match["target"] and subject not in ("latency", "speedup"):
        raise InvalidInput(f"limit {text!r}: only a time has a target in brackets, but got {match['target']!r}")
    if relative:
        bound = _relative_bound(text, subject, metric, number, unit)
    elif metric is not None:
        bound = _metric_bound(text, metric, subject != metric.name, number, unit)
    else:
        bound = number * _factor(text, subject, unit)
    suffixes = _suffixes(text, match["target"], targets)
    return Limit(text, subject, upper, bound, relative, metric, match["target"], suffixes)


def parse_limits(
    texts: Sequence[str], metrics: Sequence[Metric], targets: Sequence[str] = ("cpu@1",)
) -> tuple[Limit, ...]:
    """All limits; raises InvalidInput also when two of them contradict each other."""
    limits = tuple(parse_limit(text, metrics, targets) for text in dict.fromkeys(texts))
    for low in limits:
        for high in limits:
            same = (low.subject, low.relative, low.target) == (high.subject, high.relative, high.target)
            if same and high.upper and not low.upper and low.bound > high.bound:
                raise InvalidInput(f"limits contradict each other: {low.text!r} and {high.text!r}; leave one out")
    return limits


def target_suffix(target: str, targets: Sequence[str]) -> str:
    """What the names of a target's scores end in: nothing for the first target, `[cpu@8]` for another."""
    return "" if target == targets[0] else f"[{target}]"


def verdict_of(scores: Scores, end: str = "") -> Verdict:
    """What the scores of a target say; `end` is how those of a further target end."""
    low, high, resolution = (scores[f"{name}{end}"] for name in ("speedup_low", "speedup_high", "resolution"))
    return verdict(low, high, resolution)


def check_against_baseline(limits: Sequence[Limit], baseline: Scores) -> None:
    """Raises InvalidInput for limits that say nothing, or contradict each other, beside the baseline's figures."""
    for limit in limits:
        if limit.relative and limit.metric is not None and not baseline[limit.metric.name]:
            raise InvalidInput(
                f"limit {limit.text!r} is a share of the baseline's {limit.metric.name}, which is 0: write a plain"
                f" bound, like '{limit.metric.name} {'<=' if limit.upper else '>='} 0.5'"
            )
    for low in limits:
        for high in limits:
            if low.upper == high.upper or not high.upper:
                continue
            at_least, at_most = _absolute(low, baseline), _absolute(high, baseline)
            if at_least[0] == at_most[0] and at_least[1] > at_most[1]:
                raise InvalidInput(
                    f"limits contradict each other for this baseline: {low.text!r} and {high.text!r}; leave one out"
                )


def missed_by_baseline(limits: Sequence[Limit], baseline: Scores) -> list[Limit]:
    """The plain bounds on metrics that the baseline is beyond: those that speak of it are meant to be."""
    absolute = [limit for limit in limits if limit.metric is not None and not (limit.is_drop or limit.relative)]
    return [limit for limit in absolute if limit.violation(baseline, baseline) > 0]


def show_bytes(size_bytes: float) -> str:
    """`345 B`, `12.3 kB`, `4.56 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size_bytes) >= 0.9995 * factor:  # what would be rounded to 1000 of the smaller unit
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes:.0f} B"


def show_ms(latency_ms: float) -> str:
    """`0.123 ms`, `12.3 ms`, `1234 ms`."""
    return f"{latency_ms:.3g} ms" if latency_ms < 1000 else f"{latency_ms:.0f} ms"


def _metric_of(subject: str, metrics: Sequence[Metric]) -> Metric | None:
    return next((metric for metric in metrics if subject in (metric.name, f"{metric.name}_drop")), None)


def _suffixes(text: str, wanted: str | None, targets: Sequence[str]) -> tuple[str, ...]:
    """Those of the targets that a limit speaks of: all, or those it names in brackets."""
    named = wanted and re.sub("x1$", "", wanted)  # one thread is what a target has anyway
    found = [target for target in targets if named in (None, target, target.split("@")[0])]
    if not found:
        raise InvalidInput(f"limit {text!r} is about {wanted!r}, but latency is measured on {', '.join(targets)}")
    return tuple(target_suffix(target, targets) for target in found)


def _factor(text: str, subject: str, unit: str | None) -> float:
    units = UNITS[subject]
    if unit in units:
        return units[unit]
    advice = f"write '{text.split('=')[0]}= {EXAMPLES[subject]}'"
    if subject != "speedup":
        advice += f" or '{text.split('=')[0]}= 25% of baseline'"
    if unit is None:
        raise InvalidInput(f"limit {text!r} has no unit: {advice}")
    if unit == "%":
        raise InvalidInput(f"limit {text!r}: a share of what? {advice}")
    raise InvalidInput(f"limit {text!r} has the unknown unit {unit!r}{did_you_mean(unit, units)}")


def _relative_bound(text: str, subject: str, metric: Metric | None, number: float, unit: str | None) -> float:
    if subject == "speedup" or (metric is not None and subject != metric.name):
        raise InvalidInput(
            f"limit {text!r}: only size, latency and metrics are relative to the baseline, but {subject} compares with"
            " it already: leave out 'of baseline'"
        )
    if unit != "%":
        raise InvalidInput(
            f"limit {text!r}: a share of the baseline is in percent, like '{subject} {'>=' if metric else '<='} 97% of"
            " baseline'"
        )
    return number / 100


def _metric_bound(text: str, metric: Metric, is_drop: bool, number: float, unit: str | None) -> float:
    if unit is None and is_drop and metric.is_share:
        raise InvalidInput(f"limit {text!r} has no unit: write '{metric.name}_drop <= {number:g}%'")
    if unit is not None and unit not in SHARE_UNITS:
        raise InvalidInput(f"limit {text!r} has the unknown unit {unit!r}{did_you_mean(unit, SHARE_UNITS)}")
    if unit is not None and not metric.is_share:
        raise InvalidInput(
            f"limit {text!r}: {metric.name} is no share, so its limits are plain numbers without {unit!r};"
            " a metric in 0-1 is made with is_share=True"
        )
    bound = number * (SHARE_UNITS[unit] if unit else 1)
    if metric.is_share and bound > 1:
        raise InvalidInput(
            f"limit {text!r}: {metric.name} lies in 0-1, but the bound is {bound:g}; write '90%' or '0.9'"
        )
    return bound


def _absolute(limit: Limit, baseline: Scores) -> tuple[str, float]:
    """What a limit bounds and where, in absolute units, so that different forms compare."""
    if limit.metric is not None:
        if not limit.is_drop:
            return limit.metric.name, limit.bound * (baseline[limit.metric.name] if limit.relative else 1)
        # a lower bound on quality is an upper bound on the drop: kept apart, it cannot contradict
        return limit.subject, limit.bound
    if limit.subject == "size":
        return "size", limit.bound * (baseline["size_bytes"] if limit.relative else 1)
    if limit.subject == "latency":
        slowest = max(baseline[f"latency_ms{suffix}"] for suffix in limit.suffixes)
        return limit.name, limit.bound * (slowest if limit.relative else 1)
    return limit.name, limit.bound
