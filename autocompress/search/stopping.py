"""Which trials go on at a rung, and which of those that were stopped go on later."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autocompress.limits import Limit, Scores
from autocompress.metric import Metric
from autocompress.outcome import STOPPED, Outcome
from autocompress.rungs import ETA, RungReport, rung_reports
from autocompress.search.promotion import Point, going_on, ranked
from autocompress.search.screening import AHEAD, judgeable, usual_latencies
from autocompress.selection import time_ratios


@dataclass(frozen=True)
class Verdict:
    """Whether a trial goes on at a rung, and why not."""

    goes_on: bool
    reason: str = ""


class Stopping:
    """Compares trials at their rungs; knows only what it is told: outcomes by trial, of each recipe the latest.

    Trials are compared by the objective at the rung, by size and by time on every target, sizes and times within 10 %
    of each other being equal, since the measuring error would otherwise put nearly all on the front. The best third
    of all that reached the rung goes on, two thirds where the order there says little about the end
    (`RungReport.poor`), and everything as long as fewer than three were there.

    Limits on size and time are judged by what was measured. One on the objective is judged by the objective at the rung
    with the largest gain that any trial had from there to its end, and not before there is one. Limits on other
    metrics are not judged here.
    """

    def __init__(self, objective: Metric, limits: Sequence[Limit]) -> None:
        self._objective, self._limits = objective, limits
        self._sign = 1 if objective.higher_is_better else -1

    def reports(self, outcomes: Mapping[int, Outcome]) -> dict[str, RungReport]:
        """What is known of each rung."""
        return rung_reports(outcomes.values(), self._objective.name)

    def verdict(self, number: int, outcomes: Mapping[int, Outcome], baseline: Scores) -> Verdict:
        """Whether a trial goes on that came to a rung, its last one."""
        name = outcomes[number].rung
        assert name is not None
        order, count = self._order(name, outcomes, baseline)
        place = order.index(number) if number in order else -1
        if place < count:
            return Verdict(True)
        noun = "one goes" if count == 1 else f"{count} go"
        return Verdict(
            False, f"at {name} of its epochs it is number {place + 1} of {len(order)}, and the best {noun} on"
        )

    def promotable(self, outcomes: Mapping[int, Outcome], baseline: Scores) -> int | None:
        """The best stopped trial that would go on now, of the latest rung that has one."""
        stopped = {number: outcome.rung for number, outcome in outcomes.items() if outcome.state == STOPPED}
        for name in reversed(list(self.reports(outcomes))):
            order, count = self._order(name, outcomes, baseline)
            for number in order[:count]:
                if stopped.get(number) == name:
                    return number
        return None

    def _order(self, name: str, outcomes: Mapping[int, Outcome], baseline: Scores) -> tuple[list[int], int]:
        """Of all that came to a rung, the best first, and how many go on."""
        there = {n: o for n, o in outcomes.items() if name in o.rungs and "size_bytes" in o.scores}
        if len(there) < ETA:
            return list(there), len(there)
        gain = self._gain(name, there)
        points = [self._point(outcome, name, gain, baseline) for outcome in there.values()]
        numbers, mild = list(there), name in self._mild(outcomes)
        return [numbers[index] for index in ranked(points)], going_on(len(there), (2 if mild else 1) / ETA)

    def _mild(self, outcomes: Mapping[int, Outcome]) -> list[str]:
        return [name for name, report in self.reports(outcomes).items() if report.poor]

    def _gain(self, name: str, outcomes: Mapping[int, Outcome]) -> float | None:
        """The largest from the rung to the end, of the trials that have both."""
        ends = [(o.rungs[name], o.scores[self._objective.name]) for o in outcomes.values() if o.scored]
        return max((self._sign * (end - rung) for rung, end in ends), default=None)

    def _point(self, outcome: Outcome, name: str, gain: float | None, baseline: Scores) -> Point:
        value, scores = outcome.rungs[name], dict(outcome.scores)
        measured = [scores["size_bytes"] / baseline["size_bytes"], *time_ratios(scores)]
        costs = (-self._sign * value, *(float(round(math.log(share) / math.log1p(AHEAD))) for share in measured))
        scores |= usual_latencies(scores, baseline)
        known = [limit for limit in self._limits if judgeable(limit, scores)]
        if gain is not None:
            scores[self._objective.name] = value + self._sign * gain
            known += [limit for limit in self._limits if limit.metric and limit.metric.name == self._objective.name]
        return Point(costs, sum(max(0.0, limit.violation(scores, baseline)) for limit in known))
