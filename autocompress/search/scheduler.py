"""Ray Tune's scheduler: asks the search at each rung whether a trial goes on.

Ray's own ASHA compares by one metric. For Ray a stopped trial is over; the search proposes its recipe again if it is to
go on.
"""

from __future__ import annotations

from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from autocompress.outcome import STOPPED, Outcome


class RungLoop(Protocol):
    """What decides."""

    def at_rung(self, number: int, outcome: Outcome) -> bool: ...


class RungScheduler(FIFOScheduler):  # type: ignore[misc]
    """First in, first out, until the next rung; and keeps what Ray says of a failure, which searchers are not told."""

    def __init__(self, loop: RungLoop) -> None:
        super().__init__()
        self._loop: RungLoop | None = loop
        self.text: dict[str, str] = {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """A trial's next step, or its end: what it reports is how it ended if it does not go on."""
        assert self._loop is not None
        outcome = Outcome.from_json(result["outcome"])
        goes_on = outcome.state != STOPPED or self._loop.at_rung(trial.config["number"], outcome)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        with open(trial.error_file, encoding="utf-8") as file:
            self.text[trial.trial_id] = file.read()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of it is to be kept in a snapshot of Ray's: the study is the truth."""
        return {**self.__dict__, "_loop": None}
