"""How a trial ended."""

from __future__ import annotations

import json
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


def failure(cause: str, error: str, method: str = "", plugin: str = "", work_s: float = 0.0) -> Outcome:
    """An outcome `failed:<cause>`."""
    assert cause in CAUSES, cause
    return Outcome(f"{FAILED}{cause}", error=error, method=method, plugin=plugin, work_s=work_s)
