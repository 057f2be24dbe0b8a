"""How much a candidate is worth: expected hypervolume gain, times probability of meeting the limits, per second."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autocompress.search.forecast import Outlook
from autocompress.search.hypervolume import boxes, expected_gain, front, hypervolume

Array = npt.NDArray[np.float64]

MARGIN = 0.1
"""How far the reference point lies beyond the front's worst values, as a share of the front's extent."""
BULK = 1.0
"""Share of what was scored that lies within the frame: better trials may be found where the front has none yet."""
FRONT_TRIALS = 100
"""Points of the front that a gain is measured against, so that its time is bounded."""


class Yardstick:
    """The front so far, each objective scaled by its extent: what the gain of a candidate is measured against."""

    def __init__(self, feasible: Array, scored: Array) -> None:
        """From the points that meet the limits and from all, (trials, objectives) each, smaller being better."""
        self.front = len(feasible) > 0
        frame = feasible[front(feasible)] if self.front else scored
        low, whole = frame.min(0), np.ptp(scored, axis=0)
        high = np.maximum(frame.max(0), np.quantile(scored, BULK, axis=0))
        self._low = low
        self._span = np.where(high > low, high - low, np.where(whole > 0, whole, 1.0))
        self._reference = (high - low) / self._span + MARGIN
        self._points = spread((frame - low) / self._span, FRONT_TRIALS) if self.front else np.empty((0, len(low)))
        self._boxes = boxes(self._points, self._reference)
        self._volume = hypervolume(self._points, self._reference)

    def gain(self, outlook: Outlook) -> Array:
        """Expected gain of candidates as a share of the front's hypervolume, or of the frame's when there is none."""
        samples = (outlook.samples - self._low) / self._span
        gain = np.zeros(samples.shape[1])
        hopeful = self._may_gain(samples.min(0))
        gain[hopeful] = expected_gain(samples[:, hopeful], *self._boxes) / (self._volume or 1.0)
        return gain

    def _may_gain(self, hoped: Array) -> npt.NDArray[np.bool_]:
        """Which points, the best that candidates may score, are not dominated."""
        inside = (hoped < self._reference).all(1)
        for point in self._points:
            inside &= ~(point <= hoped).all(1)
        return np.asarray(inside)


def spread(points: Array, count: int) -> Array:
    """At most `count` of the points, each the farthest from those before it; the best of each objective first."""
    if len(points) <= count:
        return points
    chosen = list(dict.fromkeys(points.argmin(0).tolist()))
    distance = np.min([((points - points[index]) ** 2).sum(1) for index in chosen], axis=0)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return np.asarray(points[chosen])
