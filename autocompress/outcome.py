"""How a trial ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

OK, INFEASIBLE, INTERRUPTED = "ok", "infeasible", "interrupted"
FAILED = "failed:"
CAUSES = ("raise", "nan", "no_effect", "outputs_differ", "timeout", "killed", "nothing")
"""What follows `failed:`."""


@dataclass(frozen=True)
class Outcome:
    """The end of a trial, as kept in the study and in its folder."""

    state: str
    """`ok`, `infeasible` or `failed:<cause>`; an `interrupted` trial is run again when the search continues."""
    scores: dict[str, float] = field(default_factory=dict)
    """Metrics by name, `size_bytes`, `latency_ms`, `speedup` and its interval."""
    error: str = ""
    """One line, for a failure."""
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

    @property
    def scored(self) -> bool:
        return self.state in (OK, INFEASIBLE)

    @property
    def failed(self) -> bool:
        return self.state.startswith(FAILED)

    @property
    def counts(self) -> bool:
        """Whether it is a trial of the budget and a row of the table."""
        return self.scored or self.failed

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

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Savings:
        trained = [outcome for outcome in outcomes if outcome.training_s or outcome.spared_s]
        spared = [outcome.spared_s for outcome in trained if outcome.spared_s]
        return cls(len(trained), len(spared), sum(spared))

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """In words; none where nothing was saved."""
        if not self.spared:
            return []
        return [f"The store spared {self.spared} of {self.trainings} trainings, about {self.spared_s:.3g} s."]


def failure(cause: str, error: str, method: str = "", plugin: str = "", work_s: float = 0.0) -> Outcome:
    """An outcome `failed:<cause>`."""
    assert cause in CAUSES, cause
    return Outcome(f"{FAILED}{cause}", error=error, method=method, plugin=plugin, work_s=work_s)
