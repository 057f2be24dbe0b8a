"""The recipe: which methods, with which parameters, and how the model is trained in between."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from autocompress.document import Document


class Step(Document):
    """One method and its parameters; parameters left out take the method's defaults."""

    method: str
    params: dict[str, Any] = {}

    def __str__(self) -> str:
        params = ", ".join(f"{name}={_short(value)}" for name, value in self.params.items())
        return f"{self.method}({params})" if params else self.method


class Recovery(Document):
    """The training between reshape and finalize; zero epochs is none."""

    epochs: int = Field(default=0, ge=0)
    """Passes over the training data."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """The peak of the schedule."""
    batch_size: int = Field(default=64, ge=1)
    """Samples per optimizer step."""


class Recipe(Document):
    """Steps in the order of their techniques, and the recovery. The empty recipe is the baseline."""

    steps: tuple[Step, ...] = ()
    recovery: Recovery = Recovery()

    def __str__(self) -> str:
        text = " + ".join(str(step) for step in self.steps) or "baseline"
        epochs = self.recovery.epochs
        return f"{text}, {epochs} epoch{'s' * (epochs > 1)}" if epochs else text

    @property
    def key(self) -> str:
        """Equal for equal recipes: floats are compared to nine digits."""
        return json.dumps(_rounded(self.plain()), sort_keys=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
