"""Folders that appear complete or not at all, and where things lie in a run."""

from __future__ import annotations

import os
from pathlib import Path


def publish(partial: Path, path: Path) -> None:
    """Sync a finished folder to disk and give it its name, in one step."""
    for file in partial.iterdir():
        _sync(file)
    _sync(partial)
    partial.chmod(0o755)
    partial.rename(path)
    _sync(path.parent)


def trial_folder(run: Path, number: int) -> Path:
    """Where a finished trial lies."""
    return run / "trials" / f"{number:05d}"


def partial_folder(run: Path, number: int) -> Path:
    """Where a trial writes until it is finished."""
    return run / "trials" / f".{number:05d}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
