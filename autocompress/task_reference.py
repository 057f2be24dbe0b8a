"""A task named on the command line."""

from __future__ import annotations

import copyreg
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from autocompress.errors import InvalidInput, did_you_mean, first_line
from autocompress.task import Task

modules_from_files: list[ModuleType] = []
"""What other processes cannot import by name, and so must get by value."""


def load_task(reference: str) -> Task:
    """The task named `package.module:name` or `file.py:name`; a function of that name is called to get it.

    Raises InvalidInput when the reference has another form, or what it names is no task.
    """
    found = load_named(reference, "task")
    if not isinstance(found, Task) and callable(found):
        try:
            found = found()
        except Exception as error:  # the user's code
            raise InvalidInput(f"{reference} must give a task, but: {first_line(error)}") from error
    if not isinstance(found, Task):
        raise InvalidInput(f"{reference} must be a Task or a function that gives one, but got {type(found).__name__}")
    return found


def load_named(reference: str, what: str) -> Any:
    """What `package.module:name` or `file.py:name` names; `what` that should be is for the message.

    Raises InvalidInput when the reference has another form, or its place cannot be imported or has no such name.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name.isidentifier():
        raise InvalidInput(f"a {what} is named package.module:name or file.py:name, but got {reference!r}")
    module = _load_module(place)
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise InvalidInput(f"{place!r} has no {name!r}{did_you_mean(name, public)}")
    return getattr(module, name)


def _load_module(place: str) -> ModuleType:
    try:
        if place.endswith(".py"):
            return _load_file(Path(place))
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:  # the user's code
        raise InvalidInput(f"{place!r} cannot be imported: {first_line(error)}") from error


def _load_file(path: Path) -> ModuleType:
    """A file as a module, which can import its siblings, as a script does."""
    name = f"autocompress_task_{path.stem}"  # a task in random.py must not take the place of random
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    modules_from_files.append(module)
    return module


def _reduce_cached(cached: functools._lru_cache_wrapper[Any]) -> str | tuple[Any, ...]:
    """A cached function of a task's file by value, as its other functions; any other by name, as it is anyway."""
    if sys.modules.get(cached.__module__) not in modules_from_files:
        return cached.__qualname__
    parameters = cached.cache_parameters()
    return _cached, (cached.__wrapped__, parameters["maxsize"], parameters["typed"])


def _cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Callable[..., Any]:
    return functools.lru_cache(maxsize, typed)(function)


copyreg.pickle(functools._lru_cache_wrapper, _reduce_cached)  # cloudpickle would take it by name in any case
