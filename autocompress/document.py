"""Small pydantic base for what users write as JSON or YAML: unknown keys are refused with the nearest known one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from autocompress.errors import InvalidInput, did_you_mean


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: PyYAML takes `1e-5`, as JSON and people write it, for a string."""


_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


class Document(BaseModel):
    """A typed, frozen value that is read from and written to JSON and YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, data: Any, where: str) -> Self:
        """The checked value of plain data; raises InvalidInput naming `where` and the field."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidInput(f"{where}: {_explain(error, cls)}") from None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The value in a YAML or JSON file."""
        try:
            data = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
        except FileNotFoundError:
            raise InvalidInput(f"{path}: no such file") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InvalidInput(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
        return cls.parse({} if data is None else data, str(path))

    def plain(self) -> Any:
        """Plain JSON data."""
        return self.model_dump(mode="json")


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"] if part != "[key]")  # pydantic's mark of a mapping's key
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        return f"unknown key {place!r}{did_you_mean(key, _known_keys(model, problem['loc'][:-1]))}"
    return f"{place or 'value'}: {problem['msg']}, but got {problem['input']!r}"


def _known_keys(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The field names of the nested model at `place`."""
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _inner_model(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found:
            return found
    return None
