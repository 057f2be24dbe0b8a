"""Which methods a recipe may have next."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping

import pytest

from autocompress import Choice, Recipe, Recovery, SearchSpace, Step, Target, Task, Technique
from autocompress.compress import check_order
from autocompress.errors import InvalidInput
from autocompress.openings import NO_STEP, Openings
from autocompress.plugins import registry
from autocompress.space import bind
from autocompress.testing_families import FAMILIES
from autocompress.testing_tasks import images

CPU = Target("cpu")
PRUNING, QUANTIZATION, ACCELERATION = Technique.PRUNING, Technique.QUANTIZATION, Technique.ACCELERATION
TWO = Openings({PRUNING: ("heads", "width", "mask")}, frozenset({("mask", "width")}), {PRUNING: 2})
"""A mask cannot be followed by what changes the width, and all else can follow all else."""
FOLDING = Openings(
    {PRUNING: ("width",), QUANTIZATION: ("pack", "train"), ACCELERATION: ("fold", "compile")},
    frozenset({("pack", "fold"), ("fold", "train")}),
    early={QUANTIZATION: ("fold",)},
)
"""Weights are folded before they are packed, and in no case after; before a quantizer that trains they must not be."""


def made(openings: Openings, answers: Mapping[str, str]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """The methods for these answers, none where nothing is said, and what each choice offered."""
    offered: dict[str, tuple[str, ...]] = {}

    def ask(label: str, choice: Choice) -> str:
        offered[label] = tuple(map(str, choice.options))
        return answers.get(label, NO_STEP)

    return openings.walk(ask), offered


def test_a_technique_has_one_method_unless_more_are_allowed() -> None:
    one = Openings(TWO.methods, TWO.conflicts)
    assert made(one, {"pruning": "heads"}) == (["heads"], {"pruning": ("none", "heads", "width", "mask")})


def test_a_second_one_is_asked_for_after_the_first() -> None:
    answers = {"pruning": "heads", "pruning 2 after heads": "mask"}
    assert made(TWO, answers) == (
        ["heads", "mask"],
        {"pruning": ("none", "heads", "width", "mask"), "pruning 2 after heads": ("none", "width", "mask")},
    )
    assert made(TWO, {})[1].keys() == {"pruning"}, "after none there is no second"


def test_of_two_orders_one_is_open() -> None:
    """That of the listing; where only the other is possible, that one."""
    assert made(TWO, {"pruning": "width"})[1]["pruning 2 after width"] == ("none", "mask")
    assert made(TWO, {"pruning": "mask"})[1].keys() == {"pruning"}, "width cannot follow, and heads came before"
    swapped = Openings(TWO.methods, frozenset({("heads", "width")}), TWO.most)
    assert made(swapped, {"pruning": "width"})[1]["pruning 2 after width"] == ("none", "heads", "mask")
    assert made(swapped, {"pruning": "heads"})[1]["pruning 2 after heads"] == ("none", "mask")


def test_orders_never_go_in_a_circle() -> None:
    """Compiling is listed first, and folding cannot follow it: there is one order of all three, as of any two."""
    names = ("compile", "channels", "fold")
    openings = Openings({ACCELERATION: names}, frozenset({("compile", "fold")}), {ACCELERATION: 3})
    rng = random.Random(0)
    found = {tuple(drawn(openings, rng)[0]) for _ in range(300)}
    assert {frozenset(steps) for steps in found} == {
        frozenset(some) for count in range(4) for some in itertools.combinations(names, count)
    }
    assert len(found) == 8 and ("channels", "fold", "compile") in found


def test_why_a_space_does_not_hold_methods_is_told() -> None:
    one = Openings(TWO.methods, TWO.conflicts)
    assert one.why_not(["heads", "mask"]) == (
        "it has 2 methods of pruning, and the space allows 1: `most: {pruning: 2}` in the space allows more"
    )
    assert TWO.why_not(["mask", "heads"]) == "methods of one technique come in the order of the space: heads, mask"
    assert TWO.why_not(["heads", "mask"]) == TWO.why_not([]) == FOLDING.why_not(["fold", "pack", "compile"]) == ""


def test_what_may_come_earlier_is_asked_for_where_there_is_something_to_precede() -> None:
    methods, offered = made(FOLDING, {"quantization": "pack", "acceleration before quantization": "fold"})
    assert methods == ["fold", "pack"]
    assert offered["acceleration after fold after pack"] == ("none", "compile")
    assert "acceleration before quantization" not in made(FOLDING, {})[1]
    late, offered = made(FOLDING, {"acceleration": "fold"})
    assert late == ["fold"] and offered["acceleration"] == ("none", "fold", "compile")
    assert "acceleration before quantization after train" not in made(FOLDING, {"quantization": "train"})[1]


def drawn(openings: Openings, rng: random.Random) -> tuple[list[str], dict[str, str]]:
    """Methods at random, and what was answered to which choice."""
    answers: dict[str, str] = {}

    def ask(label: str, choice: Choice) -> str:
        answers[label] = str(rng.choice(choice.options))
        return answers[label]

    return openings.walk(ask), answers


@pytest.mark.parametrize("openings", [TWO, FOLDING])
def test_choices_make_the_recipe_again(openings: Openings) -> None:
    rng, seen = random.Random(0), set()
    for _ in range(300):
        steps, answers = drawn(openings, rng)
        given = openings.choices(steps)
        assert given == {label.split(" after ")[0]: name for label, name in answers.items() if name != NO_STEP}
        assert made(openings, {label: given.get(label.split(" after ")[0], NO_STEP) for label in answers})[0] == steps
        assert not any((a, b) in openings.conflicts for i, a in enumerate(steps) for b in steps[i + 1 :])
        seen.add(tuple(steps))
    assert len(seen) == (7 if openings is TWO else 20)


def test_without_a_method_nothing_asks_for_it() -> None:
    less = FOLDING.without(["fold"])
    assert less.early == {} and made(less, {"quantization": "pack"})[1]["acceleration"] == ("none", "compile")
    assert less.conflicts == frozenset()


def test_folding_before_packing_is_in_every_space_that_has_both() -> None:
    space = bind(SearchSpace(methods={"int8_weight_only": {}, "batch_norm_folding": {}}), images(), registry(), CPU)
    folded = Recipe(steps=(Step(method="batch_norm_folding"), Step(method="int8_weight_only")))
    assert space.choices(folded) == {
        "quantization": "int8_weight_only",
        "acceleration before quantization": "batch_norm_folding",
    }
    recipes = {str(space.random_recipe(random.Random(seed))) for seed in range(60)}
    assert recipes == {"baseline", "batch_norm_folding", "int8_weight_only", str(folded)}


def two_of_pruning(**most: int) -> SearchSpace:
    methods = {"attention_heads": None, "layer_dropping": None, "structured_magnitude": None, "int8_weight_only": None}
    return SearchSpace.parse({"methods": methods, "most": most}, "space")


def test_a_space_with_two_pruning_methods_draws_recipes_that_can_be_carried_out() -> None:
    task: Task = FAMILIES["encoder"]()
    space = bind(two_of_pruning(pruning=2), task, registry(), CPU)
    pairs = set()
    for seed in range(200):
        recipe = space.random_recipe(random.Random(seed))
        methods = [registry().get(step.method) for step in recipe.steps]
        check_order(methods)
        space.choices(recipe)
        pairs.add(tuple(m.name for m in methods if m.technique is PRUNING))
    assert {len(pair) for pair in pairs} == {0, 1, 2}
    both = Recipe(
        steps=(Step(method="attention_heads"), Step(method="layer_dropping")),
        recovery=Recovery(epochs=1, learning_rate=1e-3),
    )
    with pytest.raises(InvalidInput, match="is outside the search space: it has 2 methods of pruning"):
        bind(two_of_pruning(), task, registry(), CPU).choices(both)
    idle = Recipe(steps=(Step(method="int8_weight_only"),), recovery=Recovery(epochs=2))
    with pytest.raises(InvalidInput, match="nothing in it is trained, so leave out its recovery"):
        space.choices(idle)


@pytest.mark.parametrize(
    ("most", "reason"),
    [({"pruning": 0}, "greater than or equal to 1"), ({"cutting": 2}, r"most\.cutting: .*'pruning'")],
)
def test_how_many_there_may_be_is_checked(most: dict[str, int], reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"^space: .*{reason}"):
        two_of_pruning(**most)
