"""The search space: which methods and which of their parameters a search may use."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from autocompress.compress import resolve
from autocompress.document import Document
from autocompress.errors import InvalidInput, did_you_mean, first_line
from autocompress.measure.device import Target
from autocompress.method import NotApplicable, Technique
from autocompress.openings import AFTER, NO_STEP, Openings, openings_of
from autocompress.parameters import Choice, Float, Integer, Parameter, narrow
from autocompress.plugins import Registry
from autocompress.recipe import Recipe, Recovery, Step
from autocompress.task import Task

RECOVERY: Mapping[str, Parameter] = {
    "epochs": Integer(1, 1000, default=3),
    "learning_rate": Float(1e-6, 1.0, default=1e-3, log=True),
    "batch_size": Integer(1, 65536, default=64, log=True),
}
"""What a space may say of the recovery."""

USUAL_RECOVERY: Mapping[str, Any] = {
    "epochs": {"low": 1, "high": 10},
    "learning_rate": {"low": 1e-4, "high": 1e-2},
    "batch_size": 64,
}
"""What holds for whatever a space leaves unsaid."""

Choose = Callable[[str, Parameter], Any]
"""Gives the value of a named parameter: a sampler's, a random or a recorded one."""


class SearchSpace(Document):
    """What a search may combine, as written in YAML."""

    description: str = ""
    methods: dict[str, dict[str, Any] | None] | None = None
    """Methods by name with narrowed parameters: a value, a list, or `{low:, high:}`; left out: all installed."""
    most: dict[Technique, Annotated[int, Field(ge=1, strict=True)]] = {}
    """How many methods of a technique a recipe may have; left out: one."""
    recovery: dict[str, Any] = {}
    """Narrowed `epochs`, `learning_rate`, `batch_size`."""
    recipes: tuple[Recipe, ...] = ()
    """Known recipes, tried first."""

    @classmethod
    def load(cls, name_or_path: str | Path) -> SearchSpace:
        """A space by the name of a shipped one (`quickstart`), or from a YAML file."""
        path = Path(name_or_path)
        if path.suffix in (".yaml", ".yml", ".json"):
            return cls.read(path)
        shipped = {path.stem: path for path in shipped_folder().glob("*.yaml")}
        if str(name_or_path) not in shipped:
            raise InvalidInput(
                f"unknown search space {str(name_or_path)!r}{did_you_mean(str(name_or_path), shipped)}"
                " (a file's name ends in .yaml)"
            )
        return cls.read(shipped[str(name_or_path)])


