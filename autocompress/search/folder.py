"""The folder of a run that is being searched: one driver at a time, one search a folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from autocompress.errors import RunError
from autocompress.final import SURROUNDINGS_FILE, Final, final_file
from autocompress.likeness import Likeness
from autocompress.measure.device import hardware_name
from autocompress.plugins import registry
from autocompress.prospect import PROBE_FILE, Prospect
from autocompress.run import (
    CONFIG_FILE,
    ENV_FILE,
    LEFT_OUT_FILE,
    RUN_FILE,
    STUDY_FILE,
    MetricRecord,
    RunConfig,
    RunRecord,
)
from autocompress.search.settings import Settings

LOCK_FILE, EVENTS_FILE, LOG_FILE = ".lock", "events.jsonl", "engine.log"
RECORDED_PACKAGES = ("autocompress", "torch", "torchvision", "optuna", "ray", "torchao", "torch-pruning")


@dataclass(frozen=True)
class RunFolder:
    """Where the driver of a search writes."""

    path: Path

    @property
    def study_file(self) -> Path:
        return self.path / STUDY_FILE

    @property
    def study_url(self) -> str:
        return f"sqlite:///{self.study_file}"

    @property
    def log_file(self) -> Path:
        """Ray's and Optuna's own messages."""
        return self.path / LOG_FILE

    def event(self, kind: str, **details: Any) -> None:
        """Append one line to the run's diary."""
        line = json.dumps({"time": time.time(), "event": kind, **details})
        with (self.path / EVENTS_FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def write_final(self, number: int, final: Final) -> None:
        file = final_file(self.path, number)
        file.parent.mkdir(exist_ok=True)
        write_whole(file, json.dumps(final.plain()))

    def write_left_out(self, reasons: Mapping[str, str]) -> None:
        write_whole(self.path / LEFT_OUT_FILE, json.dumps(dict(reasons), indent=1))

    def write_prospect(self, prospect: Prospect) -> None:
        write_whole(self.path / PROBE_FILE, json.dumps(prospect.plain(), indent=1))

    def write_surroundings(self, surroundings: Mapping[str, Any]) -> None:
        write_whole(self.path / SURROUNDINGS_FILE, json.dumps(surroundings, indent=1))


@contextmanager
def open_run(settings: Settings, methods: Mapping[str, str] | None = None) -> Iterator[RunFolder]:
    """A new folder, or the one that this search is to continue, locked against a second driver.

    `methods` are those that the search may use, with their plugins' versions.
    Raises RunError when it cannot be written, is in use, or was made by another search.
    """
    path = settings.run
    try:
        (path / "trials").mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK_FILE)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"run {str(path)!r} is in use by another search: wait for it, or choose another --name"
        ) from None
    except OSError as error:
        raise RunError(f"run {str(path)!r} cannot be written ({error.strerror}): choose another folder") from None
    try:
        _claim(path, _record(settings), _config(settings, methods or {}), settings)
        for unfinished in (path / "trials").glob(".*"):  # of a driver that died, or was stopped
            shutil.rmtree(unfinished)
        folder = RunFolder(path)
        folder.event("opened", process=os.getpid())
        yield folder
        folder.event("closed")
    finally:
        lock.release()


def _claim(path: Path, record: RunRecord, config: RunConfig, settings: Settings) -> None:
    if (path / RUN_FILE).exists():
        if any((path / "trials").iterdir()) and not (path / STUDY_FILE).exists():
            raise RunError(f"run {str(path)!r} has lost its {STUDY_FILE}, and so its results: choose another --name")
        _check_same(path, record, config)
    else:
        write_whole(path / ENV_FILE, json.dumps(_environment(settings), indent=1))
    write_whole(path / CONFIG_FILE, yaml.safe_dump(config.plain(), sort_keys=False))
    write_whole(path / RUN_FILE, record.model_dump_json(indent=1))  # last: with it the folder is a run


def _check_same(path: Path, record: RunRecord, config: RunConfig) -> None:
    """A run continues only the search that made it: same task, space, limits, target, seed and methods."""
    old_record, old_config = RunRecord.read(path / RUN_FILE), RunConfig.read(path / CONFIG_FILE)
    if old_record.format != record.format:
        raise RunError(
            f"run {str(path)!r} has format {old_record.format}, but this autocompress writes {record.format}"
        )
    if old_record != record:
        raise RunError(f"run {str(path)!r} was made with another model, loss, data or metrics: choose another --name")
    for name in ("space", "limits", "targets", "seed", "methods"):
        if getattr(old_config, name) != getattr(config, name):
            values = ""
            if name in ("targets", "seed", "limits"):
                values = f", {_shown(getattr(old_config, name))} and not {_shown(getattr(config, name))}"
            way_out = "choose another --name"
            if name == "limits":
                way_out += f", or select from it without searching: autocompress best {path} --limit '...'"
            raise RunError(
                f"run {str(path)!r} was made with different {name}{values} (see its {CONFIG_FILE}): {way_out}"
            )


def _shown(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


def _record(settings: Settings) -> RunRecord:
    task = settings.task
    metrics = tuple(
        MetricRecord(name=m.name, higher_is_better=m.higher_is_better, is_share=m.is_share) for m in task.metrics
    )
    likeness = Likeness.of(task, settings.target.torch_device.type)
    return RunRecord(task=task.name, fingerprint=task.fingerprint, metrics=metrics, likeness=likeness)


def _config(settings: Settings, methods: Mapping[str, str]) -> RunConfig:
    return RunConfig(
        space=settings.space,
        limits=tuple(limit.text for limit in settings.limits),
        targets=tuple(str(target) for target in settings.targets),
        seed=settings.seed,
        methods=dict(methods),
        budget=settings.budget,
    )


def _environment(settings: Settings) -> dict[str, Any]:
    """Versions and hardware, for whoever reads the figures later."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": {target.device: hardware_name(target) for target in settings.targets},
        "cpus": os.cpu_count(),
        "packages": {name: metadata.version(name) for name in RECORDED_PACKAGES},
        "plugins": {plugin.name: f"{plugin.distribution} {plugin.version}" for plugin in registry().plugins},
    }


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader sees the old text or the new."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
