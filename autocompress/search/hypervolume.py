"""The hypervolume of a set of trials, and what one more is expected to add. All objectives are minimised."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def front(points: Array) -> npt.NDArray[np.intp]:
    """Indices of the points (n, objectives) that no other dominates; of equal ones, the first."""
    left = np.lexsort((*points.T, points.sum(1)))
    kept = []
    while left.size:
        kept.append(left[0])
        # none that follows dominates this one: its sum is larger
        left = left[~(points[left] >= points[left[0]]).all(1)]
    return np.array(kept, dtype=np.intp)


def boxes(points: Array, reference: Array) -> tuple[Array, Array]:
    """The region below the reference that no point dominates, as disjoint boxes: lows and highs, (boxes, objectives).

    Lows may be minus infinity. Each point cuts every box that it reaches into, dimension by dimension. Balanced points
    first makes few boxes: about four a point for three objectives, fifty for five.
    """
    low = np.full((1, len(reference)), -np.inf)
    high = reference[None].astype(float)
    for point in points[np.argsort((points - reference).max(1))] if len(points) else points:
        cut = (point < high).all(1)
        lows, highs = [low[~cut]], [high[~cut]]
        rest_low, rest_high = low[cut], high[cut]
        for axis, value in enumerate(point):
            below = rest_low[:, axis] < value
            part_low, part_high = rest_low[below], rest_high[below]
            part_high[:, axis] = value
            lows.append(part_low)
            highs.append(part_high)
            rest_low[:, axis] = np.maximum(rest_low[:, axis], value)
        low, high = np.concatenate(lows), np.concatenate(highs)
    return low, high


def hypervolume(points: Array, reference: Array) -> float:
    """The volume that points (n, objectives) dominate, up to the reference."""
    points = points[(points < reference).all(1)]
    if not len(points):
        return 0.0
    points = points[front(points)]
    ideal = points.min(0)
    low, high = boxes(points, reference)
    undominated = np.prod(np.maximum(high - np.maximum(low, ideal), 0), axis=1).sum()
    return float(np.prod(reference - ideal) - undominated)


def expected_gain(samples: Array, low: Array, high: Array) -> Array:
    """Hypervolume that each candidate is expected to add to what leaves these boxes undominated: (candidates,).

    `samples` (draws, candidates, objectives) are draws of what a candidate may score, independent between objectives.
    The expectation over a box is then a product of one expectation an objective (Yang et al., "Efficient Computation of
    Expected Hypervolume Improvement Using Box Decomposition Algorithms", J. Global Optimization 2019).
    """
    gain = np.ones((samples.shape[1], len(low)))
    for axis in range(samples.shape[2]):
        bounds, where = np.unique(np.stack([low[:, axis], high[:, axis]]), return_inverse=True)
        where = where.reshape(2, -1)
        # how far below each bound a candidate is expected to end; below minus infinity there is nothing
        depth = np.maximum(bounds - samples[:, :, axis, None], 0).mean(0)
        gain *= depth[:, where[1]] - depth[:, where[0]]
    return np.asarray(gain.sum(1))
