"""The study on a real database: what is proposed, told, remembered and resumed. No Ray."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GridSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from autocompress import Choice, Float, Integer, Metric, Parameter, Recipe, Recovery, Step, Technique
from autocompress.errors import InvalidInput, RunError
from autocompress.limits import parse_limits
from autocompress.metric import ACCURACY
from autocompress.openings import Openings
from autocompress.outcome import INTERRUPTED, OK, SCREENED, Outcome, failure
from autocompress.run import STUDY_NAME
from autocompress.search.mirror import MirroredStudy
from autocompress.search.sampler_check import check_sampler
from autocompress.search.screening import LEAST_SEEN
from autocompress.search.study import Proposal, SamplerFactory, SearchStudy, directions_of
from autocompress.space import BoundSpace

PACK: Mapping[str, Parameter] = {"bits": Choice((8, 4), 8)}
SMALL = BoundSpace({"pack": PACK}, Openings({Technique.QUANTIZATION: ("pack",)}), {}, frozenset())
"""Three recipes: none, 8 bits, 4 bits."""
LARGE = BoundSpace(
    {"cut": {"ratio": Float(0.3, 0.85, 0.5, step=0.05), "units": Integer(1, 64, 8, log=True)}, "pack": PACK},
    Openings({Technique.PRUNING: ("cut",), Technique.QUANTIZATION: ("pack",)}),
    {"epochs": Integer(1, 3, 1), "learning_rate": Float(1e-4, 1e-2, 1e-3, log=True), "batch_size": Choice((64,), 64)},
    frozenset({"cut"}),
)
EXPERIMENTAL = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
LOSS = Metric("loss", min, higher_is_better=False)


def pack(bits: int) -> Recipe:
    return Recipe(steps=(Step(method="pack", params={"bits": bits}),))


def cut(ratio: float) -> Recipe:
    step = Step(method="cut", params={"ratio": ratio, "units": 8})
    return Recipe(steps=(step,), recovery=Recovery(epochs=2, learning_rate=1e-3, batch_size=64))


def scored(number: int, size_bytes: float | None = None) -> Outcome:
    """An outcome that tells its trial."""
    size_bytes = 1000 - number if size_bytes is None else size_bytes
    return Outcome(OK, {"accuracy": 0.9 - number / 1000, "size_bytes": size_bytes, "latency_ms": 1, "speedup": 2})


class Opener:
    """Opens the same database as a new driver would."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'study.db'}"

    def __call__(
        self,
        space: BoundSpace = SMALL,
        objective: Metric = ACCURACY,
        limits: Sequence[str] = (),
        sampler: SamplerFactory | None = None,
    ) -> SearchStudy:
        return SearchStudy(self.url, space, objective, parse_limits(limits, [objective]), 0, sampler)

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(study_name=STUDY_NAME, storage=self.url)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials()


@pytest.fixture
def opener(tmp_path: Path) -> Opener:
    return Opener(tmp_path)


def ask(study: SearchStudy) -> Proposal:
    proposal = study.ask()
    assert proposal is not None
    return proposal


def run(study: SearchStudy, count: int) -> list[Proposal]:
    """Trials proposed, scored and told one after the other."""
    proposals = []
    for _ in range(count):
        proposals.append(ask(study))
        study.tell(proposals[-1].number, scored(proposals[-1].number))
    return proposals


def test_what_is_queued_comes_first_and_once(opener: Opener) -> None:
    study = opener(LARGE)
    known = [Recipe(), cut(0.35), cut(0.85), pack(4)]
    for recipe in [*known, *known]:
        study.enqueue(recipe)
    *first, last = run(study, 5)
    assert [proposal.recipe for proposal in first] == known
    assert last.recipe not in known


def test_a_recipe_outside_the_space_is_not_proposed(opener: Opener) -> None:
    study = opener(SMALL)
    study.enqueue(cut(0.5))
    with pytest.raises(InvalidInput, match="is outside the search space"):
        study.ask()


