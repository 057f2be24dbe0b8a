"""How far a trial is that is carried out from rung to rung."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn
from torch.utils.data import Subset

from autocompress.data import Samples
from autocompress.measure.accuracy import evaluate
from autocompress.measure.device import Target
from autocompress.outcome import Outcome
from autocompress.prefix import Trained
from autocompress.rungs import rungs_of
from autocompress.task import Task

SAMPLES = 2048
"""Of the validation data, spread over it, on which a model is scored at a rung, or all where there are fewer."""


@dataclass
class Progress:
    """What a worker remembers of its trial from one step to the next."""

    number: int
    halted: Trained | None = None
    """Where its training stands."""
    looked: bool = False
    """Whether it was screened, or found not worth it."""
    screened: dict[str, float] = field(default_factory=dict)
    """Size and latency, as screening measured them."""
    rungs: dict[str, float] = field(default_factory=dict)
    """The objective at each rung so far."""
    epochs: int = 0
    """Those of its training that are done."""
    spent_s: float = 0.0
    """Of its minutes."""
    work_s: float = 0.0
    training_s: float = 0.0
    spared_s: float = 0.0
    screening_s: float = 0.0
    rungs_s: float = 0.0

    def until(self, done: int, epochs: int) -> int | None:
        """After which of its epochs to halt a training that has so many done.

        A trial whose size and latency are not known is not compared with others, and so never halted.
        """
        told = bool(self.screened)
        ahead = [epoch for epoch, name in rungs_of(epochs).items() if epoch >= done and name not in self.rungs]
        return min(ahead, default=None) if told else None

    def told(self, outcome: Outcome) -> Outcome:
        """The outcome, with what all its steps took."""
        return replace(
            outcome,
            work_s=self.work_s + outcome.work_s,
            training_s=self.training_s,
            spared_s=self.spared_s,
            screening_s=self.screening_s,
            rungs=dict(self.rungs),
            rungs_s=self.rungs_s,
            epochs=self.epochs,
        )


def rung_score(model: nn.Module, task: Task, target: Target) -> float:
    """The objective on a sample of the validation data. Raises NotANumber when it has none."""
    objective = task.objective
    return evaluate(model, sample(task.validation), replace(task, metrics=(objective,)), target)[objective.name]


def sample(data: Samples) -> Samples:
    """The same `SAMPLES` samples each time."""
    count = len(data)
    if count <= SAMPLES:
        return data
    return Subset(data, [index * count // SAMPLES for index in range(SAMPLES)])  # type: ignore[arg-type]
