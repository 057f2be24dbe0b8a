"""Search spaces: read, narrowed, bound to a task, and turned into recipes and back."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from autocompress import (
    Choice,
    Float,
    Integer,
    Method,
    NotApplicable,
    Parameter,
    Plan,
    Recipe,
    Recovery,
    SearchSpace,
    Step,
    Target,
    Task,
    Technique,
)
from autocompress.errors import InvalidInput
from autocompress.plugins import Plugin, Registry, registry
from autocompress.space import BoundSpace, bind, grid_size, grid_value, known_recipes
from autocompress.testing_families import bert, char_lstm, gru4rec
from autocompress.testing_tasks import images

CPU = Target("cpu")

SHIPPED = sorted((Path(__file__).parents[1] / "search_spaces").glob("*.yaml"))


class Cut(Method):
    """Takes part before training."""

    name = "cut"
    technique = Technique.PRUNING

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"ratio": Float(0.1, 0.9, 0.5, step=0.05), "norm": Choice(("l1", "l2"), "l2")}

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        return model


class Teach(Method):
    """Takes part while training."""

    name = "teach"
    technique = Technique.DISTILLATION

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"temperature": Float(1, 10, 4, log=True)}

    def loss(self, plan: Plan, task: Task) -> None:
        return None


class Pack(Method):
    """Takes part after training."""

    name = "pack"
    technique = Technique.QUANTIZATION

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        return {"bits": Integer(2, 8, 8), "group": Integer(1, 1024, 32, log=True)}


class Refuses(Pack):
    name = "refuses"

    def check(self, task: Task, target: Target) -> None:
        raise NotApplicable("there is nothing to pack")


class Breaks(Pack):
    name = "breaks"

    def check(self, task: Task, target: Target) -> None:
        raise RuntimeError("out of luck\nand more")


class HasNoSpace(Pack):
    name = "has_no_space"

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        raise KeyError("vocabulary")


PLUGINS = Registry((Plugin("mine", "acme", "1.0", (Pack(), Cut(), Teach(), Refuses(), Breaks(), HasNoSpace())),))


def bound(task: Task, **space: Any) -> BoundSpace:
    return bind(SearchSpace(**space), task, PLUGINS, CPU)


def cut(**params: Any) -> Recipe:
    return Recipe(steps=(Step(method="cut", params=params),), recovery=Recovery(epochs=2, batch_size=64))


def pack(**params: Any) -> Recipe:
    return Recipe(steps=(Step(method="pack", params=params),))


OTHER_FAMILIES = {"rnn": char_lstm, "transformer": bert, "recommender": gru4rec}
RARE_ROWS = "embedding_rows"  # has work only where some rows of a table are hardly used


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_space_loads_and_fits_its_family(path: Path) -> None:
    space = SearchSpace.load(path.stem)
    assert space == SearchSpace.load(path)
    assert space.description
    task = OTHER_FAMILIES.get(path.stem, images)()
    fitted = bind(space, task, registry(), CPU)
    assert fitted.left_out.keys() <= {RARE_ROWS}
    assert set(fitted.parameters) == set(space.methods or registry().methods) - fitted.left_out.keys()
    known = known_recipes(space.recipes, fitted, registry(), task)
    assert len({recipe.key for recipe in known}) == len(space.recipes)


def test_quickstart_is_shipped() -> None:
    assert "quickstart" in [path.stem for path in SHIPPED]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quikstart", r"unknown search space 'quikstart'; did you mean 'quickstart'\? \(a file's name ends in .yaml\)"),
        ("zzz", "unknown search space 'zzz'; known: .*quickstart"),
        ("no/such/file.yaml", "no/such/file.yaml: no such file"),
    ],
)
def test_a_space_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        SearchSpace.load(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: {cut: }", "unknown key 'method'; did you mean 'methods'?"),
        ("methods: [cut]", "methods: Input should be a valid dictionary"),
        ("recipes: [{stps: []}]", "unknown key 'recipes.0.stps'; did you mean 'steps'?"),
        ("methods: {", "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_space(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        SearchSpace.load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


def test_methods_that_need_training_are_left_out_without_training_data(task: Task) -> None:
    less = Task(model=task.model, validation=task.validation, test=task.test)
    space = bound(less)
    assert "cut" not in space.parameters and "pack" in space.parameters
    assert space.left_out["cut"] == "it needs training, and there are no training data"
    assert {space.random_recipe(random.Random(seed)).recovery.epochs for seed in range(20)} == {0}


def test_methods_that_look_at_inputs_are_left_out_without_any(task: Task) -> None:
    less = Task(model=task.model, validation=task.validation, test=task.test)
    wanted = SearchSpace(methods={"mixed_precision": {}, "int8_weight_only": {}})
    assert bind(wanted, less, registry(), CPU).left_out["mixed_precision"] == (
        "it needs inputs to look at, and there are neither calibration nor training data"
    )
    told = dataclasses.replace(less, calibration=task.validation)
    assert "mixed_precision" not in bind(wanted, told, registry(), CPU).left_out


def test_the_methods_of_no_space_are_all_that_apply(task: Task) -> None:
    fitted = bound(task)
    assert fitted.openings.methods == {
        Technique.PRUNING: ("cut",),
        Technique.DISTILLATION: ("teach",),
        Technique.QUANTIZATION: ("pack",),
    }
    assert fitted.left_out == {
        "refuses": "there is nothing to pack",
        "breaks": "its check or search space failed, of acme 1.0: RuntimeError: out of luck",
        "has_no_space": "its check or search space failed, of acme 1.0: KeyError: 'vocabulary'",
    }


@pytest.mark.parametrize(
    ("given", "narrowed"),
    [
        ({}, {"ratio": Float(0.1, 0.9, 0.5, step=0.05), "norm": Choice(("l1", "l2"), "l2")}),
        ({"ratio": 0.3}, {"ratio": Choice((0.3,), 0.3), "norm": Choice(("l1", "l2"), "l2")}),
        (
            {"ratio": [0.2, 0.5], "norm": "l1"},
            {"ratio": Choice((0.2, 0.5), 0.5), "norm": Choice(("l1",), "l1")},
        ),
        (
            {"ratio": {"low": 0.6}, "norm": ["l1"]},
            {"ratio": Float(0.6, 0.9, 0.6, step=0.05), "norm": Choice(("l1",), "l1")},
        ),
        (
            {"ratio": {"low": 0.2, "high": 0.4}},
            {"ratio": Float(0.2, 0.4, 0.4, step=0.05), "norm": Choice(("l1", "l2"), "l2")},
        ),
    ],
)
def test_a_space_narrows_parameters(given: dict[str, Any], narrowed: dict[str, Parameter], task: Task) -> None:
    assert bound(task, methods={"cut": given}).parameters == {"cut": narrowed}


def test_a_space_narrows_the_recovery(task: Task) -> None:
    recovery = bound(task, recovery={"epochs": 2, "learning_rate": {"low": 0.01}}).recovery
    assert recovery["epochs"] == Choice((2,), 2)
    assert recovery["learning_rate"] == Float(0.01, 1.0, 0.01, log=True)
    assert recovery["batch_size"] == Choice((64,), 64)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"methods": {"cute": None}}, "unknown method 'cute'; did you mean 'cut'?"),
        ({"methods": {"cut": {"rato": 1}}}, "method 'cut' has no parameter 'rato'; did you mean 'ratio'?"),
        ({"methods": {"cut": {"ratio": 0.95}}}, "parameter 'ratio' of method 'cut' must lie in 0.1..0.9, but got 0.95"),
        ({"methods": {"cut": {"ratio": {"high": 1}}}}, "'ratio' of method 'cut' must lie in 0.1..0.9, but got 1"),
        ({"methods": {"cut": {"ratio": [0.5, 0]}}}, "'ratio' of method 'cut' must lie in 0.1..0.9, but got 0"),
        ({"methods": {"cut": {"ratio": {"low": 0.6, "high": 0.2}}}}, "`low <= high` must hold, but got (low=0.6, hi"),
        ({"methods": {"cut": {"ratio": {"lo": 0.6}}}}, "a range has 'low' and 'high', but got 'lo'; did you mean 'low"),
        ({"methods": {"cut": {"ratio": []}}}, "must keep at least one value, but got []"),
        ({"methods": {"cut": {"ratio": "half"}}}, "must be a number, but got 'half'"),
        ({"methods": {"cut": {"norm": "l3"}}}, "'norm' of method 'cut' must be one of ['l1', 'l2'], but got 'l3'"),
        ({"methods": {"cut": {"norm": {"low": "l1"}}}}, "has options ['l1', 'l2'] and takes a value or a list"),
        ({"methods": {"pack": {"bits": 4.5}}}, "'bits' of method 'pack' must be a whole number, but got 4.5"),
        ({"recovery": {"epoch": 3}}, "recovery has no parameter 'epoch'; did you mean 'epochs'?"),
        ({"recovery": {"epochs": 0}}, "parameter 'epochs' of recovery must lie in 1..1000, but got 0"),
    ],
)
def test_a_space_that_does_not_narrow_is_refused(space: dict[str, Any], message: str, task: Task) -> None:
    with pytest.raises(InvalidInput) as caught:
        bound(task, **space)
    assert message in str(caught.value)


def asked(space: BoundSpace, **answers: Any) -> dict[str, Parameter]:
    """What is asked on the way to a recipe, when the answers are these and else the defaults."""
    heard: dict[str, Parameter] = {}

    def choose(name: str, parameter: Parameter) -> Any:
        heard[name] = parameter
        return answers.get(name, parameter.default)

    space.recipe(choose)
    return heard


def test_every_technique_may_be_left_out(task: Task) -> None:
    heard = asked(bound(task))
    assert list(heard) == ["pruning", "distillation", "quantization"]
    assert all(isinstance(choice, Choice) and choice.options[0] == "none" for choice in heard.values())


@pytest.mark.parametrize(
    ("answers", "trains"),
    [({"pruning": "cut"}, True), ({"distillation": "teach"}, True), ({"quantization": "pack"}, False)],
)
def test_parameters_are_asked_for_only_when_they_matter(answers: dict[str, str], trains: bool, task: Task) -> None:
    (method,) = answers.values()
    heard = asked(bound(task), **answers)
    assert {name for name in heard if "." in name and not name.startswith("recovery.")} == {
        f"{method}.{name}" for name in PLUGINS.get(method).search_space(task)
    }
    assert any(name.startswith("recovery.") for name in heard) == trains


NARROWED = {
    "methods": {"cut": {"ratio": {"low": 0.3, "high": 0.85}}, "teach": None, "pack": {"bits": [2, 4]}},
    "recovery": {"epochs": {"low": 1, "high": 3}, "batch_size": {"low": 16, "high": 64}},
}


@pytest.mark.parametrize("space", [{}, NARROWED], ids=["all", "narrowed"])
def test_random_recipes_are_in_the_space_and_come_back_from_their_choices(space: dict[str, Any], task: Task) -> None:
    fitted = bound(task, **space)
    recipes = [fitted.random_recipe(random.Random(seed)) for seed in range(400)]
    for recipe in recipes:
        choices = fitted.choices(recipe)
        again = fitted.recipe(lambda name, parameter, choices=choices: parameter.check(choices[name]))  # type: ignore[misc]
        assert again.key == recipe.key
    assert {step.method for recipe in recipes for step in recipe.steps} == {"cut", "teach", "pack"}
    assert Recipe() in recipes


def test_the_same_seed_gives_the_same_recipe(task: Task) -> None:
    fitted = bound(task)
    assert fitted.random_recipe(random.Random(5)) == fitted.random_recipe(random.Random(5))


@pytest.mark.parametrize(
    ("low", "high", "step", "values"),
    [
        (0.3, 0.85, 0.05, [0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85]),
        (0.1, 0.9, 0.3, [0.1, 0.4, 0.7]),
        (2.0, 2.0, 1.0, [2.0]),
    ],
)
def test_a_stepped_range_has_round_values(low: float, high: float, step: float, values: list[float]) -> None:
    parameter = Float(low, high, low, step=step)
    assert [grid_value(parameter, index) for index in range(grid_size(parameter))] == values


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (cut(ratio=0.2), "'cut.ratio' must lie in 0.3..0.85, but got 0.2"),
        (cut(ratio=0.52), "'cut.ratio' goes from 0.3 in steps of 0.05: 0.5, but got 0.52"),
        (pack(bits=8), "'pack.bits' must be one of [2, 4], but got 8"),
        (
            Recipe(steps=(Step(method="cut"),), recovery=Recovery(epochs=9)),
            "'recovery.epochs' must lie in 1..3, but got 9",
        ),
        (Recipe(steps=(Step(method="cut"),)), "'recovery.epochs' must lie in 1..3, but got 0"),
        (
            Recipe(recovery=Recovery(epochs=2)),
            "recipe 'baseline, 2 epochs' is outside the search space: nothing in it is trained",
        ),
        (
            pack(bits=2).model_copy(update={"recovery": Recovery(epochs=1)}),
            "nothing in it is trained, so leave out its recovery",
        ),
    ],
)
def test_a_known_recipe_outside_the_space_is_refused(recipe: Recipe, message: str, task: Task) -> None:
    space = SearchSpace(**NARROWED)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput) as caught:
        known_recipes([recipe], bind(space, task, PLUGINS, CPU), PLUGINS, task)
    assert "is outside the search space: " in str(caught.value)
    assert message in str(caught.value)


def test_a_method_that_the_space_leaves_out_is_in_no_known_recipe(task: Task) -> None:
    space = SearchSpace(methods={"pack": None})
    with pytest.raises(InvalidInput, match="is outside the search space: it has 'cut', which the space does not have"):
        known_recipes([cut()], bind(space, task, PLUGINS, CPU), PLUGINS, task)


def test_known_recipes_are_filled_in_and_lose_what_does_not_apply(task: Task) -> None:
    refused = Recipe(steps=(Step(method="refuses"),))
    space = SearchSpace(recipes=(refused, pack(bits=4)))
    known = known_recipes([*space.recipes, cut(norm="l1")], bind(space, task, PLUGINS, CPU), PLUGINS, task)
    assert [[step.params for step in recipe.steps] for recipe in known] == [
        [{"bits": 4, "group": 32}],
        [{"ratio": 0.5, "norm": "l1"}],
    ]
