"""Where latency is measured: the target, and the lock that keeps its device to one measurement at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from autocompress.errors import InvalidInput


@dataclass(frozen=True)
class Target:
    """A device, a batch size and, on a CPU, a number of threads: `cuda:0@32`, `cpu@1`, `cpu@8x2`."""

    device: str
    batch_size: int = 1
    threads: int = 1

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises InvalidInput for another form or a device that this machine does not have."""
        match = re.fullmatch(r"(cpu|cuda(?::\d+)?)(?:@([1-9]\d*)(?:x([1-9]\d*))?)?", text.strip())
        if match is None:
            raise InvalidInput(
                f"a target is DEVICE[@BATCH[xTHREADS]] like 'cpu@1', 'cpu@8x2', 'cuda:0@32', but got {text!r}"
            )
        device, batch, threads = match.groups()
        target = cls("cuda:0" if device == "cuda" else device, int(batch or 1), int(threads or 1))
        if not target.is_here:
            count = torch.cuda.device_count()
            raise InvalidInput(
                f"target {text!r} needs {device}, but this machine has {count} CUDA devices; use 'cpu@1'"
            )
        return target

    @classmethod
    def default(cls) -> Target:
        """The first GPU where there is one, else the CPU."""
        return cls("cuda:0" if torch.cuda.is_available() else "cpu")

    def __str__(self) -> str:
        threads = f"x{self.threads}" if self.threads > 1 else ""
        return f"{self.device}@{self.batch_size}{threads}"

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    @property
    def is_cuda(self) -> bool:
        return self.device != "cpu"

    @property
    def is_here(self) -> bool:
        """Whether this machine has the device."""
        return not self.is_cuda or int(self.device.split(":")[1]) < torch.cuda.device_count()


def hardware_name(target: Target) -> str:
    """The device in words, for the record of a measurement."""
    if target.is_cuda:
        return torch.cuda.get_device_name(target.torch_device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


class DeviceLock:
    """A reader/writer lock per physical device, over two files that all processes of this user on the node share.

    Training holds it shared, step by step; measuring holds it alone, and a waiting measurement keeps new steps out.
    POSIX record locks: freed at once when the holder dies, and not inherited by forked data loaders.
    """

    def __init__(self, target: Target, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"autocompress-locks-{os.getuid()}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = _physical_name(target)
        self._gate, self._data = (_open(folder / f"{name}.{part}") for part in ("gate", "lock"))

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Around one training step, at the end of which the device is idle."""
        with _held(self._gate, fcntl.LOCK_SH):
            fcntl.lockf(self._data, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.lockf(self._data, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Around a whole measurement."""
        with _held(self._gate, fcntl.LOCK_EX), _held(self._data, fcntl.LOCK_EX):
            yield


@contextlib.contextmanager
def _held(descriptor: int, how: int) -> Iterator[None]:
    fcntl.lockf(descriptor, how)
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)


_descriptors: dict[Path, int] = {}
_descriptors_guard = threading.Lock()


def _open(path: Path) -> int:
    """One descriptor a file and process: closing any descriptor of a file would drop all its POSIX locks."""
    with _descriptors_guard:
        if path not in _descriptors:
            _descriptors[path] = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        return _descriptors[path]


def _physical_name(target: Target) -> str:
    if not target.is_cuda:
        return "cpu"
    return f"gpu-{torch.cuda.get_device_properties(target.torch_device).uuid}"
