"""The nested inputs and outputs of a model as a flat list of tensors and a JSON description of what held them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

Nesting = Any
"""JSON: "tensor", {"dict": {name: Nesting}}, {"tuple": [Nesting]}, {"list": [Nesting]} or {"constant": scalar}."""


class NamedOutputs(dict[str, Any]):
    """Outputs by name, as items and as attributes: what Hugging Face's models give."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def describe(value: Any) -> Nesting:
    """What holds the tensors of a nested value. Raises TypeError for what is neither nested nor a scalar."""
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, Mapping):
        return {"dict": {str(name): describe(item) for name, item in value.items()}}
    if isinstance(value, tuple | list):
        return {"tuple" if isinstance(value, tuple) else "list": [describe(item) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"constant": value}
    raise TypeError(f"inputs and outputs must be tensors in tuples, lists and dicts, but hold a {type(value).__name__}")


def flatten(nesting: Nesting, value: Any) -> list[Tensor]:
    """The tensors of a value that is nested like that, in order. Raises TypeError if it is not."""
    if nesting == "tensor" and isinstance(value, Tensor):
        return [value]
    if "dict" in nesting and isinstance(value, Mapping) and value.keys() == nesting["dict"].keys():
        return [tensor for name, item in nesting["dict"].items() for tensor in flatten(item, value[name])]
    for kind in (tuple, list):
        items = nesting[kind.__name__] if kind.__name__ in nesting else ()
        if items and isinstance(value, kind) and len(value) == len(items):
            return [tensor for item, part in zip(items, value, strict=True) for tensor in flatten(item, part)]
    if "constant" in nesting and nesting["constant"] == value:
        return []
    raise TypeError(f"the model was exported for inputs like {nesting}, but got {_shown(value)}")


def assemble(nesting: Nesting, tensors: Iterator[Tensor]) -> Any:
    """The way back: tensors in order, nested."""
    if nesting == "tensor":
        return next(tensors)
    if "dict" in nesting:
        return NamedOutputs({name: assemble(item, tensors) for name, item in nesting["dict"].items()})
    if "constant" in nesting:
        return nesting["constant"]
    kind, items = next(iter(nesting.items()))
    return (tuple if kind == "tuple" else list)([assemble(item, tensors) for item in items])


def _shown(value: Any) -> Nesting:
    try:
        return describe(value)
    except TypeError:
        return type(value).__name__
