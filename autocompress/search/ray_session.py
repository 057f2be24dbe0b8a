"""A Ray Tune run as a disposable session: quiet, on loopback, and nothing in it that must be kept."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune

from autocompress.errors import InvalidInput, first_line
from autocompress.final import Final
from autocompress.limits import Limit
from autocompress.search.chatter import ray_messages_to
from autocompress.search.engine import Search
from autocompress.search.finals import Judge
from autocompress.search.scheduler import RungScheduler
from autocompress.search.searcher import LoopSearcher
from autocompress.search.trial import TrialContext
from autocompress.search.worker import TrialWorker
from autocompress.task_reference import modules_from_files


def run_trials(search: Search, context: TrialContext, workers: int, log_file: Path) -> None:
    """Run what the search proposes on that many worker processes, until it proposes nothing more or time is up."""
    with session(workers) as folder, ray_messages_to(log_file):  # ray.init sets up Ray's logging, so after it
        scheduler = RungScheduler(search)
        tuner = tune.Tuner(
            tune.with_parameters(TrialWorker, context=_shared(context)),
            tune_config=tune.TuneConfig(
                search_alg=LoopSearcher(search, scheduler),
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                time_budget_s=search.seconds_left,
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder),
                name="session",
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()


def _shared(context: TrialContext) -> ray.ObjectRef:
    """The context where every worker can get it, once."""
    for module in modules_from_files:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        return ray.put(context)
    except Exception as error:  # the user's model, data, loss or metrics
        raise InvalidInput(
            f"the task must be picklable to reach the workers, but: {first_line(error)};"
            " build in the model factory, or open in the data set's __getitem__, what cannot be pickled"
        ) from error


class JudgeProcess:
    """A fresh process with a `Judge`; another one when it dies."""

    def __init__(self, context: ray.ObjectRef, limits: Sequence[Limit]) -> None:
        self._arguments = (context, limits)
        self._actor = self._started()

    def __call__(self, number: int, surroundings: Mapping[str, Any]) -> Final | str:
        """A trial's final figures, or why there are none."""
        answer: Final | str = self._ask("judge", number, surroundings)
        return answer

    def surroundings(self, seconds: float) -> dict[str, Any] | str:
        """By target, or why they are not known."""
        answer: dict[str, Any] | str = self._ask("surroundings", seconds)
        return answer

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except ray.exceptions.RayActorError:
            self._actor = self._started()
            return "its process died: killed by a signal, out of memory, or crashed"
        except ray.exceptions.RayTaskError as error:
            return first_line(error.cause)

    def _started(self) -> Any:
        return ray.remote(num_cpus=0)(Judge).remote(*self._arguments)


@contextmanager
def judging(context: TrialContext, limits: Sequence[Limit], log_file: Path) -> Iterator[JudgeProcess]:
    """A process that judges finalists, with nothing in it of the trials that ran before."""
    with ray_messages_to(log_file):
        yield JudgeProcess(_shared(context), limits)


@contextmanager
def session(workers: int) -> Iterator[Path]:
    """Ray, started here unless the caller is connected already, and a folder for what Tune writes."""
    started = not ray.is_initialized()
    if started:
        with _import_path():
            ray.init(num_cpus=workers, include_dashboard=False, configure_logging=False, log_to_driver=False)
    folder = Path(tempfile.mkdtemp(prefix="autocompress-"))
    try:
        yield folder
    finally:
        if started:
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _import_path() -> Iterator[None]:
    """What this process can import, the processes that it starts can."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
