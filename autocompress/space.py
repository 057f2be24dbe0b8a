"""The search space: which methods and which of their parameters a search may use."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autocompress.compress import resolve
from autocompress.document import Document
from autocompress.errors import InvalidInput, did_you_mean, first_line
from autocompress.measure.device import Target
from autocompress.method import NotApplicable, Technique
from autocompress.parameters import Choice, Float, Integer, Parameter, narrow
from autocompress.plugins import Registry
from autocompress.recipe import Recipe, Recovery, Step
from autocompress.task import Task

NO_STEP = "none"
"""The choice of no method, which every technique has."""
AFTER = " after "
"""Joins a technique and the steps before it that leave it fewer methods."""

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
    methods: Mapping[Technique, tuple[str, ...]]
    recovery: Mapping[str, Parameter]
    needs_training: frozenset[str]
    conflicts: frozenset[tuple[str, str]] = frozenset()
    """Pairs of methods of which the second cannot follow the first."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Methods that do not apply, with their reasons."""
    _openings: dict[tuple[str, ...], tuple[str, Choice | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What `_opening` found, by what it was asked: a proposal asks thousands of times for the same few."""

    def recipe(self, choose: Choose) -> Recipe:
        """The recipe that a sequence of choices makes; parameters are asked for only when they matter."""
        methods, recovery = self.walk(choose)
        steps = tuple(Step(method=name, params=params) for name, params in methods.items())
        return Recipe(steps=steps) if recovery is None else Recipe(steps=steps, recovery=Recovery(**recovery))

    def walk(self, choose: Choose) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
        """The same as methods with their parameters, and the recovery's where something is trained.

        Samplers walk thousands of times for one proposal, and most of a recipe's time is in its objects.
        """
        methods: dict[str, dict[str, Any]] = {}
        for technique in self.methods:
            label, choice = self._opening(technique, tuple(methods))
            name = NO_STEP if choice is None else choose(label, choice)
            if name != NO_STEP:
                methods[name] = self._choose_all(name, self.parameters[name], choose)
        if self.needs_training.isdisjoint(methods):
            return methods, None
        return methods, self._choose_all("recovery", self.recovery, choose)

    def random_recipe(self, rng: random.Random) -> Recipe:
        return self.recipe(lambda name, parameter: _draw(parameter, rng))

    def choices(self, recipe: Recipe) -> dict[str, Any]:
        """The named choices that make a recipe; raises InvalidInput when the space does not hold it."""
        steps = {step.method: step for step in recipe.steps}
        given = {f"{name}.{key}": value for name, step in steps.items() for key, value in step.params.items()}
        given |= {f"recovery.{key}": value for key, value in recipe.recovery.plain().items()}
        for technique, names in self.methods.items():
            given[technique.value] = next((name for name in names if name in steps), NO_STEP)
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

    def without(self, reasons: Mapping[str, str]) -> BoundSpace:
        """The space without some methods, with the reasons."""
        methods = {t: tuple(name for name in names if name not in reasons) for t, names in self.methods.items()}
        return replace(
            self,
            parameters={name: own for name, own in self.parameters.items() if name not in reasons},
            methods={technique: names for technique, names in methods.items() if names},
            needs_training=self.needs_training.difference(reasons),
            conflicts=frozenset(pair for pair in self.conflicts if not reasons.keys() & set(pair)),
            left_out={**self.left_out, **reasons},
        )

    def settings(self, method: str) -> Iterator[dict[str, Any]]:
        """A method's defaults, and then the same with one parameter at an end of its range or at another option."""
        own = self.parameters[method]
        usual = {name: parameter.default for name, parameter in own.items()}
        yield usual
        for name, parameter in own.items():
            yield from (usual | {name: value} for value in _ends(parameter) if value != parameter.default)

    def _opening(self, technique: Technique, before: tuple[str, ...]) -> tuple[str, Choice | None]:
        """The name of the choice of a technique's method after others, and its options; None where none is left."""
        key = (technique, *before)
        if key not in self._openings:
            names = self.methods[technique]
            blockers = [done for done in before if any((done, name) in self.conflicts for name in names)]
            open_to = [name for name in names if not any((blocker, name) in self.conflicts for blocker in blockers)]
            # Options may not change under one name, so the choice among fewer has a name of its own.
            label = AFTER.join([technique, *blockers])
            self._openings[key] = label, Choice((NO_STEP, *open_to), NO_STEP) if open_to else None
        return self._openings[key]

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
        {
            t: tuple(m.name for m in chosen if m.technique is t)
            for t in Technique
            if any(m.technique is t for m in chosen)
        },
        _narrow_all("recovery", RECOVERY, {**USUAL_RECOVERY, **space.recovery}),
        frozenset(method.name for method in chosen if method.needs_training),
        frozenset((a.name, b.name) for a in chosen for b in chosen if b.conflict(a) is not None),
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
