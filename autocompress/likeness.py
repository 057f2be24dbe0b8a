"""Whether two tasks are alike, so that what compressed one well may do so for the other."""

from __future__ import annotations

from torch import Tensor

from autocompress.document import Document
from autocompress.family import Family, family_of
from autocompress.task import Task
from autocompress.tensors import map_tensors

MOST_TIMES = 10
"""How much larger the model of a task that is alike may be, or smaller."""


class Likeness(Document):
    """What a run keeps of its task to be compared by: no data, no weights."""

    family: Family | None
    parameters: int
    inputs: tuple[str, ...]
    """The kind of each tensor that the model takes: `numbers in 4 dimensions`, batch dimension included."""
    device: str
    """The kind of device of the first target: `cpu`, `cuda`."""

    @classmethod
    def of(cls, task: Task, device: str) -> Likeness:
        model, inputs = task.trained_model(), list[str]()

        def note(tensor: Tensor) -> Tensor:
            inputs.append(f"{'numbers' if tensor.is_floating_point() else 'indices'} in {tensor.dim()} dimensions")
            return tensor

        map_tensors(note, task.inputs(1))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return cls(family=family_of(model), parameters=parameters, inputs=tuple(inputs), device=device)

    def difference(self, other: Likeness) -> str:
        """What sets another task apart from this one, in words; empty where they are alike."""
        if self.family != other.family:
            return f"its model is {_named(other.family)}, and this one {_named(self.family)}"
        low, high = sorted((self.parameters, other.parameters))
        if high > MOST_TIMES * low:
            return f"its model has {other.parameters:,} parameters, and this one {self.parameters:,}"
        if self.device != other.device:
            return f"it was for {other.device}, and this one is for {self.device}"
        if sorted(self.inputs) != sorted(other.inputs):
            return f"its data are {' and '.join(other.inputs)}, and these {' and '.join(self.inputs)}"
        return ""


def _named(family: Family | None) -> str:
    return "of no known family" if family is None else f"one of the {family.plural}"
