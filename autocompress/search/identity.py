"""What a task is, to the last bit: the part of a training's key that the user brings."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import secrets
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from autocompress.content import Content, Unknown, file_digest, source_digest
from autocompress.data import Samples
from autocompress.effect import outputs
from autocompress.errors import InvalidInput, first_line
from autocompress.task import Model, Task, built, model_digest

READING_S = 30.0
"""How long a task's data may be read for its identity, all data sets together."""
READ_AGAIN = 32
"""Samples of each data set that are read twice, to see whether they are the same."""
COMPARED = 32
"""Inputs whose outputs are part of a model's identity."""


class Identity(NamedTuple):
    """SHA-256, and why nobody but this search can have the same; empty where others can."""

    digest: str
    private: str = ""


class _Clock:
    """Raises Unknown when the time for reading is up."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def check(self) -> None:
        if time.monotonic() > self._end:
            raise Unknown(f"the data take longer than {self._seconds:g} s to read")


def task_identity(task: Task, seconds: float = READING_S) -> Identity:
    """SHA-256 of all of a task that a training can depend on: equal only for the same models, data and code.

    Models count by all that their modules hold (parameters and what of them is trained, buffers, settings, hooks), by
    source and by what they give for some inputs; loss, metrics and `collate` by what they hold and their code; data by
    every sample, each read once. The test data do not count, since no method sees them.

    What cannot be told (see `Content`) is a model that differs each time it is built, or holds a lock or a file; and
    data that take longer than `seconds` to read, cannot be read, or are not the same when they are read again
    (augmentation). The identity is then one that no other call ever gets: trainings are shared within the search that
    asks, and with no other.
    """
    digest = hashlib.sha256()
    try:
        for part in _code_of(task):
            digest.update(part.encode())
        clock = _Clock(seconds)
        for name, data in _data_of(task).items():
            digest.update(name.encode())
            digest.update(_content(name, data, clock))
    except Unknown as reason:
        return Identity(secrets.token_hex(32), str(reason))
    return Identity(digest.hexdigest())


def code_digest(kind: type) -> str:
    """SHA-256 of all source files of the packages that a class and its bases are from.

    The engine's and torch's count by themselves.
    """
    packages = dict.fromkeys(base.__module__.partition(".")[0] for base in kind.__mro__)
    return " ".join(_package_digest(name) for name in packages if name not in ("autocompress", "torch", "builtins"))


@functools.cache
def requirements_of(distribution: str) -> dict[str, str]:
    """The versions of what a distribution depends on; extras, which ship models and train none, are left out."""
    versions = {}
    for requirement in metadata.requires(distribution) or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        with contextlib.suppress(metadata.PackageNotFoundError):  # not needed on this platform
            if "extra ==" not in requirement:
                versions[name] = metadata.version(name)
    return versions


@functools.cache
def engine_digest() -> str:
    """SHA-256 of the engine's files, without those of searching, measuring and reporting, which train nothing."""
    return _files_digest(Path(sys.modules["autocompress"].__file__ or "").parent.glob("*.py"))


@functools.cache
def _package_digest(name: str) -> str:
    folders = getattr(sys.modules.get(name), "__path__", None)
    if folders is None:
        return source_digest(name)
    return " ".join(_files_digest(Path(folder).rglob("*.py")) for folder in folders)


def _files_digest(files: Iterator[Path]) -> str:
    return hashlib.sha256(" ".join(f"{file.name} {file_digest(file)}" for file in sorted(files)).encode()).hexdigest()


def _code_of(task: Task) -> Iterator[str]:
    """Models, losses and what else the user wrote, as texts."""
    for name, model in task.models.items():
        yield name
        yield from _model_parts(name, model, task)
    metrics = {f"metric {metric.name!r}": metric.function for metric in task.metrics}
    others = {"loss": task.loss, "collate": task.collate, **metrics, "example inputs": task.example_inputs}
    for name, written in others.items():
        try:
            yield Content().feed(written).hexdigest()
        except Unknown as kind:
            raise Unknown(f"the {name} holds {kind}") from None


def _model_parts(name: str, source: Model, task: Task) -> Iterator[str]:
    try:
        yield model_digest(source)
        model = built(source)
    except InvalidInput as error:  # trials will tell
        yield str(error)
        return
    except Unknown as reason:
        raise Unknown(f"the {name} {reason}") from None
    try:
        given = outputs(model, task.inputs(COMPARED))
    except Exception as error:  # the user's model: trials will tell
        yield first_line(error)
    else:
        yield from (hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in given)


def _data_of(task: Task) -> dict[str, Samples]:
    """What methods can see."""
    named = {
        "train": task.train,
        "validation": task.validation,
        "calibration": task.calibration,
        "unlabelled": task.unlabelled,
    }
    return {name: data for name, data in named.items() if data is not None}


def _content(name: str, data: Samples, clock: _Clock) -> bytes:
    """SHA-256 of all samples; raises Unknown."""
    digest, count = hashlib.sha256(), len(data)
    again = set(range(0, count, max(1, count // READ_AGAIN)))
    for row in range(count):
        clock.check()
        sample = _sample(name, data, row)
        if row in again and _sample(name, data, row) != sample:
            raise Unknown("samples differ each time they are read")
        digest.update(sample)
    return digest.digest()


def _sample(name: str, data: Samples, row: int) -> bytes:
    try:
        sample: Any = data[row]
    except Exception as error:  # the user's data: trials will tell
        raise Unknown(f"sample {row} of the {name} data cannot be read: {first_line(error)}") from None
    try:
        return Content().feed(sample).digest()
    except Unknown as kind:
        raise Unknown(f"samples hold {kind}") from None
