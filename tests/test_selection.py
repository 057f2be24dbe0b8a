"""The front and the choice, beside a reference that counts by brute force."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from autocompress import Metric
from autocompress.errors import NothingFits
from autocompress.limits import parse_limits
from autocompress.metric import ACCURACY
from autocompress.selection import choose, pareto_front

LOSS = Metric("loss", min, higher_is_better=False)
Table = dict[int, dict[str, float]]


def random_scores(seed: int, objective: Metric, few: int = 5) -> Table:
    """Trials whose scores take few values, so that many tie."""
    rng = random.Random(seed)
    return {
        number: {
            objective.name: rng.randrange(1, few) / few,
            "size_bytes": rng.randrange(1, few) * 1000,
            "speedup": 2.0 ** rng.randrange(1, few),
            "latency_ms": 1.0,
        }
        for number in rng.sample(range(100), rng.randrange(1, 30))
    }


def reference_front(scores: Table, objective: Metric) -> set[int]:
    """By the definition: nobody is at least as good everywhere and better somewhere."""
    sign = 1 if objective.higher_is_better else -1
    rows = np.array([[sign * s[objective.name], -s["size_bytes"], s["speedup"]] for s in scores.values()])  # (N, 3)
    as_good = np.all(rows[:, None] >= rows[None], axis=2)  # (N, N)
    better = np.any(rows[:, None] > rows[None], axis=2)
    beaten: list[bool] = np.any(as_good & better, axis=0).tolist()
    return {number for number, is_beaten in zip(scores, beaten, strict=True) if not is_beaten}


@pytest.mark.parametrize("objective", [ACCURACY, LOSS], ids=lambda metric: metric.name)
@pytest.mark.parametrize("seed", range(50))
def test_the_front_is_the_one_of_the_definition(seed: int, objective: Metric) -> None:
    scores = random_scores(seed, objective)
    front = pareto_front(scores, objective)
    assert set(front) == reference_front(scores, objective)
    assert len(set(front)) == len(front)
    qualities = [scores[number][objective.name] for number in front]
    assert qualities == sorted(qualities, reverse=objective.higher_is_better)


def test_no_trials_have_no_front() -> None:
    assert pareto_front({}, ACCURACY) == []


BASELINE = {"accuracy": 0.9, "loss": 0.5, "size_bytes": 1000.0, "speedup": 1.0, "latency_ms": 10.0}
SCORES: Table = {
    0: BASELINE,
    1: {"accuracy": 0.895, "size_bytes": 500.0, "speedup": 2.0, "latency_ms": 5.0},
    2: {"accuracy": 0.89, "size_bytes": 600.0, "speedup": 3.0, "latency_ms": 3.3},
    3: {"accuracy": 0.80, "size_bytes": 100.0, "speedup": 4.0, "latency_ms": 2.5},
}
NAMES = {number: f"recipe {number}" for number in SCORES}


@pytest.mark.parametrize(
    ("limits", "number"),
    [
        ([], 0),
        (["size <= 60% of baseline"], 1),
        (["speedup >= 3x"], 2),
        (["size <= 150 B"], 3),
        (["accuracy_drop <= 0.6%"], 1),
        (["accuracy_drop <= 2%"], 2),
        (["accuracy_drop <= 20%"], 3),
        (["accuracy >= 85%", "size <= 550 B"], 1),
    ],
)
def test_quality_under_other_limits_and_cost_under_a_limit_of_quality(limits: Sequence[str], number: int) -> None:
    assert choose(SCORES, BASELINE, ACCURACY, parse_limits(limits, [ACCURACY]), NAMES) == number


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("seed", range(50))
def test_nothing_that_fits_is_better_than_the_choice(seed: int, limited: bool) -> None:
    scores = random_scores(seed, LOSS)
    bound = sorted(row["loss"] for row in scores.values())[len(scores) // 2]
    limits = parse_limits([f"loss <= {bound}"] if limited else ["size <= 2500 B"], [LOSS])
    fitting = {n: s for n, s in scores.items() if (s["loss"] <= bound if limited else s["size_bytes"] <= 2500)}
    if not fitting:
        with pytest.raises(NothingFits):
            choose(scores, BASELINE, LOSS, limits, dict.fromkeys(scores, ""))
        return
    best = scores[choose(scores, BASELINE, LOSS, limits, dict.fromkeys(scores, ""))]
    if limited:
        assert best["size_bytes"] / best["speedup"] == min(s["size_bytes"] / s["speedup"] for s in fitting.values())
    else:
        assert best["loss"] == min(s["loss"] for s in fitting.values())


def test_of_equals_the_first_is_chosen() -> None:
    for limits in ([], ["accuracy_drop <= 1%"]):
        twins: Table = {7: BASELINE, 3: BASELINE}
        assert choose(twins, BASELINE, ACCURACY, parse_limits(limits, [ACCURACY]), NAMES) == 3


@pytest.mark.parametrize(
    ("limits", "nearest"),
    [
        (["size <= 80 B"], "trial 3 (recipe 3): size is 100 B, 20 B beyond 'size <= 80 B'"),
        (
            ["accuracy_drop <= 1%", "speedup >= 3.1x"],
            "trial 2 (recipe 2): speedup is 3.00x, 0.10x beyond 'speedup >= 3.1x'",
        ),
        (
            ["accuracy >= 91%", "size <= 499 B"],
            "trial 1 (recipe 1): accuracy is 89.50%, 1.50% beyond 'accuracy >= 91%';"
            " size is 500 B, 1 B beyond 'size <= 499 B'",
        ),
    ],
)
def test_when_nothing_fits_the_nearest_is_named(limits: Sequence[str], nearest: str) -> None:
    with pytest.raises(NothingFits) as caught:
        choose(SCORES, BASELINE, ACCURACY, parse_limits(limits, [ACCURACY]), NAMES)
    assert str(caught.value) == f"nothing met your limits; the nearest is {nearest}"


def test_without_trials_nothing_fits() -> None:
    with pytest.raises(NothingFits, match="^nothing met your limits: no trial was scored$"):
        choose({}, BASELINE, ACCURACY, (), {})
