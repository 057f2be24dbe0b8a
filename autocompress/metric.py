"""What a trial's quality is measured by: accuracy, or the user's own metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A named figure of quality over a whole split."""

    name: str
    """As used in limits and columns: `accuracy`, `f1`, `perplexity`."""
    function: Callable[[Any, Any], float]
    """Of all outputs (N, ...) and all targets (N, ...) of a split, on the CPU."""
    higher_is_better: bool = True
    is_share: bool = False
    """Whether it lies in 0-1, so that limits on it are in percent or points."""

    def drop(self, value: float, baseline: float) -> float:
        """How much worse than the baseline, in the metric's own unit; negative when better."""
        return baseline - value if self.higher_is_better else value - baseline


def top1_accuracy(outputs: Any, targets: Any) -> float:
    """Share of rows whose largest logit (N, classes) is the target's class (N,): 0-1."""
    return float((outputs.argmax(dim=-1) == targets).float().mean())


ACCURACY = Metric("accuracy", top1_accuracy, is_share=True)
