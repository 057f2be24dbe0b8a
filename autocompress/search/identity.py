"""What a task is, to the last bit: the part of a training's key that the user brings."""

from __future__ import annotations

import functools
import hashlib
import inspect
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch
from torch import Tensor

from autocompress.data import Samples
from autocompress.effect import outputs
from autocompress.errors import InvalidInput, first_line
from autocompress.task import Model, Task, build, weights_digest

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


class _Unknown(Exception):
    """What a data set holds cannot be told."""


class _Clock:
    """Raises _Unknown when the time for reading is up."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def check(self) -> None:
        if time.monotonic() > self._end:
            raise _Unknown(f"the data take longer than {self._seconds:g} s to read")


def task_identity(task: Task, seconds: float = READING_S) -> Identity:
    """SHA-256 of all of a task that a training can depend on: equal only for the same models, data and code.

    Models count by types, settings, tensors, source and what they give for some inputs; loss, metrics and `collate` by
    what they pickle to and the source of the modules that they are in; data by every sample, each read once. The test
    data do not count, since no method sees them.

    Data cannot be told where reading takes longer than `seconds`, where samples are not the same when they are read
    again (augmentation), or where they hold other things than numbers, texts, tensors and arrays. The identity is then
    one that no other call ever gets: trainings are shared within the search that asks, and with no other.
    """
    digest = hashlib.sha256()
    for part in _code_of(task):
        digest.update(part.encode())
    try:
        _feed(digest, task.example_inputs)
        clock = _Clock(seconds)
        for name, data in _data_of(task).items():
            digest.update(name.encode())
            digest.update(_content(data, clock))
    except _Unknown as reason:
        return Identity(secrets.token_hex(32), str(reason))
    return Identity(digest.hexdigest())


def code_digest(code: Any) -> str:
    """SHA-256 of each source file that a function, or a class and its bases, are in; empty without any."""
    kinds = code.__mro__ if isinstance(code, type) else (code,)
    names = dict.fromkeys(getattr(kind, "__module__", None) for kind in kinds)
    files = [getattr(sys.modules.get(name or ""), "__file__", None) for name in names]
    found = [_file_digest(Path(file)) for file in files if file and file.endswith(".py") and Path(file).is_file()]
    return " ".join(found)


@functools.cache
def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _code_of(task: Task) -> Iterator[str]:
    """Models, losses and what else the user wrote, as texts."""
    teachers = {f"teacher {index}": teacher for index, teacher in enumerate(task.teachers)}
    models: dict[str, Model] = {"model": task.trained_model, **teachers, **task.students}
    for name, model in models.items():
        yield name
        yield from _model_parts(model, task)
    for written in (task.loss, task.collate, *(metric.function for metric in task.metrics)):
        yield hashlib.sha256(cloudpickle.dumps(written)).hexdigest()
        yield code_digest(_code_behind(written))


def _model_parts(source: Model, task: Task) -> Iterator[str]:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of a student with fresh weights
            model = build(source).cpu().eval()
    except InvalidInput as error:  # trials will tell
        yield str(error)
        return
    yield repr(model)  # with the settings that layers print
    yield weights_digest(model)
    for name, module in model.named_modules():
        kind = type(module)
        code = "" if kind.__module__.startswith("torch.") else code_digest(kind)  # torch's version counts by itself
        yield f"{name} {kind.__module__}.{kind.__qualname__} {code}"
    try:
        given = outputs(model, task.inputs(COMPARED))
    except Exception as error:  # the user's model: trials will tell
        yield first_line(error)
    else:
        yield from (hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in given)


def _code_behind(written: Any) -> Any:
    while isinstance(written, functools.partial):
        written = written.func
    return written if inspect.isroutine(written) or isinstance(written, type) else type(written)


def _data_of(task: Task) -> dict[str, Samples]:
    """What methods can see."""
    named = {
        "train": task.train,
        "validation": task.validation,
        "calibration": task.calibration,
        "unlabelled": task.unlabelled,
    }
    return {name: data for name, data in named.items() if data is not None}


def _content(data: Samples, clock: _Clock) -> bytes:
    """SHA-256 of all samples; raises _Unknown."""
    digest, count = hashlib.sha256(), len(data)
    again = set(range(0, count, max(1, count // READ_AGAIN)))
    for row in range(count):
        clock.check()
        sample = _sample(data, row)
        if row in again and _sample(data, row) != sample:
            raise _Unknown("samples differ each time they are read")
        digest.update(sample)
    return digest.digest()


def _sample(data: Samples, row: int) -> bytes:
    digest = hashlib.sha256()
    _feed(digest, data[row])
    return digest.digest()


def _feed(digest: Any, value: Any) -> None:
    """Nested values with their types and shapes."""
    if isinstance(value, Mapping):
        value = [*value.items()]
    if isinstance(value, tuple | list):
        digest.update(f"{type(value).__name__} {len(value)} ".encode())
        for item in value:
            _feed(digest, item)
    elif value is None or isinstance(value, str | bytes | int | float | bool):
        digest.update(f"{value!r} ".encode())
    elif isinstance(value, Tensor | np.ndarray | np.generic):
        digest.update(f"{value.dtype} {tuple(value.shape)} ".encode())
        digest.update(_bytes(value))
    else:
        raise _Unknown(f"samples hold a {type(value).__name__}")


def _bytes(value: Any) -> bytes:
    if not isinstance(value, Tensor):
        if value.dtype.hasobject:
            raise _Unknown("samples hold objects")
        return value.tobytes()  # type: ignore[no-any-return]
    try:
        return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except Exception as error:  # sparse, quantized
        raise _Unknown(f"samples hold a tensor that gives no bytes: {first_line(error)}") from None