def test_no_recipe_is_proposed_twice_and_a_small_space_ends(opener: Opener) -> None:
    study = opener()
    proposals = run(study, 3)
    assert sorted(str(proposal.recipe) for proposal in proposals) == ["baseline", "pack(bits=4)", "pack(bits=8)"]
    assert study.ask() is None
    assert study.ask() is None
    assert study.count == 3
    assert opener.study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING)) == []


@EXPERIMENTAL
def test_a_sampler_that_stops_its_study_ends_with_the_space(opener: Opener) -> None:
    study = opener(sampler=lambda define, seed: BruteForceSampler(seed=seed))
    study.enqueue(Recipe())
    proposals = run(study, 3)
    assert len({proposal.recipe.key for proposal in proposals}) == 3
    assert study.ask() is None


@EXPERIMENTAL
@pytest.mark.parametrize("sampler", [TPESampler, NSGAIISampler, RandomSampler, BruteForceSampler])
def test_samplers_that_serve(sampler: type[BaseSampler]) -> None:
    check_sampler(sampler(), SMALL, directions_of(ACCURACY, 2))


@EXPERIMENTAL
@pytest.mark.parametrize(
    ("kind", "space", "options", "reason"),
    [
        (CmaEsSampler, SMALL, {}, "ValueError: If the study is being used for multi-objective optimization"),
        (GridSampler, SMALL, {"search_space": {"pack.bits": [8, 4]}}, "it counts trials of its own grid alone"),
        (BruteForceSampler, LARGE, {"seed": 0}, "ValueError: FloatDistribution.step must be given"),
    ],
)
def test_samplers_that_cannot_serve_are_refused(
    kind: type[BaseSampler], space: BoundSpace, options: dict[str, Any], reason: str
) -> None:
    message = f"sampler {kind.__name__} cannot be used for this search: {re.escape(reason)}"
    with pytest.raises(InvalidInput, match=message):
        check_sampler(kind(**options), space, directions_of(ACCURACY, 1))


def test_a_repeated_proposal_is_told_what_its_twin_scored(opener: Opener) -> None:
    study = opener()
    run(study, 3)
    study.ask()
    repeated = [trial for trial in opener.trials if "duplicate_of" in trial.user_attrs]
    assert repeated
    for trial in repeated:
        twin = opener.trials[trial.user_attrs["duplicate_of"]]
        assert "recipe" in twin.user_attrs and "recipe" not in trial.user_attrs
        assert (trial.state, trial.values) == (TrialState.COMPLETE, twin.values)


def test_a_repeated_proposal_of_a_failed_or_running_trial_has_nothing_to_tell(opener: Opener) -> None:
    study = opener()
    failed, *running = (ask(study).number for _ in range(3))
    study.tell(failed, failure("nan", "not a number"))
    for _ in range(10):
        assert study.ask() is None
    repeated = [trial for trial in opener.trials if "duplicate_of" in trial.user_attrs]
    assert {trial.state for trial in repeated} == {TrialState.FAIL}
    assert {trial.user_attrs["duplicate_of"] for trial in repeated} >= {failed, running[0]}


def test_a_large_space_gives_recipes_that_it_holds(opener: Opener) -> None:
    study = opener(LARGE)
    proposals = run(study, 20)
    assert len({proposal.recipe.key for proposal in proposals}) == 20
    for proposal in proposals:
        assert LARGE.choices(proposal.recipe)


@pytest.mark.parametrize(
    ("objective", "directions"), [(ACCURACY, ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]), (LOSS, ["MINIMIZE"] * 3)]
)
def test_quality_bytes_and_time_are_told(objective: Metric, directions: list[str], opener: Opener) -> None:
    study = opener(objective=objective)
    number = ask(study).number
    study.tell(number, Outcome(OK, {objective.name: 0.5, "size_bytes": 100, "latency_ms": 7, "speedup": 4}))
    assert [direction.name for direction in opener.study.directions] == directions
    assert opener.trials[number].values == [0.5, 100, 0.25]


