"""Who is stopped at a rung, who goes on later, and what the search does about it; Ray has no part in this."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from autocompress import Budget, Recipe, Recovery, Run, SearchSpace, Step, Target, Task
from autocompress.compress import resolve
from autocompress.errors import InvalidInput
from autocompress.limits import parse_limits
from autocompress.metric import ACCURACY
from autocompress.outcome import FAILED, OK, STOPPED, Outcome
from autocompress.plugins import registry
from autocompress.search.display import Display
from autocompress.search.engine import Search
from autocompress.search.folder import open_run
from autocompress.search.settings import Settings
from autocompress.search.stopping import Stopping
from autocompress.search.study import Proposal, SearchStudy
from autocompress.space import bind

BASELINE = {"accuracy": 0.9, "size_bytes": 1000.0, "speedup": 1.0, "latency_ms": 1.0}
SHIPPED = {"speedup_low": 1.0, "speedup_high": 1.0, "resolution": 0.0, "latency_ms": 1.0, "baseline_latency_ms": 1.0}


def at(rung: float, size: float = 500.0, speedup: float = 1.0, name: str = "1/9") -> Outcome:
    scores = {"size_bytes": size, "speedup": speedup, **SHIPPED}
    return Outcome(STOPPED, scores, rungs={name: rung}, training_s=1.0, epochs=1, epochs_left=8)


def ended(rung: float, end: float, size: float = 500.0) -> Outcome:
    scores = at(rung, size).scores | {"accuracy": end}
    return replace(at(rung, size), state=OK, scores=scores, training_s=9.0, epochs=9, epochs_left=0)


def verdicts(*outcomes: Outcome, limits: tuple[str, ...] = ()) -> list[bool]:
    stopping, numbered = Stopping(ACCURACY, parse_limits(limits, [ACCURACY])), dict(enumerate(outcomes))
    return [stopping.verdict(number, numbered, BASELINE).goes_on for number in numbered]


def test_few_go_on_whatever_they_are() -> None:
    assert verdicts(at(0.1), at(0.9)) == [True, True]


def test_the_best_third_goes_on_and_the_others_hear_why() -> None:
    assert verdicts(at(0.5), at(0.7), at(0.6)) == [False, True, False]
    verdict = Stopping(ACCURACY, ()).verdict(0, dict(enumerate([at(0.5), at(0.7), at(0.6)])), BASELINE)
    assert verdict.reason == "at 1/9 of its epochs it is number 3 of 3, and the best one goes on"


def test_a_smaller_or_faster_one_goes_on_beside_the_best() -> None:
    others = [at(0.6 + i / 100) for i in range(4)]
    assert verdicts(at(0.5, size=100), *others) == [True, False, False, False, True]
    assert verdicts(at(0.5, speedup=3), *others) == [True, False, False, False, True]


def test_what_measuring_may_be_off_by_is_no_difference() -> None:
    assert verdicts(at(0.5, size=499, speedup=1.02), at(0.6), at(0.55)) == [False, True, False]


def test_other_rungs_and_trials_without_a_size_are_not_compared_with() -> None:
    assert verdicts(at(0.5), at(0.7), at(0.8, name="1/3"), replace(at(0.9), scores={})) == [True] * 4


def test_limits_come_first() -> None:
    assert verdicts(at(0.9, 600), at(0.5, 300), at(0.8, 600), limits=("size <= 400 B",)) == [False, True, False]


def test_a_limit_on_the_objective_is_judged_with_the_largest_gain_there_was() -> None:
    hopeless = at(0.3, size=100)
    limits = ("accuracy_drop <= 10%",)
    assert verdicts(hopeless, at(0.5), at(0.55), at(0.6), limits=limits) == [True, False, False, True]
    told = [ended(0.6, 0.85), hopeless, at(0.5), at(0.55)]  # 0.3 + 0.25 is no 0.8
    assert verdicts(*told, limits=limits) == [True, False, False, True]


def test_where_rungs_tell_little_two_thirds_go_on() -> None:
    told = [ended(value, value) for value in (0.51, 0.52, 0.53, 0.54, 0.55, 0.56)]
    assert verdicts(*told, at(0.525)).count(True) == 3
    assert not verdicts(*told, at(0.525))[-1]
    told = [ended(value, 1 - value) for value in (0.51, 0.52, 0.53, 0.54, 0.55, 0.56)]
    assert verdicts(*told, at(0.525)).count(True) == 5
    assert verdicts(*told, at(0.535))[-1]


def test_a_stopped_trial_goes_on_when_more_were_seen() -> None:
    stopping = Stopping(ACCURACY, ())
    known: dict[int, Outcome] = {1: ended(0.8, 0.9), 2: at(0.7), 3: at(0.6)}
    assert stopping.promotable(known, BASELINE) is None
    assert stopping.promotable(known | {4: at(0.5)}, BASELINE) == 2


SPACE = SearchSpace(
    methods={"structured_magnitude": None}, recovery={"epochs": [9], "batch_size": 16, "learning_rate": 1e-3}
)


@pytest.fixture
def settings(task: Task, tmp_path: Path) -> Settings:
    target = Target("cpu")
    return Settings(
        task, SPACE, (), Budget(trials=20), (target,), tmp_path / "mine", (), 0, 1, 0.1, 0, True, store="somewhere"
    )


@pytest.fixture
def search(settings: Settings) -> Iterator[Search]:
    yield from searching(settings)


def searching(settings: Settings, given: bool = True) -> Iterator[Search]:
    space = bind(settings.space, settings.task, registry(), settings.target)
    with open_run(settings) as folder, Display(settings, space, registry()) as display:
        study = SearchStudy(folder.study_url, space, settings.task.objective, (), seed=0)
        study.adopt_orphans(lambda number: None)
        study.enqueue(Recipe(), "the baseline")
        for ratio in (0.1, 0.2, 0.3, 0.4, 0.5) if given else ():
            step = Step(method="structured_magnitude", params={"ratio": ratio})
            written = Recipe(steps=(step,), recovery=Recovery(epochs=9, batch_size=16))
            study.enqueue(resolve(written, registry(), settings.task), "given by the user")
        yield Search(settings, folder, study, display, time.monotonic())


def propose(search: Search) -> Proposal:
    found = search.propose()
    assert found is not None
    return found


def carry_out(search: Search, rungs: dict[str, float], end: float) -> Proposal:
    """The next trial, with what it scores at its rungs and, if it comes to that, at its end."""
    proposal, told = propose(search), {}
    for name, value in rungs.items():
        told[name] = value
        report = replace(at(value), rungs=dict(told))
        if not search.at_rung(proposal.number, report):
            search.finish(proposal.number, report)
            return proposal
    search.finish(proposal.number, replace(ended(0, end), rungs=dict(told)))
    return proposal


def baseline(search: Search) -> None:
    number = propose(search).number
    search.finish(number, Outcome(OK, BASELINE | SHIPPED))


def test_limits_that_the_baseline_makes_no_sense_of_end_the_search(settings: Settings) -> None:
    limits = parse_limits(["accuracy >= 90% of baseline"], [ACCURACY])
    for search in searching(replace(settings, limits=limits)):
        search.finish(propose(search).number, Outcome(OK, BASELINE | SHIPPED | {"accuracy": 0.0}))
        assert search.done and isinstance(search.error, InvalidInput)


def test_limits_that_the_baseline_itself_misses_are_told(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["accuracy >= 99.9%", "accuracy >= 50%", "accuracy >= 101% of baseline", "size <= 10 B"]
    for search in searching(replace(settings, limits=parse_limits(texts, [ACCURACY]))):
        baseline(search)
        carry_out(search, {}, 0.9)
    told = [line for line in capsys.readouterr().err.splitlines() if "itself misses" in line]
    assert told == ["the untouched model itself misses 'accuracy >= 99.9%' (0.9000): compression rarely mends that"]


def test_a_space_without_another_recipe_is_told(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    space = SearchSpace(methods={"channels_last": None})  # which the model has no use for
    for search in searching(replace(settings, space=space), given=False):
        baseline(search)
        assert search.propose() is None and search.done
    assert capsys.readouterr().err.splitlines().count("the space has no other recipe") == 1


def test_a_stopped_trial_is_a_row_and_leaves_a_folder_that_says_why(search: Search, settings: Settings) -> None:
    baseline(search)
    for value in (0.8, 0.7):
        carry_out(search, {"1/9": value, "1/3": value}, 0.9)
    number = carry_out(search, {"1/9": 0.75, "1/3": 0.6}, 0.9).number
    carry_out(search, {"1/9": 0.76, "1/3": 0.9}, 0.9)
    run = Run(settings.run)
    assert run.trials["state"].to_list() == ["ok", "ok", "ok", STOPPED, "ok"]
    assert run.all_trials[number][1].rungs == {"1/9": 0.75}
    assert run.trials["error"][number] == "at 1/9 of its epochs it is number 2 of 3, and the best one goes on"
    written = (settings.run / "trials" / f"{number:05d}" / "outcome.json").read_text()
    assert Outcome.from_json(written) == run.all_trials[number][1]
    study = optuna.load_study(study_name="autocompress", storage=f"sqlite:///{settings.run / 'study.db'}")
    assert study.trials[number].state == TrialState.PRUNED
    assert study.trials[number].user_attrs["measured"] == [None, 500.0, 1.0]


def test_who_is_promoted_resumes_its_recipe_and_counts_once(search: Search, settings: Settings) -> None:
    baseline(search)
    first = carry_out(search, {"1/9": 0.8}, 0.9)
    carry_out(search, {"1/9": 0.7}, 0.9)
    third = carry_out(search, {"1/9": 0.6}, 0.9)
    assert Run(settings.run).trials["state"][third.number] == STOPPED
    while True:
        proposal = propose(search)
        if "promoted" in proposal.proposed:
            break
        assert proposal.number < 9
        report = at(0.1)
        assert not search.at_rung(proposal.number, report)
        search.finish(proposal.number, report)
    assert (proposal.recipe, proposal.proposed["promoted"]) == (third.recipe, third.number)
    assert proposal.number == 8  # of the seven before three go on
    assert proposal.proposed["origin"] == f"trial {third.number} goes on from 1/9 of its epochs"
    assert search.at_rung(proposal.number, at(0.05))  # what was decided holds, whatever else was measured
    assert search.at_rung(proposal.number, at(0.65, name="1/3"))
    search.finish(proposal.number, replace(ended(0, 0.88), rungs={"1/9": 0.6, "1/3": 0.65}))
    run = Run(settings.run)
    assert run.trials["state"][proposal.number] == "ok" and run.best().number == first.number
    assert (run.savings.stopped, run.savings.stopped_s) == (4, 32.0)  # of 8 epochs, a second each
    assert run.rungs["1/9"].trials == 3 and run.rungs["1/9"].stopped == 4
    assert not any("promoted" in told for number, told in run.proposed.items() if number != proposal.number)


def test_who_still_runs_is_not_promoted(settings: Settings) -> None:
    for search in searching(replace(settings, workers=2)):
        baseline(search)
        running = propose(search)
        assert search.at_rung(running.number, at(0.9))
        for value in (0.8, 0.1, 0.1, 0.7):
            assert "promoted" not in carry_out(search, {"1/9": value}, 0.9).proposed
        search.finish(running.number, replace(ended(0.9, 0.95), rungs={"1/9": 0.9}))
        assert Run(settings.run).trials["state"].to_list().count(STOPPED) == 3


def test_a_trial_cut_off_at_a_rung_is_run_again(settings: Settings) -> None:
    for search in searching(settings):
        baseline(search)
        cut_off = propose(search)
        assert search.at_rung(cut_off.number, at(0.5))
        search.finish(cut_off.number, at(0.5))  # what Ray reports of a trial when the time is up
        assert list(Run(settings.run).trials.index) == [0]
    for search in searching(settings):
        assert propose(search).recipe == cut_off.recipe


def test_who_was_stopped_is_known_to_who_continues(settings: Settings) -> None:
    for search in searching(settings):
        baseline(search)
        for value in (0.8, 0.7, 0.6):
            carry_out(search, {"1/9": value}, 0.9)
    for search in searching(settings):
        for _ in range(4):
            carry_out(search, {"1/9": 0.1}, 0.5)
        assert propose(search).proposed["promoted"] == 3


def test_without_a_store_nobody_goes_on_later(settings: Settings) -> None:
    for search in searching(replace(settings, store=None)):
        baseline(search)
        for value in (0.8, 0.7, 0.6, 0.1, 0.1, 0.1, 0.1):
            assert "promoted" not in carry_out(search, {"1/9": value}, 0.9).proposed


def test_poor_rungs_are_told_once(search: Search, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    baseline(search)
    for value in (0.70, 0.71, 0.72, 0.73, 0.74, 0.75, 0.76, 0.77):
        carry_out(search, {"1/9": value}, 1 - value)
    told = capsys.readouterr().err
    assert told.count("says little about the end") == 1
    assert "rank correlation with the end -1.00 over 6 trials" in told
    events = (settings.run / "events.jsonl").read_text()
    assert events.count('"event": "milder"') == 1


def test_a_failure_after_a_rung_is_no_rival(search: Search, settings: Settings) -> None:
    baseline(search)
    failing = propose(search)
    assert search.at_rung(failing.number, at(0.9))
    search.finish(failing.number, Outcome(f"{FAILED}nan", error="NaN", rungs={"1/9": 0.9}))
    carry_out(search, {"1/9": 0.5}, 0.9)
    carry_out(search, {"1/9": 0.4}, 0.9)
    assert Run(settings.run).trials["state"].to_list() == ["ok", "failed:nan", "ok", "ok"]


def test_the_result_says_what_was_stopped(search: Search, settings: Settings, capsys: Any) -> None:
    from autocompress.report import as_data, print_result

    baseline(search)
    for value in (0.8, 0.7, 0.6):
        carry_out(search, {"1/9": value}, 0.9)
    run = Run(settings.run)
    assert as_data(run)["rungs"] == {"1/9": {"trials": 2, "rank_correlation": None, "stopped": 1}}
    print_result(run)
    told = capsys.readouterr().out
    assert "Stopping spared the rest of a training, which may have taken about 8 s, in 0 s." in told
    assert "Rung at 1/9 of the epochs: too few trials (2)" in told
