"""Folders that appear complete or not at all, and where things lie in a run."""

from __future__ import annotations

import os
from pathlib import Path


def publish(partial: Path, path: Path) -> None:
    """Sync a finished folder to disk and give it its name, in one step."""
    for entry in [partial, *partial.rglob("*")]:
        _sync(entry)
    partial.chmod(0o755)
    partial.rename(path)
    _sync(path.parent)


def trial_folder(run: Path, number: int) -> Path:
    """Where a finished trial lies."""
    return run / "trials" / f"{number:05d}"


def partial_folder(run: Path, number: int) -> Path:
    """Where a trial writes until it is finished."""
    return run / "trials" / f".{number:05d}"


def device_folder(trial: Path, device: str, first_device: str) -> Path:
    """Where in a trial's folder lies what ships to a device: in itself for the first target's, else below it."""
    return trial if device == first_device else trial / device.replace(":", "-")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