def test_limits_are_optunas_constraints(opener: Opener) -> None:
    study = opener(limits=["size <= 50% of baseline", "accuracy_drop <= 1%"])
    study.enqueue(Recipe())
    outcomes = []
    for size_bytes in (1000, 600, 400):
        number = ask(study).number
        outcomes.append(study.tell(number, scored(number, size_bytes)))
    assert [outcome.state for outcome in outcomes] == ["infeasible", "infeasible", "ok"]
    assert [trial.constraints["size <= 50% of baseline"] for trial in opener.trials] == pytest.approx([1, 0.2, -0.2])
    assert all(trial.constraints["accuracy_drop <= 1%"] < 0 for trial in opener.trials)
    assert [trial.number for trial in opener.study.best_trials] == [2]


def test_a_failure_is_told_as_one(opener: Opener) -> None:
    study = opener()
    number = ask(study).number
    told = study.tell(number, failure("killed", "its process died", "pack", "acme 1.0"))
    assert opener.trials[number].state is TrialState.FAIL
    assert opener.trials[number].user_attrs["outcome"]["error"] == "its process died"
    assert study.outcomes == {number: told}
    assert study.count == 1


def test_a_study_opened_again_remembers(opener: Opener) -> None:
    first = opener()
    first.enqueue(Recipe())
    run(first, 1)
    first.tell(ask(first).number, failure("raise", "broken"))
    again = opener()
    assert again.outcomes == first.outcomes
    assert again.baseline == scored(0).scores
    assert again.count == 2
    again.enqueue(Recipe())
    (last,) = run(again, 1)
    assert last.recipe not in [Recipe.model_validate(trial.user_attrs["recipe"]) for trial in opener.trials[:2]]
    assert again.ask() is None


def test_a_baseline_that_failed_is_tried_again_by_the_next_search(opener: Opener) -> None:
    first = opener()
    first.enqueue(Recipe())
    first.tell(ask(first).number, failure("raise", "no memory"))
    assert first.baseline is None
    again = opener()
    again.enqueue(Recipe())
    assert ask(again).recipe == Recipe()
    again.tell(1, scored(1))
    assert again.baseline == scored(1).scores


def test_what_a_dead_driver_left_is_adopted_or_queued_again(opener: Opener) -> None:
    dead = opener()
    dead.enqueue(Recipe())
    finished, lost = ask(dead), ask(dead)
    again = opener()
    again.adopt_orphans(lambda number: scored(number) if number == finished.number else None)
    assert [trial.state for trial in opener.trials] == [TrialState.COMPLETE, TrialState.FAIL]
    assert again.baseline == scored(finished.number).scores
    assert again.outcomes[lost.number].state == INTERRUPTED
    assert again.count == 1
    repeated = ask(again)
    assert repeated.recipe == lost.recipe
    assert repeated.number > lost.number


def test_an_adopted_outcome_is_judged_by_the_limits(opener: Opener) -> None:
    limits = ["size <= 50% of baseline"]
    dead = opener(limits=limits)
    dead.enqueue(Recipe())
    run(dead, 1)
    lost = ask(dead).number
    again = opener(limits=limits)
    again.adopt_orphans(lambda number: scored(number, 900))
    assert again.outcomes[lost] == replace(scored(lost, 900), state="infeasible")


