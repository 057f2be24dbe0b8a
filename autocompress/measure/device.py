"""Where latency is measured: the target and its hardware."""

from __future__ import annotations

import contextlib
import platform
import re
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
        return self.device.startswith("cuda")

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
