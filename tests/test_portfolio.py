"""The portfolio, and the families of models that it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import nn

from autocompress import Recovery, SearchSpace, Target, Task
from autocompress.family import Family, family_of
from autocompress.plugins import registry
from autocompress.portfolio import Portfolio
from autocompress.space import BoundSpace, bind
from autocompress.testing_families import bert, char_lstm, recommender, residual, vit
from autocompress.testing_tasks import features, images

CPU = Target("cpu")
TASKS = {Family.CNN: images, Family.TRANSFORMER: bert, Family.RNN: char_lstm, Family.RECOMMENDER: recommender}


class SelfAttention(nn.Linear):
    """By its name alone, as models write their own."""


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (lambda: residual().trained_model(), Family.CNN),
        (lambda: vit().trained_model(), Family.TRANSFORMER),  # its patches come from a convolution
        (lambda: features().trained_model(), None),
        (lambda: nn.Sequential(SelfAttention(8, 8)), Family.TRANSFORMER),
        (lambda: nn.Sequential(nn.Conv2d(8, 32, 3), SelfAttention(8, 8)), Family.CNN),
        (lambda: nn.Sequential(nn.Embedding(1682, 36), nn.GRU(36, 36), nn.Linear(36, 1682)), Family.RECOMMENDER),
        (lambda: nn.Sequential(nn.Embedding(40, 36), nn.GRU(36, 36), nn.Linear(36, 40)), Family.RNN),
        (lambda: nn.Sequential(nn.Conv1d(8, 8, 3), nn.LSTM(8, 64)), Family.RNN),
        (
            lambda: nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(2048, 512)),
            Family.CNN,
        ),  # most is in its head
    ],
    ids=lambda value: value if isinstance(value, Family) else "",
)
def test_the_layers_tell_the_family(model: Callable[[], nn.Module], family: Family | None) -> None:
    assert family_of(model()) is family


def test_the_families_have_names_for_people() -> None:
    assert [family.plural for family in Family] == ["CNNs", "transformers", "RNNs", "recommenders"]


def wide(task: Task, **recovery: object) -> BoundSpace:
    """All that the portfolio's recipes use, without bounds."""
    names = {
        step.method
        for family in Family
        for recipe in getattr(Portfolio.shipped("cpu"), family)
        for step in recipe.steps
    }
    return bind(SearchSpace(methods=dict.fromkeys(names), recovery=recovery), task, registry(), CPU)


@pytest.mark.parametrize("family", Family)
def test_all_recipes_of_a_family_are_possible_where_all_is_allowed(family: Family) -> None:
    """So that none is lost unseen by a method or parameter that has another name by now."""
    task = TASKS[family]()
    shipped = Portfolio.shipped("cpu")
    found = shipped.recipes(family, wide(task), registry(), task)
    assert 1 <= len(found) == len(getattr(shipped, family)) <= 5
    assert family_of(task.trained_model()) is family


def test_what_a_space_does_not_hold_is_left_out() -> None:
    space = SearchSpace(methods={"structured_magnitude": {"ratio": {"high": 0.6}}, "soft_labels": None})
    bound = bind(space, images(), registry(), CPU)
    (recipe,) = Portfolio.shipped("cpu").recipes(Family.CNN, bound, registry(), images())
    assert [step.method for step in recipe.steps] == ["structured_magnitude", "soft_labels"]
    assert recipe.steps[0].params["ratio"] == 0.5


def test_methods_that_do_not_apply_are_left_out() -> None:
    task = replace(images(), model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    found = Portfolio.shipped("cpu").recipes(Family.CNN, wide(task), registry(), task)
    assert [[step.method for step in recipe.steps] for recipe in found] == [["onnx_int8_static"]]


def test_what_a_recovery_leaves_unsaid_is_the_spaces() -> None:
    bound = wide(images(), batch_size=128)
    found = Portfolio.shipped("cpu").recipes(Family.CNN, bound, registry(), images())
    assert [recipe.recovery for recipe in found][:2] == [
        Recovery(),
        Recovery(epochs=2, learning_rate=3e-3, batch_size=128),
    ]


def test_a_device_of_which_nothing_is_recorded_has_no_recipes() -> None:
    assert Portfolio.shipped("cuda") == Portfolio()