def test_closing_leaves_nothing_running_and_forgets_nothing(opener: Opener) -> None:
    study = opener(LARGE)
    study.enqueue(Recipe())
    run(study, 1)
    study.enqueue(cut(0.5), "known good")
    interrupted = [ask(study), ask(study)]
    study.close()
    assert [trial.state for trial in opener.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    again = opener(LARGE)
    assert again.count == 1
    asked = run(again, 2)
    assert [proposal.recipe for proposal in asked] == [proposal.recipe for proposal in interrupted]
    assert [proposal.proposed for proposal in asked] == [{"origin": "known good"}, interrupted[1].proposed]
    assert again.count == 3


def test_what_was_interrupted_and_then_finished_is_not_asked_for_again(opener: Opener) -> None:
    first = opener(LARGE)
    first.enqueue(cut(0.35))
    ask(first)
    first.close()
    (again,) = run(opener(LARGE), 1)
    assert again.recipe == cut(0.35)
    run(opener(LARGE), 1)
    assert [trial.state for trial in opener.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert not any("duplicate_of" in trial.user_attrs for trial in opener.trials)


def test_a_driver_that_died_while_it_told_an_outcome_leaves_nothing_running(opener: Opener) -> None:
    dead = opener()
    dead.enqueue(Recipe())
    number = ask(dead).number
    half_told = optuna.trial.Trial(opener.study, opener.trials[number]._trial_id)
    half_told.set_user_attr("outcome", json.loads(scored(number).to_json()))
    again = opener()
    again.adopt_orphans(scored)
    assert [trial.state for trial in opener.trials] == [TrialState.COMPLETE]
    assert again.outcomes == {number: scored(number)}


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(RunError, match="study.db is not readable: .*; choose another --name"):
        MirroredStudy(f"sqlite:///{tmp_path / 'study.db'}", [optuna.study.StudyDirection.MINIMIZE])


def test_a_screened_trial_is_told_pruned_with_what_was_measured(opener: Opener) -> None:
    study = opener(LARGE, limits=["size <= 500 B", "speedup >= 4x", "accuracy >= 50%"])
    study.enqueue(Recipe())
    run(study, 1)
    numbers = [ask(study).number for _ in range(2)]
    study.tell(numbers[0], Outcome(SCREENED, {"size_bytes": 600.0}, "too large"))
    study.tell(numbers[1], Outcome(SCREENED, {"size_bytes": 400.0, "speedup": 2.0}, "too slow"))
    assert study.count == 3
    large, slow = (opener.trials[number] for number in numbers)
    assert large.state == slow.state == TrialState.PRUNED
    assert large.constraints == {"size <= 500 B": pytest.approx(0.2)}
    assert slow.constraints == {"size <= 500 B": pytest.approx(-0.2), "speedup >= 4x": pytest.approx(0.5)}
    assert (large.user_attrs["measured"], slow.user_attrs["measured"]) == ([None, 600, None], [None, 400, 0.5])
    study.close()
    assert opener(LARGE).outcomes[numbers[0]].state == SCREENED


def test_a_trial_is_told_what_it_is_up_against(opener: Opener) -> None:
    study = opener(LARGE)
    study.enqueue(Recipe())
    assert run(study, 1)[0].hurdles is None  # nothing can rule the baseline out
    proposals = run(study, 12)
    assert all(p.hurdles is not None and p.hurdles.baseline == scored(0).scores for p in proposals)
    rivals = [len(p.hurdles.rivals) for p in proposals if p.hurdles is not None]
    assert rivals == [0] * (LEAST_SEEN - 1) + [1] * (13 - LEAST_SEEN)
    last = proposals[-1].hurdles
    assert last is not None and last.rivals == (scored(0).scores,)  # of all those the best accuracy


def test_nobody_is_ruled_out_as_long_as_something_beyond_the_limits_is_better(opener: Opener) -> None:
    study = opener(LARGE, limits=["size <= 900 B"])
    study.enqueue(Recipe())
    study.tell(ask(study).number, scored(0))  # the baseline, which is too large, at 90 %
    proposals = []
    for accuracy in (*(0.5,) * LEAST_SEEN, 0.96):
        proposals.append(ask(study))
        outcome = scored(1, size_bytes=100)
        study.tell(proposals[-1].number, replace(outcome, scores=outcome.scores | {"accuracy": accuracy}))
    assert all(p.hurdles is not None and not p.hurdles.rivals for p in proposals)
    last = ask(study).hurdles
    assert last is not None and [rival["accuracy"] for rival in last.rivals] == [0.96]
