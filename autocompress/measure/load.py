"""How busy this machine is with other processes."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
BUSY_SHARE = 0.1
"""From here on a record says in words that the machine was busy with others."""


class OtherLoad:
    """The share of all cores' time that other processes, or a hypervisor, took since this was made.

    From the kernel's own count of busy time less this process's; None where there is no /proc/stat.
    """

    def __init__(self) -> None:
        self._start = _counters()

    def share(self) -> float | None:
        """In 0-1, to the kernel's tick of 10 ms; None for less than two ticks."""
        now = _counters()
        if self._start is None or now is None:
            return None
        total, busy, own = (after - before for after, before in zip(now, self._start, strict=True))
        return min(1.0, max(0.0, (busy - own) / total)) if total >= 2 * _tick() else None


def load_average() -> float | None:
    """Processes that run or want to, averaged over a minute."""
    with contextlib.suppress(OSError):
        return os.getloadavg()[0]
    return None


def in_words(share: float | None) -> str:
    """The note for a record; empty when there is nothing to tell."""
    if share is None:
        return "how busy the machine was with others is not known here"
    if share < BUSY_SHARE:
        return ""
    return f"the machine was {share:.0%} busy with other processes, which widens the intervals"


def _counters() -> tuple[float, float, float] | None:
    """Seconds of all cores, of those busy, and of this process."""
    try:
        first = STAT.read_text().splitlines()[0].split()
    except OSError:
        return None
    user, nice, system, idle, waiting, irq, softirq, steal = (int(value) * _tick() for value in first[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy + idle + waiting, busy, time.process_time()


def _tick() -> float:
    return 1 / os.sysconf("SC_CLK_TCK")