@dataclass(frozen=True)
class BoundSpace:
    """A search space bound to a task and the installed methods: checked, and only what applies."""

    parameters: Mapping[str, Mapping[str, Parameter]]
    """The narrowed parameters of every method that applies."""
    openings: Openings
    """Which of them a recipe may have, and in which order."""
    recovery: Mapping[str, Parameter]
    needs_training: frozenset[str]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Methods that do not apply, with their reasons."""

    def recipe(self, choose: Choose) -> Recipe:
        """The recipe that a sequence of choices makes; parameters are asked for only when they matter."""
        methods, recovery = self.walk(choose)
        steps = tuple(Step(method=name, params=params) for name, params in methods.items())
        return Recipe(steps=steps) if recovery is None else Recipe(steps=steps, recovery=Recovery(**recovery))

    def walk(self, choose: Choose) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
        """The same as methods with their parameters, and the recovery's where something is trained.

        Samplers walk thousands of times for one proposal, and most of a recipe's time is in its objects.
        """
        params: dict[str, dict[str, Any]] = {}

        def ask(label: str, choice: Choice) -> str:
            name: str = choose(label, choice)
            if name != NO_STEP:
                params[name] = self._choose_all(name, self.parameters[name], choose)
            return name

        methods = {name: params[name] for name in self.openings.walk(ask)}
        if self.needs_training.isdisjoint(methods):
            return methods, None
        return methods, self._choose_all("recovery", self.recovery, choose)

    def random_recipe(self, rng: random.Random) -> Recipe:
        return self.recipe(lambda name, parameter: _draw(parameter, rng))

    def choices(self, recipe: Recipe) -> dict[str, Any]:
        """The named choices that make a recipe; raises InvalidInput when the space does not hold it."""
        reason = self._why_not(recipe)
        if reason:
            raise InvalidInput(f"recipe '{recipe}' is outside the search space: {reason}")
        steps = {step.method: step for step in recipe.steps}
        given = {f"{name}.{key}": value for name, step in steps.items() for key, value in step.params.items()}
        given |= {f"recovery.{key}": value for key, value in recipe.recovery.plain().items()}
        given |= self.openings.choices([*steps])
        made: dict[str, Any] = {}

        def recall(name: str, parameter: Parameter) -> Any:
            try:
                made[name] = _on_grid(parameter, parameter.check(given.get(name.split(AFTER)[0], parameter.default)))
            except ValueError as error:
                raise InvalidInput(f"recipe '{recipe}' is outside the search space: {name!r} {error}") from None
            return made[name]

        if self.recipe(recall).key != recipe.key:
            raise InvalidInput(f"recipe '{recipe}' is outside the search space: the nearest is '{self.recipe(recall)}'")
        return made

    def _why_not(self, recipe: Recipe) -> str:
        """Why the space does not hold a recipe with these methods, whatever their parameters; empty if it does."""
        names = [step.method for step in recipe.steps]
        others = [name for name in names if name not in self.parameters]
        if others:
            return f"it has {', '.join(map(repr, others))}, which the space does not have"
        if recipe.recovery.epochs and self.needs_training.isdisjoint(names):
            return "nothing in it is trained, so leave out its recovery"
        return self.openings.why_not(names)

    def without(self, reasons: Mapping[str, str]) -> BoundSpace:
        """The space without some methods, with the reasons."""
        return replace(
            self,
            parameters={name: own for name, own in self.parameters.items() if name not in reasons},
            openings=self.openings.without(reasons),
            needs_training=self.needs_training.difference(reasons),
            left_out={**self.left_out, **reasons},
        )

    def settings(self, method: str) -> Iterator[dict[str, Any]]:
        """A method's defaults, and then the same with one parameter at an end of its range or at another option."""
        own = self.parameters[method]
        usual = {name: parameter.default for name, parameter in own.items()}
        yield usual
        for name, parameter in own.items():
            yield from (usual | {name: value} for value in _ends(parameter) if value != parameter.default)

    def _choose_all(self, prefix: str, parameters: Mapping[str, Parameter], choose: Choose) -> dict[str, Any]:
        return {name: choose(f"{prefix}.{name}", parameter) for name, parameter in parameters.items()}


def bind(space: SearchSpace, task: Task, registry: Registry, *targets: Target) -> BoundSpace:
    """The space over the methods that apply to the task on all targets.

    Raises InvalidInput for an unknown method or parameter and for a range that does not narrow the method's own.
    """
    names = registry.methods if space.methods is None else space.methods
    parameters: dict[str, dict[str, Parameter]] = {}
    left_out: dict[str, str] = {}
    for name in names:
        method = registry.get(name)
        if method.needs_training and not task.has_training:
            left_out[name] = "it needs training, and there are no training data"
            continue
        if method.needs_calibration and not task.has_calibration:
            left_out[name] = "it needs inputs to look at, and there are neither calibration nor training data"
            continue
        try:
            for target in targets:
                method.check(task, target)
            declared = method.search_space(task)
        except NotApplicable as reason:
            left_out[name] = str(reason)
            continue
        except Exception as error:  # a plugin's code
            release = registry.plugin_of(name).release
            left_out[name] = f"its check or search space failed, of {release}: {first_line(error)}"
            continue
        narrowed = (space.methods or {}).get(name) or {}
        parameters[name] = _narrow_all(f"method {name!r}", declared, narrowed)
    chosen = [registry.get(name) for name in parameters]
    return BoundSpace(
        parameters,
        openings_of(chosen, space.most),
        _narrow_all("recovery", RECOVERY, {**USUAL_RECOVERY, **space.recovery}),
        frozenset(method.name for method in chosen if method.needs_training),
        left_out,
    )


