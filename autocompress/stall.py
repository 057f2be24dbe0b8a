"""When more epochs of training are not worth their time."""

from __future__ import annotations

PATIENCE = 3
"""Epochs in a row that must bring less than `LEAST` together."""
LEAST = 0.005
"""The share of the loss by which it must fall to count as better."""
WARM_UP = 0.3
"""The share of a one-cycle schedule in which the learning rate rises; what the loss does there says nothing."""


class Stall:
    """Hears the mean training loss of each epoch and says when it stalls.

    The training loss, since trials are scored on the validation data, which must have no say in the model. A flat loss
    at a high learning rate is noise as often as an end (the loss falls when the rate does), so nothing is cut off
    there: whoever asks lets the rest of the schedule pass in one epoch. A short decay from a constant rate is
    worth as much as a long one: Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations".
    """

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._best: float | None = None
        self._flat = 0

    def after(self, epoch: int, loss: float) -> bool:
        """Whether the loss stalls with that epoch, the first is 0, and more than one is left."""
        if epoch < WARM_UP * self._epochs:
            return False
        if self._best is None or loss < self._best - LEAST * abs(self._best):
            self._best, self._flat = loss, 0
        else:
            self._flat += 1
        return self._flat >= PATIENCE and self._epochs - epoch - 1 > 1

    def __str__(self) -> str:
        return f"the loss fell by less than {LEAST:.1%} in {PATIENCE} epochs"
