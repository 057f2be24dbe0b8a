"""The search: Optuna proposes under Ray Tune, trials run in worker processes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.budget import Budget
from autocompress.errors import InvalidInput
from autocompress.limits import parse_limits
from autocompress.measure.device import Target
from autocompress.recipe import Recipe
from autocompress.run import Run
from autocompress.space import SearchSpace
from autocompress.task import Task

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

DEFAULT_LIMITS = ("accuracy_drop <= 1%",)
"""What holds when the user names no limit and the task is judged by accuracy."""

LONGEST_PROBE_S = 120.0
SEEDS = 2**32
"""As many as NumPy takes."""


def search(
    task: Task,
    *,
    space: SearchSpace | str | Path | None = None,
    limits: Sequence[str] | None = None,
    budget: Budget | None = None,
    target: Target | str | Sequence[Target | str] | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    recipes: Sequence[Recipe] = (),
    portfolio: bool = True,
    like: Sequence[str | Path] = (),
    seed: int = 0,
    workers: int | None = None,
    latency_seconds: float = 3.0,
    hardware_seconds: float = 20.0,
    progress: bool = True,
    store: bool | str | Path = True,
    store_bytes: int = 10 * 10**9,
    screening: bool = True,
    stopping: bool = True,
    probe_seconds: float = 60.0,
    sampler: BaseSampler | None = None,
) -> Run:
    """Search for compressed models of a task; the same call on the same run continues it.

    Args:
        space: what may be combined: a shipped space's name, a YAML file or a SearchSpace; all methods if None.
        limits: like `accuracy_drop <= 1%`, `latency <= 5 ms`, `size <= 25% of baseline`.
        budget: 50 trials if None.
        target: where latency is measured, like `cuda:0@32`, `cpu@8x2`, or several of these; the first GPU where there
            is one, else the CPU. Each is an objective of its own; limits name it: `latency[cpu@8x2] <= 5 ms`.
        name: the run's folder under `runs`; the task's name if None.
        recipes: known recipes, tried first.
        portfolio: whether to try next what was good for models of this family on such a device, as far as the space
            holds it: at most 5 recipes, and at most a quarter of the trials.
        like: finished runs; the recipes of their fronts are tried after that, where the task was a similar one: at most
            5, and at most a quarter of the trials, the best of each run first.
        workers: trials at a time; if None, on a CPU one for each core (as many threads as the target has), on a GPU
            as many as its free memory is expected to hold, but at most 4.
        latency_seconds: the longest that one latency measurement may take.
        hardware_seconds: for each target, how long to find out afterwards what its hardware can do at most and how fast
            the untouched model is with the acceleration that anybody gets for free; compiling comes on top. 0: not at
            all.
        progress: whether to show on stderr what happens.
        store: where trainings are kept that recipes can share: in the run's own folder, in another folder or fsspec URL
            that several searches may share, or nowhere (False).
        store_bytes: what may lie there; beyond it, what was not used for longest is removed.
        screening: whether the size and latency of what would ship are looked at before the training, so that a trial
            that breaks a limit on them, or cannot enter the front, ends there.
        stopping: whether trainings of 3 epochs and more halt at 1/9 and 1/3 of them, where the best third of the trials
            goes on, and others later if they turn out to be good enough. Only trials are compared that were screened.
        probe_seconds: the longest that each method may be looked at alone before the first trial, 120 at most, so that
            those that make this model neither smaller nor faster are left out and the best are tried first. 0: all
            methods are tried. Not done for fewer than 10 trials, or where it would take a fifth of the hours.
        sampler: one of Optuna's that serves several objectives, in place of the search's own, which `seed` then says
            nothing to.

    Raises InvalidInput for a task, space, limit or recipe that breaks a rule, RunError when the run's folder is in use,
    not writable or belongs to another search. A trial that fails raises nothing: it is a row of the result.
    """
    from optuna.samplers import BaseSampler

    from autocompress.report.page import write_page
    from autocompress.search.engine import run_search  # Optuna and Ray are loaded only to search
    from autocompress.search.settings import Settings

    folder = name or task.name
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", folder):
        raise InvalidInput(f"a run's name is letters, digits, '.', '_' and '-', but got {folder!r}")
    if re.search("[?%#]", str(runs)):
        raise InvalidInput(f"the folder of runs must not have '?', '%' or '#' in its name, but got {str(runs)!r}")
    if isinstance(limits, str):
        raise InvalidInput(f"limits are a list of texts, but got the text {limits!r}")
    if not 0 < latency_seconds < math.inf:
        raise InvalidInput(f"latency_seconds must be above 0, but got {latency_seconds}")
    if not 0 <= hardware_seconds < math.inf:
        raise InvalidInput(f"hardware_seconds must be a number of at least 0, but got {hardware_seconds}")
    if not 0 <= probe_seconds <= LONGEST_PROBE_S:
        raise InvalidInput(f"probe_seconds must lie in 0..{LONGEST_PROBE_S:g}, but got {probe_seconds}")
    if not 0 <= seed < SEEDS:
        raise InvalidInput(f"seed must lie in 0..{SEEDS - 1}, but got {seed}")
    if workers is not None and workers < 1:
        raise InvalidInput(f"workers must be at least 1, but got {workers}")
    if store_bytes < 0:
        raise InvalidInput(f"store_bytes must be at least 0, but got {store_bytes}")
    if sampler is not None and not isinstance(sampler, BaseSampler):
        raise InvalidInput(f"sampler must be one of Optuna's, like optuna.samplers.TPESampler(), but got {sampler!r}")
    if limits is None:
        limits = DEFAULT_LIMITS if task.objective.name == "accuracy" else ()
    targets = _targets(target)
    settings = Settings(
        task=task,
        space=space if isinstance(space, SearchSpace) else SearchSpace.load(space) if space else SearchSpace(),
        limits=parse_limits(limits, task.metrics, [str(target) for target in targets]),
        budget=budget or Budget(),
        targets=targets,
        run=Path(runs) / folder,
        recipes=tuple(recipes),
        seed=seed,
        workers=workers or 0,
        latency_seconds=latency_seconds,
        hardware_seconds=hardware_seconds,
        progress=progress,
        portfolio=portfolio,
        like=_paths(like),
        store=_store(store, Path(runs) / folder),
        store_bytes=store_bytes,
        screening=screening,
        stopping=stopping,
        probe_seconds=probe_seconds,
        sampler=sampler,
    )
    run = run_search(settings)
    if run.scored:
        write_page(run)
    return run


def _store(wanted: bool | str | Path, run: Path) -> str | None:
    """A folder that holds in any working directory, or a URL."""
    if isinstance(wanted, bool):
        return str((run / "store").resolve()) if wanted else None
    return str(wanted) if "://" in str(wanted) else str(Path(wanted).resolve())


def _targets(wanted: Target | str | Sequence[Target | str] | None) -> tuple[Target, ...]:
    """Raises InvalidInput for a target of another form, or none."""
    if wanted is None:
        return (Target.default(),)
    several = [wanted] if isinstance(wanted, str | Target) else wanted
    if not several:
        raise InvalidInput("a search measures latency on at least one target, but got none; leave it out for a default")
    return tuple(dict.fromkeys(Target.parse(str(target)) for target in several))


def _paths(like: Sequence[str | Path]) -> tuple[Path, ...]:
    if isinstance(like, str | Path):
        raise InvalidInput(f"`like` is a list of runs, but got {str(like)!r}: put it in a list")
    return tuple(map(Path, like))
