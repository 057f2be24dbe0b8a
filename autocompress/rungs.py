"""Rungs: where in its training a trial is compared with others, and what a comparison there is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from autocompress.outcome import STOPPED, Outcome

ETA = 3
"""Of the trials that reach a rung, one in three goes on."""
RUNGS = {"1/9": ETA**2, "1/3": ETA}
"""Rungs by name: the share of a recipe's epochs after which it is there. The learning rate is scheduled over a recipe's
own epochs, so recipes of any length are equally far in it there."""
POOR = 0.5
"""A rank correlation below this says little about the end."""
PAIRS = 6
"""Trials that a rank correlation takes to say anything."""


def rungs_of(epochs: int) -> dict[int, str]:
    """The rungs of a training by the epoch after which they come; none of fewer than three epochs."""
    return {round(epochs / parts): name for name, parts in RUNGS.items() if epochs >= parts}


@dataclass(frozen=True)
class RungReport:
    """How well the order at a rung tells the order at the end."""

    trials: int
    """Those that were scored at both."""
    rank_correlation: float | None
    """Spearman's, of the objective at both; None where too few were."""
    stopped: int
    """Trials that ended here."""

    @property
    def poor(self) -> bool:
        return self.rank_correlation is not None and self.rank_correlation < POOR

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.rank_correlation is None:
            return f"too few trials ({self.trials}) to tell its rank correlation with the end"
        return f"rank correlation with the end {self.rank_correlation:.2f} over {self.trials} trials"


def rung_reports(outcomes: Iterable[Outcome], objective: str) -> dict[str, RungReport]:
    """By rung; of those that any trial reached."""
    reached = [outcome for outcome in outcomes if outcome.rungs]
    found = {}
    for name in RUNGS:
        pairs = [(o.rungs[name], o.scores[objective]) for o in reached if name in o.rungs and o.scored]
        stopped = sum(outcome.state == STOPPED and outcome.rung == name for outcome in reached)
        if pairs or stopped:
            found[name] = RungReport(len(pairs), rank_correlation(pairs), stopped)
    return found


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's rho, equal values sharing their mean rank; None for fewer than `PAIRS` pairs or one side all equal."""
    ranks = pd.DataFrame(pairs, columns=["rung", "end"]).rank().to_numpy()
    if len(pairs) < PAIRS or (np.ptp(ranks, axis=0) == 0).any():
        return None
    return float(np.corrcoef(ranks.T)[0, 1])
