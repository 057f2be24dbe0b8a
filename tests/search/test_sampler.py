"""The grey-box sampler in studies of Optuna and of a search, and the parts it is made of."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autocompress import Choice, Float, Integer, Technique
from autocompress.limits import parse_limits
from autocompress.metric import ACCURACY
from autocompress.openings import Openings
from autocompress.outcome import OK, Outcome
from autocompress.search.acquisition import spread
from autocompress.search.candidates import Space, other_value, random_value
from autocompress.search.embedding import Embedding
from autocompress.search.history import MEASURED, key_of
from autocompress.search.hypervolume import boxes, expected_gain, front, hypervolume
from autocompress.search.sampler import STARTUP, GreyBoxSampler, is_free
from autocompress.search.study import SearchStudy, define, free_beginning, grey_box, prefix_params
from autocompress.search.surrogate import GaussianProcess
from autocompress.space import BoundSpace

DIRECTIONS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]
BOUND = BoundSpace(
    {
        "cut": {"ratio": Float(0.3, 0.85, 0.5, step=0.05), "units": Integer(1, 64, 8, log=True)},
        "pack": {"bits": Choice((8, 4), 8)},
    },
    Openings({Technique.PRUNING: ("cut",), Technique.QUANTIZATION: ("pack",)}),
    {"epochs": Integer(1, 3, 1), "learning_rate": Float(1e-4, 1e-2, 1e-3, log=True), "batch_size": Choice((64,), 64)},
    frozenset({"cut"}),
)
Excess = Callable[[Sequence[float]], float]
SPACE = functools.partial(define, BOUND)


def scores(params: dict[str, Any]) -> tuple[float, float, float]:
    """Accuracy, size and time of a recipe: a trade-off with a known shape."""
    kept = 1 - params.get("cut.ratio", 0.0)
    bits = params.get("pack.bits", 32)
    loss = 0.3 * (1 - kept) ** 2 + {32: 0.0, 8: 0.002, 4: 0.05}[bits]
    loss *= 1 - 0.1 * params.get("recovery.epochs", 0)
    return 0.95 - loss, kept * bits / 32, kept


def costs(params: Any) -> Sequence[float]:
    return math.nan, *scores(params)[1:]


def run(sampler: optuna.samplers.BaseSampler, count: int, limits: Mapping[str, Excess] | None = None) -> optuna.Study:
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    for _ in range(count):
        trial = study.ask()
        SPACE(trial)
        values = scores(trial.params)
        for name, excess in (limits or {}).items():
            trial.set_constraint(name, excess(values))
        study.tell(trial, values)
    return study


def volume(study: optuna.Study) -> float:
    points = np.array([[-quality, size, time] for quality, size, time in (trial.values for trial in study.trials)])
    return hypervolume(points, np.array([-0.5, 1.1, 1.1]))


def origins(sampler: GreyBoxSampler) -> list[str]:
    return [sampler.reasons[number].origin for number in sorted(sampler.reasons)]


# the hypervolume


def test_hypervolume_of_known_sets() -> None:
    reference = np.array([2.0, 2.0, 2.0])
    assert hypervolume(np.array([[1.0, 1.0, 1.0]]), reference) == pytest.approx(1.0)
    # two slabs of 1 x 2 x 2 and 2 x 1 x 2 that share 1 x 1 x 2
    assert hypervolume(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), reference) == pytest.approx(4 + 4 - 2)
    assert hypervolume(np.array([[3.0, 0.0, 0.0]]), reference) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 12))
def test_boxes_are_disjoint_and_leave_what_is_dominated(seed: int, objectives: int, count: int) -> None:
    """Monte Carlo: a random point lies in exactly one box when no point of the set dominates it, and in none else."""
    rng = np.random.default_rng(seed)
    points, places = rng.random((count, objectives)), rng.random((200, objectives))
    low, high = boxes(points, np.ones(objectives))
    inside = ((places[:, None] >= low) & (places[:, None] < high)).all(2).sum(1)
    dominated = np.any((points[None] <= places[:, None]).all(2), axis=1)
    assert (inside == np.where(dominated, 0, 1)).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_the_gain_of_a_certain_point_is_what_it_adds(seed: int, objectives: int) -> None:
    rng = np.random.default_rng(seed)
    points, new = rng.random((8, objectives)), rng.random((5, objectives))
    reference = np.full(objectives, 1.1)
    gain = expected_gain(new[None], *boxes(points, reference))
    added = [hypervolume(np.vstack([points, one]), reference) - hypervolume(points, reference) for one in new]
    assert gain == pytest.approx(added, abs=1e-12)


def test_the_expected_gain_is_the_mean_over_what_may_happen() -> None:
    points, reference = np.array([[0.2, 0.8], [0.6, 0.3]]), np.ones(2)
    first, second = np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.4, 0.7])
    samples = np.stack([first, second], axis=1)[:, None]
    base = hypervolume(points, reference)
    # objectives are independent: every pair may happen
    gains = [hypervolume(np.vstack([points, [x, y]]), reference) - base for x in first for y in second]
    assert expected_gain(samples, *boxes(points, reference)) == pytest.approx([np.mean(gains)])


def test_the_front_keeps_one_of_equal_points() -> None:
    points = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0]])
    assert sorted(front(points)) in ([0, 1], [1, 2])


def test_a_spread_keeps_the_best_of_each_objective() -> None:
    points = np.array([[index / 50, 1 - index / 50] for index in range(51)])
    kept = spread(points, 5)
    assert len(kept) == 5
    assert {0.0, 1.0} <= set(kept[:, 0])
    assert np.diff(sorted(kept[:, 0])).max() < 0.3


# candidates


def test_drawn_recipes_are_those_of_the_space() -> None:
    space, rng = Space(SPACE), random.Random(0)
    for _ in range(50):
        params = space.at_random(rng)
        assert ("cut.ratio" in params) == (params["pruning"] == "cut") == ("recovery.epochs" in params)
        BOUND.recipe(lambda name, parameter: parameter.check(params[name]))  # noqa: B023


def test_a_neighbour_differs_in_one_or_two_parameters_and_what_depends_on_them() -> None:
    space, rng = Space(SPACE), random.Random(0)
    for _ in range(100):
        params = space.at_random(rng)
        near = space.neighbour(params, rng)
        both = params.keys() & near.keys()
        assert key_of(near) != key_of(params)
        assert sum(params[name] != near[name] for name in both) <= 2
        assert ("cut.ratio" in near) == (near["pruning"] == "cut")
        if params["pruning"] == near["pruning"]:
            assert params.keys() == near.keys() or params["quantization"] != near["quantization"]


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(0.3, 0.85, step=0.05),
        FloatDistribution(1e-4, 1e-2, log=True),
        IntDistribution(1, 64, log=True),
        IntDistribution(2, 11, step=3),
        CategoricalDistribution(("a", "b")),
    ],
)
def test_values_lie_in_their_range_and_move(distribution: Any) -> None:
    rng = random.Random(0)
    values = [random_value(distribution, rng) for _ in range(100)]
    moved = [other_value(distribution, value, rng) for value in values]
    for value in [*values, *moved]:
        assert distribution._contains(distribution.to_internal_repr(value))
    assert all(after != before for before, after in zip(values, moved, strict=True))
    assert len(set(values)) >= min(100, 2)


# the model


def test_the_process_learns_a_conditional_function_and_how_sure_it_is() -> None:
    space, rng = Space(SPACE), random.Random(0)
    recipes = [space.at_random(rng) for _ in range(260)]
    values = np.array([-scores(recipe)[0] for recipe in recipes])
    embedding = Embedding(space.distributions)
    rows = embedding(recipes)
    process = GaussianProcess(embedding.blocks)
    process.fit(rows[:160], values[:160])
    mean, deviation = process.predict(rows[160:])
    errors = process.unwarp(mean) - values[160:]
    assert np.sqrt(np.mean(errors**2)) < 0.2 * values.std()
    near, _ = process.predict(rows[:160])
    assert np.abs(process.unwarp(near) - values[:160]).mean() < np.abs(errors).mean()
    assert process.predict(rows[:160])[1].mean() < deviation.mean()


def test_options_that_do_the_same_are_seen_to_be_alike_in_all_parameters_that_have_them() -> None:
    """Two of four options are good; which of them are, the last parameter has not shown."""
    names, rng = [f"edge{index}" for index in range(4)], random.Random(0)
    space = {name: CategoricalDistribution(("a", "b", "c", "d")) for name in names}
    recipes = [{name: rng.choice("abcd" if name != "edge3" else "ac") for name in names} for _ in range(60)]
    values = np.array([float(sum(recipe[name] in "cd" for name in names)) for recipe in recipes])
    embedding = Embedding(space)
    process = GaussianProcess(embedding.blocks)
    process.fit(embedding(recipes), values)
    (unseen_bad, unseen_good), _ = process.predict(embedding([dict.fromkeys(names, "a") | {"edge3": o} for o in "bd"]))
    assert process.unwarp(np.array([unseen_good - unseen_bad]))[0] > 0.4


def test_what_is_believed_makes_its_place_certain_and_moves_nothing() -> None:
    space, rng = Space(SPACE), random.Random(0)
    recipes = [space.at_random(rng) for _ in range(40)]
    embedding = Embedding(space.distributions)
    process = GaussianProcess(embedding.blocks)
    process.fit(embedding(recipes[:30]), np.array([scores(recipe)[1] for recipe in recipes[:30]]))
    before, unsure = process.predict(embedding(recipes[30:]))
    process.believe(embedding(recipes[30:]))
    after, sure = process.predict(embedding(recipes[30:]))
    assert after == pytest.approx(before, abs=0.05 * float(before.std()) + 1e-6)
    assert (sure < unsure + 1e-9).all() and sure.sum() < 0.7 * unsure.sum()


def test_warping_is_undone() -> None:
    process = GaussianProcess([])
    values = np.array([1.0, 2.0, 3.0, 50.0])
    process.fit(np.empty((4, 0)), values)
    for value in (-3.0, 1.0, 2.5, 50.0):
        assert process.unwarp(np.array([process.warp(value)])) == pytest.approx([value])


# the sampler


def test_it_finds_more_than_random_search_and_repeats_nothing() -> None:
    study = run(GreyBoxSampler(SPACE, candidates=96, seed=1, costs=costs), 50)
    assert len({key_of(trial.params) for trial in study.trials}) == 50
    assert volume(study) > volume(run(optuna.samplers.RandomSampler(seed=1), 50))


def test_equal_seeds_give_equal_searches() -> None:
    one, other, another = (
        run(GreyBoxSampler(SPACE, candidates=96, seed=seed, cost_aware=False), 16) for seed in (3, 3, 4)
    )
    assert [trial.params for trial in one.trials] == [trial.params for trial in other.trials]
    assert [trial.params for trial in one.trials] != [trial.params for trial in another.trials]


def test_reasons_tell_where_a_recipe_came_from_and_what_was_expected() -> None:
    sampler = GreyBoxSampler(SPACE, candidates=96, seed=0, costs=costs, cost_aware=False)
    study = run(sampler, 30)
    assert set(origins(sampler)[:STARTUP]) == {"free exploration"}
    modelled = {number: reason for number, reason in sampler.reasons.items() if reason.gain is not None}
    assert any("neighbour of trial" in reason.origin for reason in modelled.values())
    for number, reason in modelled.items():
        assert reason.expected is not None
        assert reason.expected[1:] == pytest.approx(study.trials[number].values[1:])  # given, so exactly known
        assert set(reason.plain()) >= {"origin", "expected", "gain", "feasible"}
    expected = np.array([reason.expected[0] for reason in modelled.values() if reason.expected])
    scored = np.array([study.trials[number].values[0] for number in modelled])
    constant = np.abs(scored - scored.mean()).mean()  # the error of who expects the same of all
    assert np.abs(expected - scored).mean() < 0.6 * constant


@pytest.mark.parametrize("exploration", [0.0, 0.3, 1.0])
def test_the_free_share_is_kept_at_every_time(exploration: float) -> None:
    free = [is_free(asked, exploration, STARTUP) for asked in range(200)]
    for asked in range(1, 201):
        assert sum(free[:asked]) == max(min(asked, STARTUP), math.ceil(round(exploration * asked, 9)))


def test_the_first_are_free_and_none_of_them_where_more_was_queued() -> None:
    assert [is_free(asked, 0.0, first=2) for asked in range(4)] == [True, True, False, False]
    assert [is_free(asked, 0.3, first=-4) for asked in range(5)] == [True, False, False, True, False]


def test_long_searches_begin_with_more_free_exploration() -> None:
    assert [free_beginning(trials) for trials in (None, 12, 50, 100, 200, 1000)] == [5, 5, 5, 7, 15, 15]
    sampler = grey_box(SPACE, 0, startup=8, exploration=0.0)
    run(sampler, 10)
    assert origins(sampler)[:8] == ["free exploration"] * 8 and "free exploration" not in origins(sampler)[8:]


def test_each_part_can_be_switched_off() -> None:
    alone = GreyBoxSampler(SPACE, candidates=96, neighbours=False, underneath=None, exploration=0.0, cost_aware=False)
    run(alone, 16)
    assert set(origins(alone)[STARTUP:]) == {"random candidate"}
    assert all(reason.seconds is None for reason in alone.reasons.values())
    free = GreyBoxSampler(SPACE, exploration=1.0)
    run(free, 25)
    assert set(origins(free)) == {"free exploration"}


def test_another_sampler_underneath_offers_candidates() -> None:
    nsga = optuna.samplers.NSGAIISampler(population_size=4, seed=0)
    sampler = GreyBoxSampler(SPACE, underneath=nsga, candidates=2, neighbours=False, exploration=0.0)
    run(sampler, 30)
    assert "candidate of NSGAIISampler" in origins(sampler)


def test_only_as_many_costs_are_asked_for_as_allowed() -> None:
    asked: list[Any] = []

    def counted(params: Any) -> Sequence[float]:
        asked.append(params)
        return costs(params)

    sampler = GreyBoxSampler(SPACE, candidates=96, costs=counted, checks=3, exploration=0.0)
    study = run(sampler, STARTUP + 4)
    assert 0 < len(asked) <= 3 * 4
    for number in range(STARTUP, STARTUP + 4):
        expected = sampler.reasons[number].expected
        assert expected is not None and expected[1:] == pytest.approx(study.trials[number].values[1:])


def test_limits_are_met_more_often_than_by_chance() -> None:
    """A limit on an objective and one on something that no objective tells."""
    limits: dict[str, Excess] = {
        "size": lambda values: values[1] / 0.2 - 1,
        "hidden": lambda values: values[0] ** 2 - 0.88,
    }
    sampler = GreyBoxSampler(SPACE, candidates=96, seed=0, exploration=0.0)
    study = run(sampler, 40, limits)
    met = [all(excess <= 0 for excess in trial.constraints.values()) for trial in study.trials]
    assert sum(met[STARTUP:]) / 30 > 1.5 * sum(met[:STARTUP]) / STARTUP
    assert all(0 <= (sampler.reasons[number].feasible or 0) <= 1 for number in range(40))


def test_what_failed_is_not_tried_again_and_avoided() -> None:
    """Every recipe with four bits fails."""
    sampler = GreyBoxSampler(SPACE, candidates=96, seed=0, exploration=0.0, underneath=None)
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    for _ in range(40):
        trial = study.ask()
        SPACE(trial)
        failed = trial.params.get("pack.bits") == 4
        study.tell(trial, None if failed else scores(trial.params), TrialState.FAIL if failed else None)
    assert len({key_of(trial.params) for trial in study.trials}) == 40
    late = [trial.state for trial in study.trials[20:]]
    assert late.count(TrialState.FAIL) <= 5


def test_trials_in_flight_are_not_proposed_again() -> None:
    sampler = GreyBoxSampler(SPACE, candidates=96, seed=0, costs=costs, exploration=0.0, cost_aware=False)
    study = run(sampler, 15)
    for _ in range(6):
        SPACE(study.ask())
    running = [trial for trial in study.trials if trial.state is TrialState.RUNNING]
    assert len({key_of(trial.params) for trial in running}) == 6
    gains = [sampler.reasons[trial.number].gain or 0.0 for trial in running]
    assert gains[-1] < gains[0]  # what runs is expected to have taken the gain before it


def test_expensive_recipes_must_gain_more() -> None:
    def seconds(trial: FrozenTrial) -> float:
        return 10.0 ** int(trial.params.get("recovery.epochs", 0))

    def spent(cost_aware: bool) -> float:
        sampler = GreyBoxSampler(SPACE, candidates=96, seed=0, exploration=0.0, cost_aware=cost_aware, seconds=seconds)
        return sum(seconds(trial) for trial in run(sampler, 25).trials[STARTUP:])

    assert spent(cost_aware=True) < spent(cost_aware=False)


def test_what_is_trained_already_is_finished_in_other_ways() -> None:
    shared = functools.partial(prefix_params, BOUND)

    def seconds(trial: FrozenTrial) -> float:
        return 1.0 + 30 * ("recovery.epochs" in trial.params)

    def trainings(**sharing: Any) -> tuple[int, list[str]]:
        sampler = GreyBoxSampler(SPACE, candidates=96, seed=0, exploration=0.2, seconds=seconds, **sharing)
        study = run(sampler, 40)
        return len({key_of(shared(trial.params)) for trial in study.trials}), origins(sampler)

    alone, (together, reasons) = trainings()[0], trainings(shared=shared, after_training=lambda trial: 1.0)
    assert together < alone
    assert any(reason.startswith("other finalizers on the prefix of trial") for reason in reasons)


def test_a_prefix_is_what_the_training_depends_on() -> None:
    params = {"pruning": "cut", "cut.ratio": 0.5, "quantization": "pack", "pack.bits": 4, "recovery.epochs": 2}
    assert prefix_params(BOUND, params) == {"pruning": "cut", "cut.ratio": 0.5, "recovery.epochs": 2}
    assert prefix_params(BOUND, {"pruning": "none", "quantization": "pack", "pack.bits": 4}) == {}


def test_a_completed_recipe_keeps_what_is_given() -> None:
    space, rng = Space(SPACE), random.Random(0)
    kept = {"pruning": "cut", "cut.ratio": 0.5, "recovery.epochs": 2}
    drawn = [space.completed(kept, rng) for _ in range(20)]
    assert all(params | kept == params for params in drawn)
    assert {params["quantization"] for params in drawn} == {"none", "pack"}


def test_screened_trials_teach_what_is_not_feasible() -> None:
    """The half of the space that has the best quality is screened, and no trial in it is ever scored."""

    def whole(trial: Any) -> None:
        trial.suggest_float("x", 0, 1)

    def screened(measured: bool) -> int:
        sampler = GreyBoxSampler(whole, seed=0, exploration=0.0, underneath=None, candidates=96)
        study = optuna.create_study(directions=DIRECTIONS[:2], sampler=sampler)
        for _ in range(STARTUP + 20):
            trial = study.ask()
            whole(trial)
            x = trial.params["x"]
            trial.set_constraint("size", -0.5 if x <= 0.5 else 0.5)
            if x <= 0.5:
                study.tell(trial, [x, x])
            else:
                if measured:
                    trial.set_user_attr(MEASURED, [None, x])
                study.tell(trial, state=TrialState.PRUNED)
        return sum(trial.params["x"] > 0.5 for trial in study.trials[STARTUP:])

    assert screened(measured=True) < screened(measured=False) / 2


@pytest.mark.parametrize("directions", [DIRECTIONS[1:2], DIRECTIONS[:2], DIRECTIONS[1:] * 2 + DIRECTIONS[:1]])
def test_any_number_of_objectives(directions: list[StudyDirection]) -> None:
    def numbers(trial: optuna.Trial) -> list[float]:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        return [(x - 0.1 * index) ** 2 + abs(y - 0.2 * index) for index in range(len(directions))]

    sampler = GreyBoxSampler(numbers, candidates=96, seed=0)
    study = optuna.create_study(directions=directions, sampler=sampler)
    study.optimize(numbers, n_trials=20)
    assert any(reason.gain for reason in sampler.reasons.values())


def test_a_space_that_is_spent_ends_with_a_repeat() -> None:
    def three(trial: Any) -> None:
        trial.suggest_categorical("a", (1, 2, 3))

    study = optuna.create_study(sampler=GreyBoxSampler(three, candidates=8))
    for _ in range(4):
        trial = study.ask()
        three(trial)
        study.tell(trial, 0.0)
    assert {trial.params["a"] for trial in study.trials[:3]} == {1, 2, 3}


def test_an_impossible_share_is_refused() -> None:
    with pytest.raises(ValueError, match="0 <= exploration <= 1"):
        GreyBoxSampler(SPACE, exploration=1.5)


def test_a_search_uses_it_and_keeps_the_reasons(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    limits = parse_limits(["size <= 60% of baseline"], [ACCURACY])
    study = SearchStudy(url, BOUND, ACCURACY, limits, 0, functools.partial(grey_box, costs=costs, candidates=96))
    for _ in range(STARTUP + 1):
        proposal = study.ask()
        assert proposal is not None
        accuracy, size, time = scores(BOUND.choices(proposal.recipe))
        told = {"accuracy": accuracy, "size_bytes": size, "latency_ms": time, "speedup": 1 / time}
        study.tell(proposal.number, Outcome(OK, told, work_s=1.0))
    trials = optuna.load_study(study_name=None, storage=url).trials
    assert all(trial.user_attrs["proposed"]["origin"] for trial in trials)
    assert trials[-1].user_attrs["proposed"]["seconds"] == pytest.approx(1.0)
