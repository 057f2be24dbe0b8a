"""Rungs, what they are worth, and what they save."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.outcome import INFEASIBLE, OK, SCREENED, STOPPED, Outcome, Savings, as_one, own
from autocompress.rungs import RUNGS, rank_correlation, rung_reports, rungs_of


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (0, {}),
        (2, {}),
        (3, {1: "1/3"}),
        (8, {3: "1/3"}),
        (9, {1: "1/9", 3: "1/3"}),
        (30, {3: "1/9", 10: "1/3"}),
    ],
)
def test_rungs_by_hand(epochs: int, expected: dict[int, str]) -> None:
    assert rungs_of(epochs) == expected


@given(st.integers(3, 1000))
def test_rungs_come_one_after_the_other_before_the_end(epochs: int) -> None:
    found = rungs_of(epochs)
    assert list(found) == sorted(set(found)) and 1 <= min(found) and max(found) < epochs
    assert list(found.values()) == [name for name in RUNGS if name in found.values()]


def test_rank_correlation_by_hand() -> None:
    ends = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert rank_correlation([(end**3, end) for end in ends]) == pytest.approx(1)
    assert rank_correlation([(-end, end) for end in ends]) == pytest.approx(-1)
    swapped = [0.2, 0.1, 0.3, 0.4, 0.5, 0.6]
    assert rank_correlation(list(zip(swapped, ends, strict=True))) == pytest.approx(1 - 6 * 2 / (6 * 35))
    tied = [0.1, 0.1, 0.3, 0.4, 0.5, 0.6]  # both of rank 1.5: the covariance is 17, the variances 17 and 17.5
    assert rank_correlation(list(zip(tied, ends, strict=True))) == pytest.approx(17 / (17 * 17.5) ** 0.5)
    assert rank_correlation([(end, end) for end in ends[:5]]) is None
    assert rank_correlation([(0.5, end) for end in ends]) is None


def scored(rung: float, end: float, state: str = OK) -> Outcome:
    return Outcome(state, {"accuracy": end}, training_s=9.0, epochs=9, rungs={"1/9": 0.1, "1/3": rung}, rungs_s=0.5)


STOPPED_ONE = Outcome(
    STOPPED, {"size_bytes": 9.0}, training_s=3.0, work_s=4.0, rungs={"1/9": 0.2}, epochs=1, epochs_left=8
)
SCREENED_ONE = Outcome(SCREENED, {"size_bytes": 9.0}, screening_s=0.1, epochs_left=4)


def test_a_report_counts_what_was_scored_and_what_was_stopped() -> None:
    ends = [scored(value, 1 - value, INFEASIBLE if value > 0.4 else OK) for value in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    found = rung_reports([*ends, STOPPED_ONE, Outcome(OK, {"accuracy": 1.0})], "accuracy")
    assert {name: (report.trials, report.stopped) for name, report in found.items()} == {"1/9": (6, 1), "1/3": (6, 0)}
    assert found["1/9"].rank_correlation is None and not found["1/9"].poor
    assert found["1/3"].rank_correlation == pytest.approx(-1) and found["1/3"].poor
    assert "-1.00 over 6 trials" in str(found["1/3"]) and "too few" in str(found["1/9"])
    assert rung_reports([Outcome(OK, {"accuracy": 1.0})], "accuracy") == {}


def test_savings_tell_what_stopping_spared() -> None:
    savings = Savings.of([scored(0.1, 0.2), STOPPED_ONE])
    assert (savings.stopped, savings.rungs_s, savings.trainings) == (1, 0.5, 2)
    assert savings.stopped_s == 8  # a second an epoch, as in the training that went on, and not three as in its first
    assert any("rest of a training, which may have taken about 8 s, in 0.5 s" in line for line in savings.lines())
    assert Savings.of([STOPPED_ONE]).stopped_s == 24  # there is nothing else to go by


def test_the_first_trainings_of_processes_do_not_inflate_what_was_spared() -> None:
    first, second = (replace(scored(0.1, 0.2), training_s=seconds) for seconds in (90.0, 3.0))
    assert Savings.of([first, first, second, STOPPED_ONE]).stopped_s == pytest.approx(8 / 3)
    others = [replace(scored(0.1, 0.2), training_s=seconds) for seconds in (1.0, 6.0, 9.0, 12.0)]
    assert Savings.of([*others, second, STOPPED_ONE]).stopped_s == pytest.approx(8 / 3)  # not the very fastest of many


def test_what_screening_and_stopping_took_is_told_where_they_spared_nothing() -> None:
    told = Savings.of([replace(scored(0.1, 0.2), screening_s=39.8)]).lines()
    assert told == ["Screening spared nothing, in 39.8 s.", "Stopping spared nothing, in 0.5 s."]


def test_savings_tell_what_screening_spared() -> None:
    savings = Savings.of([scored(0.1, 0.2), SCREENED_ONE, SCREENED_ONE])
    assert (savings.screened, savings.screened_s, savings.screening_s) == (2, 8.0, 0.2)
    assert Savings.of([SCREENED_ONE]).screened_s is None


def test_a_training_that_several_trials_share_is_saved_once() -> None:
    stopped, screened = (replace(outcome, prefix="a") for outcome in (STOPPED_ONE, SCREENED_ONE))
    sibling = replace(stopped, training_s=0.0, spared_s=3.0)
    further = replace(stopped, training_s=2.0, spared_s=3.0, epochs=3, epochs_left=6)
    savings = Savings.of([scored(0.1, 0.2), stopped, sibling, further, screened])
    assert (savings.stopped, savings.stopped_s) == (1, 6.0)
    assert (savings.spared, savings.spared_s, savings.screened) == (2, 6.0, 0)
    assert Savings.of([screened] * 8 + [scored(0.1, 0.2)]).screened_s == 4


def test_what_was_trained_in_the_end_was_not_saved() -> None:
    finished = replace(scored(0.1, 0.2), prefix="a")
    savings = Savings.of([finished, *(replace(outcome, prefix="a") for outcome in (STOPPED_ONE, SCREENED_ONE))])
    assert (savings.stopped, savings.stopped_s, savings.screened, savings.screened_s) == (0, 0.0, 0, 0.0)


def test_a_trial_that_went_on_later_is_one_that_saved_nothing() -> None:
    later = Outcome(OK, {"accuracy": 0.9}, work_s=20.0, training_s=6.0, spared_s=3.0, rungs={"1/3": 0.5}, epochs=9)
    whole = as_one(STOPPED_ONE, later)
    assert (whole.training_s, whole.spared_s, whole.work_s, whole.epochs_left) == (9.0, 0.0, 24.0, 0)
    assert list(whole.rungs) == ["1/9", "1/3"] and whole.state == OK
    assert Savings.of([whole]).lines() == []
    assert Savings.of([later]).spared_s == 3 and Savings.of([own(later)]).lines() == []
