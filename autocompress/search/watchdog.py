"""Ends a worker whose trial takes too long, even inside C code."""

from __future__ import annotations

import contextlib
import faulthandler
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


class Watchdog:
    """Counts a trial's minutes; when they are over it leaves a traceback in a file and ends this process."""

    def __init__(self, minutes: float | None) -> None:
        self._minutes = minutes
        self._file: TextIO | None = None
        self._end = 0.0

    @contextlib.contextmanager
    def watching(self, path: Path, spent_s: float = 0.0) -> Iterator[None]:
        """Around a trial, or a step of one that spent so many seconds before."""
        with path.open("w") as self._file:
            self._start(max(60 * (self._minutes or 0) - spent_s, 0.001))
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                self._file = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While the trial waits for another one, which has a watchdog of its own."""
        left = self._end - time.monotonic()
        faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self._start(max(left, 0.001))

    def _start(self, seconds: float) -> None:
        if self._minutes and self._file is not None:
            self._end = time.monotonic() + seconds
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._file)
