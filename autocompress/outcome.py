"""How a trial ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

OK, INFEASIBLE, SCREENED, STOPPED, INTERRUPTED = "ok", "infeasible", "screened", "stopped", "interrupted"
FAILED = "failed:"
CAUSES = ("raise", "nan", "no_effect", "outputs_differ", "timeout", "killed", "nothing")
"""What follows `failed:`."""


@dataclass(frozen=True)
class Outcome:
    """The end of a trial, as kept in the study and in its folder."""

    state: str
    """`ok`, `infeasible`, `screened` (hopeless, and so not trained), `stopped` (at a rung of its training, from where
    another trial can go on) or `failed:<cause>`; an `interrupted` trial is run again when the search continues."""
    scores: dict[str, float] = field(default_factory=dict)
    """Metrics by name, `size_bytes`, `latency_ms`, `speedup` and its interval; without metrics of one that was
    screened or stopped."""
    error: str = ""
    """One line, for a failure, or why it was screened or stopped."""
    method: str = ""
    """The method that was acting when it failed."""
    plugin: str = ""
    """The distribution of that method, with its version."""
    work_s: float = 0.0
    """Seconds spent compressing and scoring, without the engine's own overhead."""
    training_s: float = 0.0
    """Those of them that were spent training."""
    spared_s: float = 0.0
    """Seconds that its training had taken before, in another trial or until it was interrupted."""
    screening_s: float = 0.0
    """Seconds spent finding out before the training whether it is hopeless."""
    rungs: dict[str, float] = field(default_factory=dict)
    """The objective at each rung of its training, by the rung's name (see `rungs_of`), on a sample of the validation
    data and before it is finalized."""
    rungs_s: float = 0.0
    """Seconds spent scoring it there and keeping its training."""
    epochs: int = 0
    """Those of its training that were done, here or before."""
    epochs_left: int = 0
    """Of a screened or stopped trial, those that its training still had."""
    prefix: str = ""
    """The same for all recipes that share a training; empty where none is shared."""

    @property
    def scored(self) -> bool:
        return self.state in (OK, INFEASIBLE)

    @property
    def failed(self) -> bool:
        return self.state.startswith(FAILED)

    @property
    def rung(self) -> str | None:
        """The name of the last rung that it came to, if it came to any."""
        return next(reversed(self.rungs), None)

    @property
    def counts(self) -> bool:
        """Whether it is a trial of the budget and a row of the table."""
        return self.scored or self.failed or self.state in (SCREENED, STOPPED)

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
    """Trainings that were not begun, since every trial that wanted them was hopeless."""
    screened_s: float | None
    """A low estimate of what those would have taken: their epochs times the lower quartile of what an epoch took, of
    trainings that went on to their end if there are any; None where nothing was trained."""
    screening_s: float
    """What looking took, at all trials."""
    stopped: int
    """Trainings that ended at a rung, and that no trial went on with later."""
    stopped_s: float
    """An estimate of what the rest of those would have taken, in the same way."""
    rungs_s: float
    """What rungs took, at all trials."""

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Savings:
        """Of trials, where one that was stopped or interrupted and went on later is one (see `as_one`, `own`).

        A training that several trials share is saved once, and not at all if one of them did it in the end.
        """
        known = list(outcomes)
        epoch_s = _epoch_s(known)
        spared = [outcome.spared_s for outcome in known if outcome.spared_s]
        screened, stopped = [], []
        for sharing in _by_prefix(known):
            begun = [outcome.epochs_left for outcome in sharing if outcome.epochs]
            if begun:
                stopped += [min(begun)] if min(begun) else []
            elif sharing[0].state == SCREENED:
                screened.append(sharing[0].epochs_left)
        return cls(
            trainings=sum(outcome.training_s + outcome.spared_s > 0 for outcome in known),
            spared=len(spared),
            spared_s=sum(spared),
            screened=len(screened),
            screened_s=None if epoch_s is None else epoch_s * sum(screened),
            screening_s=sum(outcome.screening_s for outcome in known),
            stopped=len(stopped),
            stopped_s=(epoch_s or 0.0) * sum(stopped),
            rungs_s=sum(outcome.rungs_s for outcome in known),
        )

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """In words; of screening and stopping also what they took where they saved nothing."""
        lines = []
        if self.spared:
            lines.append(f"The store spared {self.spared} of {self.trainings} trainings, about {self.spared_s:.3g} s.")
        if self.screened or self.screening_s:
            trainings = _trainings(self.screened)
            lines.append(f"Screening spared {trainings}{_estimate(self.screened_s)}, in {self.screening_s:.3g} s.")
        if self.stopped or self.rungs_s:
            rest = f"the rest of {_trainings(self.stopped)}" if self.stopped else "nothing"
            lines.append(f"Stopping spared {rest}{_estimate(self.stopped_s)}, in {self.rungs_s:.3g} s.")
        return lines


def _trainings(count: int) -> str:
    return {0: "nothing", 1: "a training"}.get(count, f"{count} trainings")


def _estimate(seconds: float | None) -> str:
    return f", which may have taken about {seconds:.3g} s" if seconds else ""


def as_one(stopped: Outcome, later: Outcome) -> Outcome:
    """A trial that was stopped, and the one that went on with it, as if it had never been stopped."""
    return replace(
        later,
        work_s=stopped.work_s + later.work_s,
        training_s=stopped.training_s + later.training_s,
        spared_s=max(0.0, round(later.spared_s - stopped.training_s, 6)),  # sums of seconds, which have errors
        screening_s=stopped.screening_s + later.screening_s,
        rungs=stopped.rungs | later.rungs,
        rungs_s=stopped.rungs_s + later.rungs_s,
    )


def own(outcome: Outcome) -> Outcome:
    """A trial that was interrupted before and run again: what it found trained was its own training."""
    return replace(outcome, training_s=outcome.training_s + outcome.spared_s, spared_s=0.0)


def _by_prefix(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Those that share a training together."""
    groups: dict[str | int, list[Outcome]] = {}
    for place, outcome in enumerate(outcomes):
        groups.setdefault(outcome.prefix or place, []).append(outcome)
    return list(groups.values())


def _epoch_s(outcomes: Sequence[Outcome]) -> float | None:
    """The lower quartile over trainings of what an epoch took; of a few, the least. A process is slow in its first
    training, and any is slow while it begins, so those that ended early are taken only where none went on to its end.
    """
    trained = [outcome for outcome in outcomes if outcome.epochs and outcome.training_s + outcome.spared_s]
    whole = [outcome for outcome in trained if not outcome.epochs_left]
    paces = sorted((outcome.training_s + outcome.spared_s) / outcome.epochs for outcome in whole or trained)
    return paces[(len(paces) - 1) // 4] if paces else None


def failure(cause: str, error: str, method: str = "", plugin: str = "", work_s: float = 0.0) -> Outcome:
    """An outcome `failed:<cause>`."""
    assert cause in CAUSES, cause
    return Outcome(f"{FAILED}{cause}", error=error, method=method, plugin=plugin, work_s=work_s)
