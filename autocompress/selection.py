"""Which trials are worth having: the Pareto front, and the one that fits a scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import geometric_mean

from autocompress.errors import NothingFits
from autocompress.limits import Limit, Scores
from autocompress.metric import Metric


def pareto_front(scores: Mapping[int, Scores], objective: Metric) -> list[int]:
    """Numbers of the trials that no other beats in quality, size and all latencies together, best quality first."""
    costs = {number: _costs(values, objective) for number, values in scores.items()}
    front = [number for number, own in costs.items() if not any(_dominates(other, own) for other in costs.values())]
    return sorted(front, key=lambda number: costs[number])


def choose(
    scores: Mapping[int, Scores], baseline: Scores, objective: Metric, limits: Sequence[Limit], names: Mapping[int, str]
) -> int:
    """The trial that fits best among those that meet all limits.

    When quality is limited, it is the smallest and fastest (least product of size and time, of several targets the
    geometric mean of their times); else the one of best quality. Raises NothingFits, naming the nearest trial and by
    how much it misses, when no trial meets the limits.
    """
    fitting = {n: s for n, s in scores.items() if all(limit.violation(s, baseline) <= 0 for limit in limits)}
    if not fitting:
        raise NothingFits(_nearest(scores, baseline, limits, names))
    if any(limit.metric is not None for limit in limits):
        return min(fitting, key=lambda n: (fitting[n]["size_bytes"] * geometric_mean(time_ratios(fitting[n])), n))
    return min(fitting, key=lambda n: (_costs(fitting[n], objective), n))


def time_ratios(scores: Scores) -> list[float]:
    """Latency as a share of the baseline's in the same rounds, target by target, the first one first."""
    return [1 / value for name, value in scores.items() if name == "speedup" or name.startswith("speedup[")]


def _costs(scores: Scores, objective: Metric) -> tuple[float, ...]:
    quality = scores[objective.name]
    return (-quality if objective.higher_is_better else quality, scores["size_bytes"], *time_ratios(scores))


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _nearest(scores: Mapping[int, Scores], baseline: Scores, limits: Sequence[Limit], names: Mapping[int, str]) -> str:
    if not scores:
        return "nothing met your limits: no trial was scored"

    def miss(number: int) -> float:
        return sum(max(0.0, limit.violation(scores[number], baseline)) for limit in limits)

    number = min(scores, key=miss)
    misses = [limit.miss(scores[number], baseline) for limit in limits if limit.violation(scores[number], baseline) > 0]
    return f"nothing met your limits; the nearest is trial {number} ({names[number]}): {'; '.join(misses)}"
