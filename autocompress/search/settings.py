"""Everything a search was asked for, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.budget import Budget
from autocompress.limits import Limit
from autocompress.measure.device import Target
from autocompress.recipe import Recipe
from autocompress.space import SearchSpace
from autocompress.task import Task

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Settings:
    """The arguments of `autocompress.search`, with the defaults filled in."""

    task: Task
    space: SearchSpace
    limits: tuple[Limit, ...]
    budget: Budget
    targets: tuple[Target, ...]
    """Where latency is measured; what ships is made for the device of the first, and for each other device again."""
    run: Path
    recipes: tuple[Recipe, ...]
    seed: int
    workers: int
    """Trials at a time; 0 until it is known how many fit."""
    latency_seconds: float
    hardware_seconds: float
    """For each target, to find out what its hardware and free acceleration can do; 0 leaves that out."""
    progress: bool
    portfolio: bool = True
    """Whether to try first what is known to be good for such models."""
    like: tuple[Path, ...] = ()
    """Runs whose fronts are tried after that."""
    store: str | None = None
    """Folder or URL of the trained prefixes; None for no store."""
    store_bytes: int = 10 * 10**9
    screening: bool = True
    """Whether hopeless trials end before their training."""
    stopping: bool = True
    """Whether trials that compare badly at a rung of their training end there."""
    probe_seconds: float = 60.0
    """The longest that methods may be looked at before the first trial; 0 leaves that out."""
    sampler: BaseSampler | None = None
    """In place of the search's own."""
    gpu_share: float = 0.0
    """What each trial is given of the GPU that it runs on; 0 on a CPU."""

    @property
    def target(self) -> Target:
        return self.targets[0]
