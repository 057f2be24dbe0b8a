"""How a trial ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

OK, INFEASIBLE, SCREENED, INTERRUPTED = "ok", "infeasible", "screened", "interrupted"
FAILED = "failed:"
CAUSES = ("raise", "nan", "no_effect", "outputs_differ", "timeout", "killed", "nothing")
"""What follows `failed:`."""


@dataclass(frozen=True)
class Outcome:
    """The end of a trial, as kept in the study and in its folder."""

    state: str
    """`ok`, `infeasible`, `screened` (hopeless, and so not trained) or `failed:<cause>`; an `interrupted` trial is run
    again when the search continues."""
    scores: dict[str, float] = field(default_factory=dict)
    """Metrics by name, `size_bytes`, `latency_ms`, `speedup` and its interval; without metrics of a screened one."""
    error: str = ""
    """One line, for a failure, or why it was screened."""
    method: str = ""
    """The method that was acting when it failed."""
    plugin: str = ""
    """The distribution of that method, with its version."""
    work_s: float = 0.0
    """Seconds spent compressing and scoring, without the engine's own overhead."""
    training_s: float = 0.0
    """Those of them that were spent training."""
    spared_s: float = 0.0
    """Seconds that its training had taken in an earlier trial, from which it was taken."""
    screening_s: float = 0.0
    """Seconds spent finding out before the training whether it is hopeless."""

    @property
    def scored(self) -> bool:
        return self.state in (OK, INFEASIBLE)

    @property
    def failed(self) -> bool:
        return self.state.startswith(FAILED)

    @property
    def counts(self) -> bool:
        """Whether it is a trial of the budget and a row of the table."""
        return self.scored or self.failed or self.state == SCREENED

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        data: dict[str, Any] = json.loads(text)
        return cls(**data)


@dataclass(frozen=True)
class Savings:
    """What a search did not have to train."""

    trainings: int
    """Trials whose recipe has a training, and that came as far as that."""
    spared: int
    """Those of them that found it done."""
    spared_s: float
    """What those trainings had taken when they were done."""
    screened: int
    """Trials that ended before their training since they were hopeless."""
    screened_s: float | None
    """An estimate of what those trainings would have taken: the mean of all others; None where there is no other."""
    screening_s: float
    """What looking took, at all trials."""

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Savings:
        known = list(outcomes)
        trained = [
            outcome.training_s or outcome.spared_s for outcome in known if outcome.training_s or outcome.spared_s
        ]
        spared = [outcome.spared_s for outcome in known if outcome.spared_s]
        screened = sum(outcome.state == SCREENED for outcome in known)
        return cls(
            trainings=len(trained),
            spared=len(spared),
            spared_s=sum(spared),
            screened=screened,
            screened_s=screened * fmean(trained) if trained else None,
            screening_s=sum(outcome.screening_s for outcome in known),
        )

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """In words; none where nothing was saved."""
        lines = []
        if self.spared:
            lines.append(f"The store spared {self.spared} of {self.trainings} trainings, about {self.spared_s:.3g} s.")
        if self.screened:
            saved = "" if self.screened_s is None else f", which may have taken about {self.screened_s:.3g} s,"
            lines.append(f"Screening spared {self.screened} trainings{saved} in {self.screening_s:.3g} s.")
        return lines


def failure(cause: str, error: str, method: str = "", plugin: str = "", work_s: float = 0.0) -> Outcome:
    """An outcome `failed:<cause>`."""
    assert cause in CAUSES, cause
    return Outcome(f"{FAILED}{cause}", error=error, method=method, plugin=plugin, work_s=work_s)