def known_recipes(recipes: Sequence[Recipe], bound: BoundSpace, registry: Registry, task: Task) -> list[Recipe]:
    """The recipes, resolved; those with a method that does not apply are left out.

    Raises InvalidInput for a recipe that breaks a rule or that the space does not hold.
    """
    usable = [r for r in recipes if not any(step.method in bound.left_out for step in r.steps)]
    return [held_recipe(recipe, bound, registry, task) for recipe in usable]


def held_recipe(recipe: Recipe, bound: BoundSpace, registry: Registry, task: Task) -> Recipe:
    """The recipe, resolved. Raises InvalidInput when it breaks a rule or the space does not hold it."""
    for step in recipe.steps:
        if step.method in bound.left_out:
            raise InvalidInput(f"recipe '{recipe}' is not possible: {bound.left_out[step.method]}")
    resolved = resolve(recipe, registry, task)
    bound.choices(resolved)
    return resolved


def _narrow_all(where: str, declared: Mapping[str, Parameter], specs: Mapping[str, Any]) -> dict[str, Parameter]:
    for name in specs:
        if name not in declared:
            raise InvalidInput(f"{where} has no parameter {name!r}{did_you_mean(name, declared)}")
    narrowed = {}
    for name, parameter in declared.items():
        try:
            narrowed[name] = narrow(parameter, specs[name]) if name in specs else parameter
        except ValueError as error:
            raise InvalidInput(f"parameter {name!r} of {where} {error}") from None
    return narrowed


def _draw(parameter: Parameter, rng: random.Random) -> Any:
    """A random value, uniform over the range or its logarithm."""
    if isinstance(parameter, Choice):
        return rng.choice(parameter.options)
    if isinstance(parameter, Float) and parameter.step:
        return grid_value(parameter, rng.randrange(grid_size(parameter)))
    if parameter.log:
        value = math.exp(rng.uniform(math.log(parameter.low), math.log(parameter.high)))
    else:
        value = rng.uniform(parameter.low, parameter.high)
    value = min(max(value, parameter.low), parameter.high)
    return round(value) if isinstance(parameter, Integer) else value


def _ends(parameter: Parameter) -> tuple[Any, ...]:
    if isinstance(parameter, Choice):
        return parameter.options
    if isinstance(parameter, Float) and parameter.step:
        return parameter.low, grid_value(parameter, grid_size(parameter) - 1)
    return parameter.low, parameter.high


def grid_size(parameter: Float) -> int:
    """How many multiples of the step lie in a stepped range."""
    assert parameter.step is not None
    return int((parameter.high - parameter.low) / parameter.step + 1e-9) + 1


def grid_value(parameter: Float, index: int) -> float:
    """The value `index` steps above the lowest: 0.85, where the sum of floats is 0.8500000000000001."""
    assert parameter.step is not None
    value = float(f"{parameter.low + parameter.step * index:.9g}")
    return min(max(value, parameter.low), parameter.high)


def _on_grid(parameter: Parameter, value: Any) -> Any:
    """The value; raises ValueError when it lies between the steps, where Optuna takes none."""
    if not isinstance(parameter, Float) or not parameter.step:
        return value
    index = min(round((value - parameter.low) / parameter.step), grid_size(parameter) - 1)
    nearest = grid_value(parameter, index)
    if abs(nearest - value) > 1e-6 * parameter.step:
        raise ValueError(f"goes from {parameter.low} in steps of {parameter.step}: {nearest}, but got {value}")
    return nearest


def shipped_folder() -> Path:
    """Of search spaces and portfolios: inside the package of a wheel, beside it in an editable install."""
    package = Path(__file__).parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"
