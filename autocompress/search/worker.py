"""The Ray Tune trainable: a process that carries out one trial after another."""

from __future__ import annotations

from typing import Any

from ray import tune

from autocompress.outcome import STOPPED
from autocompress.recipe import Recipe
from autocompress.search.screening import Hurdles
from autocompress.search.trial import TrialContext, TrialRunner


class TrialWorker(tune.Trainable):  # type: ignore[misc]
    """One step is a trial up to its next rung, or to its end.

    Ray reuses the process after a trial that ended well or was stopped, and ends it after another.
    """

    def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
        assert context is not None
        self.runner = TrialRunner(context)

    def step(self) -> dict[str, Any]:
        recipe = Recipe.parse(self.config["recipe"], "recipe")
        told = self.config["hurdles"]
        outcome = self.runner.run(self.config["number"], recipe, told and Hurdles.from_json(told))
        return {"done": outcome.state != STOPPED, "outcome": outcome.to_json()}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True
