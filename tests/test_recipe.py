"""What users write as YAML or JSON: recipes and budgets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from autocompress import Recipe, Recovery, Step
from autocompress.budget import Budget
from autocompress.document import Document
from autocompress.errors import InvalidInput

RECIPE = Recipe(
    steps=(Step(method="prune", params={"ratio": 0.3, "norm": "l2", "tiny": 1e-5}), Step(method="quantize")),
    recovery=Recovery(epochs=2, learning_rate=1e-4, batch_size=16),
)


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
@pytest.mark.parametrize("value", [RECIPE, Recipe(), Budget(trials=None, hours=0.5)])
def test_a_document_survives_a_file(value: Document, write: Any, tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_text(write(value.plain()))
    assert type(value).read(path) == value


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "budget.yaml").write_text("")
    assert Budget.read(tmp_path / "budget.yaml") == Budget(trials=50, hours=None, minutes_per_trial=None)


@pytest.mark.parametrize("number", ["1e-3", "1.0e-3", "0.001", "1E-03"])
def test_a_number_is_a_number_in_any_notation(number: str, tmp_path: Path) -> None:
    (tmp_path / "it.yaml").write_text(f"steps: [{{method: prune, params: {{ratio: {number}}}}}]")
    assert Recipe.read(tmp_path / "it.yaml").steps[0].params == {"ratio": 0.001}


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (Recipe, {"step": []}, "it: unknown key 'step'; did you mean 'steps'?"),
        (Recipe, {"steps": [{"method": "a", "parms": {}}]}, "it: unknown key 'steps.0.parms'; did you mean 'params'?"),
        (Recipe, {"recovery": {"epoch": 3}}, "it: unknown key 'recovery.epoch'; did you mean 'epochs'?"),
        (Recipe, {"recovery": {"zzz": 3}}, "it: unknown key 'recovery.zzz'; known: batch_size, epochs, learning_rate"),
        (Recipe, {"steps": [{}]}, "it: steps.0.method: Field required"),
        (Recipe, {"recovery": {"epochs": -1}}, "it: recovery.epochs: .*greater than or equal to 0, but got -1"),
        (Recipe, {"recovery": {"learning_rate": 0}}, "it: recovery.learning_rate: .*greater than 0, but got 0"),
        (Recipe, ["prune"], r"it: value: .*but got \['prune'\]"),
        (Budget, {"trails": 5}, "it: unknown key 'trails'; did you mean 'trials'?"),
        (Budget, {"trials": 0}, "it: trials: .*greater than or equal to 1, but got 0"),
        (Budget, {"hours": "long"}, "it: hours: .*but got 'long'"),
    ],
)
def test_a_mistake_is_told_with_its_place(kind: type[Document], data: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        kind.parse(data, "it")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"steps: [", "not readable as YAML"), (b"\xff\xfe\xff", "not readable")],
)
def test_a_file_that_cannot_be_read(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=f"it.yaml: {message}"):
        Recipe.read(path)


def prune(ratio: float, **others: Any) -> Recipe:
    return Recipe(steps=(Step(method="prune", params={"ratio": ratio, **others}),))


def test_equal_recipes_have_equal_keys() -> None:
    assert prune(0.3).key == prune(0.1 + 0.2).key
    assert prune(0.3, a=1, b=[0.3]).key == prune(0.3, b=[0.1 + 0.2], a=1).key
    assert RECIPE.key == Recipe.parse(json.loads(json.dumps(RECIPE.plain())), "recipe").key


@pytest.mark.parametrize(
    "other",
    [
        prune(0.30001),
        prune(0.3, norm="l2"),
        Recipe(steps=prune(0.3).steps * 2),
        Recipe(steps=prune(0.3).steps, recovery=Recovery(epochs=1)),
    ],
)
def test_different_recipes_have_different_keys(other: Recipe) -> None:
    assert prune(0.3).key != other.key


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        (Recipe(), "baseline"),
        (Recipe(recovery=Recovery(epochs=3)), "baseline, 3 epochs"),
        (prune(0.12345, norm="l2"), "prune(ratio=0.123, norm=l2)"),
        (RECIPE, "prune(ratio=0.3, norm=l2, tiny=1e-05) + quantize, 2 epochs"),
    ],
)
def test_a_recipe_in_words(recipe: Recipe, text: str) -> None:
    assert str(recipe) == text
