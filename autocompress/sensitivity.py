"""How sensitive a model is to what is done to each of its layers: measured once, kept, and read by a solver."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autocompress.data import data_digest
from autocompress.effect import output_error, outputs
from autocompress.measure.cost import model_cost
from autocompress.task import Task, weights_digest

SAMPLES, FEWEST_SAMPLES = 64, 4
"""Calibration inputs that are looked at, at most and at least."""
WORK = 5 * 10**11
"""Multiply-adds of all forward passes together: about a minute on a core of a CPU. A bound by the clock would give
other plans on another machine."""
WORST = 1e9
"""In place of an error that is no number."""

Changed = Callable[[Mapping[str, float]], nn.Module]
"""A model of its own with these layers, by name, at these levels, and all others as they were."""


@dataclass(frozen=True)
class Profile:
    """What each layer alone does to the outputs, at each level that a method can put it to."""

    levels: tuple[float, ...]
    """What a level means is the method's: a share of channels, bits, energy."""
    errors: Mapping[str, tuple[float, ...]]
    """By layer, one a level: the mean squared change of the outputs by their mean square."""
    samples: int
    layers_at_once: int = 1
    """Layers that were changed together and share the error, where one by one would have been too much work."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Profile:
        """The record that `plain` gave, as it comes back from JSON."""
        errors = {name: tuple(values) for name, values in data["errors"].items()}
        return cls(**dict(data) | {"levels": tuple(data["levels"]), "errors": errors})


def profile(
    model: nn.Module, task: Task, method: str, layers: Sequence[str], levels: Sequence[float], changed: Changed
) -> Profile:
    """The profile of these layers at these levels, from calibration data; the model is not changed.

    `method` names all that decides what `changed` makes of the model, with a version: profiles are kept under it, the
    model, the data, the layers and the levels, for the process, and within `kept_in` on disk.
    One forward pass on the samples for each layer and level. Fewer samples, and then several layers at once, keep it
    within `WORK`: the same everywhere, and said in the trial's log.
    """
    if not layers:
        return Profile(tuple(levels), {}, 0)
    sample = list(task.calibration_inputs(SAMPLES))
    key = _key(model, sample, method, layers, levels)
    return _PROFILES.get(key, lambda: _measure(model, task, layers, levels, changed))


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Within it, profiles are read from files of a folder and written there: for the processes of one run."""
    before, _PROFILES.folder = _PROFILES.folder, folder
    try:
        yield
    finally:
        _PROFILES.folder = before


def _measure(model: nn.Module, task: Task, layers: Sequence[str], levels: Sequence[float], changed: Changed) -> Profile:
    macs = _macs(model, task)
    samples, at_once = _within(WORK, macs, len(layers), len(levels))
    batches = list(task.calibration_inputs(samples))
    expected = _outputs(model, batches)
    errors: dict[str, list[float]] = {name: [] for name in layers}
    for first in range(0, len(layers), at_once):
        together = layers[first : first + at_once]
        for level in levels:
            error = output_error(_outputs(changed(dict.fromkeys(together, level)), batches), expected) ** 2
            for name in together:
                errors[name].append(error / len(together) if error < WORST else WORST)
    work = macs * samples * math.ceil(len(layers) / at_once) * len(levels)
    print(
        f"sensitivity of {len(layers)} layers at {len(levels)} levels: {at_once} at a time, on {samples} samples,"
        f" {work:.2g} multiply-adds (at most about {WORK:.0g})"
    )
    return Profile(tuple(levels), {name: tuple(found) for name, found in errors.items()}, samples, at_once)


def _within(work: int, macs: int, layers: int, levels: int) -> tuple[int, int]:
    """How many samples, and how many layers at once, keep the forward passes within the work."""
    samples = min(max(work // (macs * layers * levels), FEWEST_SAMPLES), SAMPLES)
    passes = max(work // (macs * samples), 1)
    return samples, max(1, math.ceil(layers / max(1, passes // levels)))


def _macs(model: nn.Module, task: Task) -> int:
    """Multiply-adds a sample; of a model that runs out of sight, one a parameter."""
    seen = model_cost(copy.deepcopy(model), task.inputs(1)).macs
    return max(seen or 0, sum(parameter.numel() for parameter in model.parameters()), 1)


def _outputs(model: nn.Module, batches: Sequence[Any]) -> list[Tensor]:
    copied = copy.deepcopy(model)  # `outputs` puts it into eval mode
    return [tensor for inputs in batches for tensor in outputs(copied, inputs)]


def _key(model: nn.Module, sample: Sequence[Any], method: str, layers: Sequence[str], levels: Sequence[float]) -> str:
    parts = [
        method,
        weights_digest(model),
        *(type(module).__qualname__ for module in model.modules()),
        data_digest(sample, len(sample)),
        json.dumps([list(layers), list(levels)]),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Profiles:
    """Those that were made, by key: of this process, and of a folder where there is one."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._made: dict[str, Profile] = {}

    def get(self, key: str, make: Callable[[], Profile]) -> Profile:
        if key not in self._made:
            self._made[key] = make() if self.folder is None else self._from(self.folder / f"{key}.json", make)
        return self._made[key]

    def _from(self, file: Path, make: Callable[[], Profile]) -> Profile:
        found = _read(file)
        if found is None:
            found = make()
            _write(file, found)
        return found


def _read(file: Path) -> Profile | None:
    """None where there is none, or a damaged one: it is made again."""
    try:
        return Profile.from_plain(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(file: Path, made: Profile) -> None:
    """In one step, so that no other process reads half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".part", delete=False, encoding="utf-8") as partial:
        json.dump(made.plain(), partial)
    os.replace(partial.name, file)


_PROFILES = _Profiles()
