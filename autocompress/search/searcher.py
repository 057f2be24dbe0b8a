"""Ray Tune's way to ask a search for trials. Ray's own OptunaSearch loses failed trials and cannot pass limits on."""

from __future__ import annotations

from typing import Any, Protocol

from ray.tune.search import Searcher

from autocompress.outcome import Outcome
from autocompress.search.scheduler import RungScheduler
from autocompress.search.study import Proposal


class Loop(Protocol):
    """The two halves of the main loop."""

    @property
    def done(self) -> bool: ...

    def propose(self) -> Proposal | None: ...

    def finish(self, number: int, outcome: Outcome | str) -> None: ...


class LoopSearcher(Searcher):  # type: ignore[misc]
    """Hands proposals to Ray Tune and outcomes back."""

    def __init__(self, loop: Loop, scheduler: RungScheduler) -> None:
        super().__init__(metric=None, mode=None)
        self._loop: Loop | None = loop
        self._scheduler = scheduler
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        assert self._loop is not None
        proposal = self._loop.propose()
        if proposal is None:
            return Searcher.FINISHED if self._loop.done else None
        self._numbers[trial_id] = proposal.number
        hurdles = proposal.hurdles and proposal.hurdles.to_json()
        return {"number": proposal.number, "recipe": proposal.recipe.plain(), "hurdles": hurdles}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called once a trial; one without a result failed, or was cut off when the time was up.

        So was one at a rung that the search has not stopped, which the search knows.
        """
        assert self._loop is not None
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        if error:
            self._loop.finish(number, self._scheduler.text.get(trial_id, ""))
        elif result and "outcome" in result:
            self._loop.finish(number, Outcome.from_json(result["outcome"]))
        # else it was stopped by the time budget or Ctrl-C: the study closes it as interrupted

    def __getstate__(self) -> dict[str, Any]:
        """Ray snapshots its searcher now and then; ours has nothing that a snapshot should keep."""
        return {**self.__dict__, "_loop": None}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search continues from its study."""
