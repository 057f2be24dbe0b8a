"""What the processes of a search need to know, from what the user asked for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from autocompress.errors import InvalidInput, first_line
from autocompress.search.display import Display
from autocompress.search.folder import RunFolder
from autocompress.search.identity import task_identity
from autocompress.search.prefixes import StoreAccess
from autocompress.search.settings import Settings
from autocompress.search.store import Store
from autocompress.search.trial import TrialContext

PRIVATE = "private_store"
"""The folder of a run with the trainings of a task that no other call can know again."""


def trial_context(settings: Settings, folder: RunFolder, store: StoreAccess | None) -> TrialContext:
    """What workers need, with paths that hold in any working directory."""
    weights = settings.task.weights
    return TrialContext(
        replace(settings.task, weights=weights and Path(weights).resolve()),
        settings.targets,
        folder.path.resolve(),
        settings.seed,
        settings.budget.minutes_per_trial,
        settings.latency_seconds,
        store,
        settings.limits,
        settings.stopping,
    )


def check_store(settings: Settings) -> None:
    """Try the store of trained prefixes; raises InvalidInput where it cannot be used."""
    if settings.store is None:
        return
    try:
        Store(settings.store, settings.store_bytes).check()
    except Exception as error:  # of the file system, or of what fsspec needs for a URL
        raise InvalidInput(
            f"store {settings.store!r} must be a folder or URL that can be written, but: {first_line(error)};"
            " name another one, or search without (--no-store)"
        ) from error


def store_access(settings: Settings, display: Display) -> StoreAccess | None:
    """What workers need for the store of trained prefixes."""
    if settings.store is None:
        return None
    identity, url = task_identity(settings.task), settings.store
    if identity.private:
        display.private_store(identity.private)
        discard_private_store(settings.run)  # of a call that was killed
        url = str((settings.run / PRIVATE).resolve())
    return StoreAccess(url, settings.store_bytes, identity.digest)


def discard_private_store(run: Path) -> None:
    """Nobody ever asks again for what lies there, not even this run when it goes on."""
    shutil.rmtree(run / PRIVATE, ignore_errors=True)
