"""What a method lets a search choose: typed ranges with defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autocompress.errors import did_you_mean


@dataclass(frozen=True)
class Float:
    """A number in `low..high`, in multiples of `step` from `low` if given, or searched on a log scale."""

    low: float
    high: float
    default: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.default)

    def check(self, value: Any) -> float:
        """The value as a float; raises ValueError with the rule it breaks."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"must be a number, but got {value!r}")
        _check_within(float(value), self.low, self.high)
        return float(value)


@dataclass(frozen=True)
class Integer:
    """A whole number in `low..high`, both included."""

    low: int
    high: int
    default: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.default)

    def check(self, value: Any) -> int:
        """The value as an int; raises ValueError with the rule it breaks."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
            raise ValueError(f"must be a whole number, but got {value!r}")
        _check_within(int(value), self.low, self.high)
        return int(value)


@dataclass(frozen=True)
class Choice:
    """One of a few named options (JSON scalars)."""

    options: tuple[str | int | float | bool, ...]
    default: str | int | float | bool

    def __post_init__(self) -> None:
        self.check(self.default)

    def check(self, value: Any) -> str | int | float | bool:
        """The option itself; raises ValueError with the rule it breaks."""
        for option in self.options:
            if option == value and type(option) is type(value):
                return option
        raise ValueError(f"must be one of {list(self.options)}, but got {value!r}")


Parameter = Float | Integer | Choice


def narrow(parameter: Parameter, spec: Any) -> Parameter:
    """A parameter made narrower by what a search space says of it.

    `spec` is one value (fixed), a list (the options left) or `{low:, high:}` (the range left).
    Raises ValueError when it would widen the parameter or does not fit its kind.
    """
    if isinstance(spec, Mapping):
        return _narrow_range(parameter, spec)
    if isinstance(spec, list):
        options = tuple(parameter.check(value) for value in spec)
        if not options:
            raise ValueError("must keep at least one value, but got []")
        return Choice(options, parameter.default if parameter.default in options else options[0])
    value = parameter.check(spec)
    return Choice((value,), value)


def _narrow_range(parameter: Parameter, spec: Mapping[str, Any]) -> Parameter:
    if isinstance(parameter, Choice):
        raise ValueError(f"has options {list(parameter.options)} and takes a value or a list, but got {dict(spec)}")
    for key in spec:
        if key not in ("low", "high"):
            raise ValueError(f"a range has 'low' and 'high', but got {key!r}{did_you_mean(key, ('low', 'high'))}")
    low = parameter.check(spec.get("low", parameter.low))
    high = parameter.check(spec.get("high", parameter.high))
    if low > high:
        raise ValueError(f"`low <= high` must hold, but got (low={low}, high={high})")
    default = min(max(parameter.default, low), high)
    if isinstance(parameter, Integer):
        return replace(parameter, low=int(low), high=int(high), default=int(default))
    return replace(parameter, low=low, high=high, default=default)


def _check_range(low: float, high: float, default: float) -> None:
    if not low <= default <= high:
        raise ValueError(f"`low <= default <= high` must hold, but got (low={low}, default={default}, high={high})")


def _check_within(value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"must lie in {low}..{high}, but got {value}")
