"""The errors a user can meet. Each message is one line: the rule, the value it got, the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutocompressError(Exception):
    """A mistake that the user can mend. The command line prints its line and no traceback."""


class InvalidInput(AutocompressError):
    """What was given breaks a rule: a limit, a recipe, a search space, a task, a file."""


class PluginError(AutocompressError):
    """A plugin or one of its methods breaks the contract."""


class ArtifactError(AutocompressError):
    """A saved model is damaged, incomplete, or does not belong to the given model."""


class RunError(AutocompressError):
    """A run's directory cannot be used: locked, not writable, or made by another search."""


class NothingFits(AutocompressError):
    """No trial met the limits; the message names the nearest one and by how much it misses."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'ratio'?"`, or all known names when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def first_line(error: BaseException) -> str:
    """`TypeName: first line` of an exception, for one-line reports."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
