"""The portfolio: recipes that did well before, by the model's family and the kind of device."""

from __future__ import annotations

from autocompress.document import Document
from autocompress.errors import InvalidInput
from autocompress.family import Family
from autocompress.plugins import Registry
from autocompress.recipe import Recipe, Recovery
from autocompress.space import BoundSpace, held_recipe, shipped_folder
from autocompress.task import Task


class Portfolio(Document):
    """A file of `search_spaces/portfolio`, one for each kind of device."""

    cnn: tuple[Recipe, ...] = ()
    transformer: tuple[Recipe, ...] = ()
    rnn: tuple[Recipe, ...] = ()
    recommender: tuple[Recipe, ...] = ()

    @classmethod
    def shipped(cls, kind: str) -> Portfolio:
        """That of a kind of device, like `cpu`; an empty one where nothing was recorded."""
        path = shipped_folder() / "portfolio" / f"{kind}.yaml"
        return cls.read(path) if path.is_file() else cls()

    def recipes(self, family: Family, space: BoundSpace, registry: Registry, task: Task) -> list[Recipe]:
        """The family's recipes that the space holds, filled in, the most useful first."""
        found = []
        for recipe in getattr(self, family):
            try:
                found.append(held_recipe(_as_the_space_trains(recipe, space), space, registry, task))
            except InvalidInput:  # a method that does not apply, is not installed or not in the space, or a bound
                continue
        return found


def _as_the_space_trains(recipe: Recipe, space: BoundSpace) -> Recipe:
    """With the space's own value for what the recipe leaves unsaid of its recovery; none where there is no recovery."""
    said = recipe.recovery.model_dump(exclude_unset=True)
    if not said:
        return recipe
    usual = {name: parameter.default for name, parameter in space.recovery.items()}
    return recipe.model_copy(update={"recovery": Recovery(**{**usual, **said})})
