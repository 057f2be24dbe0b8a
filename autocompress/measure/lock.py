"""The lock that keeps a device to one measurement at a time, between all processes of this user on the node."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from autocompress.measure.device import Target

LOG_VARIABLE = "AUTOCOMPRESS_LOCK_LOG"
"""Names the file that each process appends its holds to, one JSON object a line."""
PATIENCE_S = 1.0
"""A longer wait is told in the log."""

_logger = logging.getLogger(__name__)


class DeviceLock:
    """A reader/writer lock per physical device, over two files that all processes of this user on the node share.

    Training holds it shared, step by step; measuring holds it alone, and a waiting measurement keeps new steps out.
    POSIX record locks: freed at once when the holder dies, and not inherited by forked data loaders. A wait of more
    than a second is told by `logging`: for which device, by whom it is held, and afterwards how long it took.

    `log`, or the file that AUTOCOMPRESS_LOCK_LOG names, gets a line of JSON for each hold: `device`, `pid`, `mode`,
    `waited_s`, and `from` and `to` in seconds of the monotonic clock, which all processes of a node share.
    """

    def __init__(self, target: Target, folder: Path | None = None, log: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"autocompress-locks-{os.getuid()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._device = physical_name(target)
        self._gate, self._data = (_open(folder / f"{self._device}.{part}") for part in ("gate", "lock"))
        named = os.environ.get(LOG_VARIABLE)
        self._log = log or (Path(named) if named else None)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Around one training step, at the end of which the device is idle."""
        start = time.monotonic()
        with self._held(self._gate, fcntl.LOCK_SH):
            self._take(self._data, fcntl.LOCK_SH)
        try:
            with self._logged("shared", start):
                yield
        finally:
            fcntl.lockf(self._data, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[float]:
        """Around a whole measurement; gives the seconds that it waited."""
        start = time.monotonic()
        with self._held(self._gate, fcntl.LOCK_EX), self._held(self._data, fcntl.LOCK_EX):
            with self._logged("exclusive", start):
                yield time.monotonic() - start

    @contextlib.contextmanager
    def _held(self, descriptor: int, how: int) -> Iterator[None]:
        self._take(descriptor, how)
        try:
            yield
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)

    def _take(self, descriptor: int, how: int) -> None:
        with contextlib.suppress(BlockingIOError, PermissionError):  # POSIX lets a system raise either
            fcntl.lockf(descriptor, how | fcntl.LOCK_NB)
            return
        start = time.monotonic()
        telling = threading.Timer(PATIENCE_S, self._tell_waiting, [descriptor, how])
        telling.daemon = True
        telling.start()
        try:
            fcntl.lockf(descriptor, how)
        finally:
            telling.cancel()
        waited = time.monotonic() - start
        if waited > PATIENCE_S:
            _logger.warning("waited %.1f s for %s", waited, self._device)

    def _tell_waiting(self, descriptor: int, how: int) -> None:
        _logger.warning("waiting for %s: held by %s", self._device, _holder(descriptor, how))

    @contextlib.contextmanager
    def _logged(self, mode: str, asked: float) -> Iterator[None]:
        """A span inside the hold, as one append of one line, which no other process tears."""
        began = time.monotonic()
        try:
            yield
        finally:
            if self._log is not None:
                span = {"waited_s": began - asked, "from": began, "to": time.monotonic()}
                line = {"device": self._device, "pid": os.getpid(), "mode": mode, **span}
                with self._log.open("a", encoding="utf-8", buffering=1) as file:
                    file.write(json.dumps(line) + "\n")


def physical_name(target: Target) -> str:
    """`cpu`, or a GPU by its UUID, whatever number it has in this process."""
    if not target.is_cuda:
        return "cpu"
    return f"gpu-{torch.cuda.get_device_properties(target.torch_device).uuid}"


_descriptors: dict[Path, int] = {}
_descriptors_guard = threading.Lock()


def _open(path: Path) -> int:
    """One descriptor a file and process: closing any descriptor of a file would drop all its POSIX locks."""
    with _descriptors_guard:
        if path not in _descriptors:
            _descriptors[path] = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        return _descriptors[path]


def _holder(descriptor: int, how: int) -> str:
    """A process that stands in the way, by its id, where the system says it as 64-bit Linux does."""
    if not (sys.platform == "linux" and sys.maxsize > 2**32):
        return "another process"
    flock = "hhqqi4x"  # type, whence, start, length, pid
    wanted = fcntl.F_WRLCK if how == fcntl.LOCK_EX else fcntl.F_RDLCK
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(flock, wanted, os.SEEK_SET, 0, 0, 0))
    kind, _, _, _, pid = struct.unpack(flock, answer)
    return "nobody any more" if kind == fcntl.F_UNLCK else f"process {pid}"
