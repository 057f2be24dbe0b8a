"""What a trial's quality is measured by: accuracy, or the user's own metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autocompress.errors import InvalidInput

RESERVED = frozenset(
    "trial state size_bytes size latency_ms latency baseline_latency_ms speedup speedup_low speedup_high resolution"
    " recipe proposed error method plugin work_s".split()
)
"""Columns of the trials' table and subjects of limits."""


@dataclass(frozen=True)
class Metric:
    """A named figure of quality over a whole split."""

    name: str
    """As used in limits and columns: `accuracy`, `f1`, `perplexity`."""
    function: Callable[[Any, Any], float]
    """Of all outputs (N, ...) and all targets (N, ...) of a split, on the CPU.

    Sequences of different lengths are padded to the longest: outputs with 0, targets with -100.
    """
    higher_is_better: bool = True
    is_share: bool = False
    """Whether it lies in 0-1, so that limits on it are in percent or points."""

    def __post_init__(self) -> None:
        if self.name in RESERVED or self.name.startswith("test_"):
            raise InvalidInput(f"a metric's name must not be a column of the trials' table, but got {self.name!r}")

    def drop(self, value: float, baseline: float) -> float:
        """How much worse than the baseline, in the metric's own unit; negative when better."""
        return baseline - value if self.higher_is_better else value - baseline


def top1_accuracy(outputs: Any, targets: Any) -> float:
    """Share of rows whose largest logit (N, ..., classes) is the target's class (N, ...): 0-1.

    Raises ValueError for targets that are no classes of the outputs.
    """
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) < 2 or targets.shape != shape[:-1] or targets.is_floating_point():
        raise ValueError(
            "accuracy compares logits (N, ..., classes) with classes (N, ...), but outputs are"
            f" {type(outputs).__name__ if shape is None else tuple(shape)} and targets"
            f" {getattr(targets, 'dtype', type(targets).__name__)} {tuple(getattr(targets, 'shape', ()))}:"
            " give the task `metrics` of its own"
        )
    return float((outputs.argmax(dim=-1) == targets).float().mean())


ACCURACY = Metric("accuracy", top1_accuracy, is_share=True)
