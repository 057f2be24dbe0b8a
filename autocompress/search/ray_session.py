"""A Ray Tune run as a disposable session: quiet, on loopback, and nothing in it that must be kept."""

from __future__ import annotations

import math
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

from autocompress.errors import InvalidInput, RunError, first_line
from autocompress.final import Final
from autocompress.limits import Limit
from autocompress.prospect import Look
from autocompress.recipe import Step
from autocompress.search.chatter import ray_messages_to
from autocompress.search.engine import Search
from autocompress.search.finals import Judge
from autocompress.search.prospecting import Prospector
from autocompress.search.scheduler import RungScheduler
from autocompress.search.searcher import LoopSearcher
from autocompress.search.settings import Settings
from autocompress.search.trial import TrialContext
from autocompress.search.worker import TrialWorker
from autocompress.task_reference import modules_from_files


def run_trials(search: Search, context: TrialContext, settings: Settings, log_file: Path) -> None:
    """Run what the search proposes on its worker processes, until it proposes nothing more or time is up."""
    workers, share = settings.workers, settings.gpu_share
    with session(workers, share) as folder, ray_messages_to(log_file):  # ray.init sets up Ray's logging, so after it
        scheduler = RungScheduler(search)
        worker = tune.with_parameters(TrialWorker, context=_shared(context))
        tuner = tune.Tuner(
            tune.with_resources(worker, {"cpu": 1, "gpu": share}) if share else worker,
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


class FreshProcess:
    """A process with nothing in it of the trials that ran before; another one when it dies or takes too long."""

    def __init__(self, kind: type, *arguments: Any) -> None:
        self._kind, self._arguments = kind, arguments
        self._actor = self._started()

    def end(self) -> None:
        ray.kill(self._actor)

    def _ask(self, method: str, *arguments: Any, seconds: float | None = None, what: str = "it") -> Any:
        """The answer, or why there is none, with a word for what was asked for."""
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments), timeout=seconds)
        except ray.exceptions.GetTimeoutError:
            self.end()
            self._actor = self._started()
            return f"{what} took longer than {seconds:.0f} s"
        except ray.exceptions.RayActorError:
            self._actor = self._started()
            return "its process died: killed by a signal, out of memory, or crashed"
        except ray.exceptions.RayTaskError as error:
            return first_line(error.cause)

    def _started(self) -> Any:
        """Once it is up, or dead: what it takes to begin is no part of what it is asked for."""
        actor = ray.remote(num_cpus=0)(self._kind).remote(*self._arguments)
        ray.wait([actor.__ray_ready__.remote()])
        return actor


class JudgeProcess(FreshProcess):
    """A process with a `Judge`."""

    def __call__(self, number: int, surroundings: Mapping[str, Any]) -> Final | str:
        """A trial's final figures, or why there are none."""
        answer: Final | str = self._ask("judge", number, surroundings)
        return answer

    def surroundings(self, seconds: float) -> dict[str, Any] | str:
        """By target, or why they are not known."""
        answer: dict[str, Any] | str = self._ask("surroundings", seconds)
        return answer


class ProspectorProcess(FreshProcess):
    """A process with a `Prospector`."""

    def model(self, seconds: float) -> dict[str, Any] | str:
        what = "a look at the untouched model and at the hardware's peaks"
        answer: dict[str, Any] | str = self._ask("model", seconds, seconds=seconds, what=what)
        return answer

    def method(self, step: Step, seconds: float) -> Look | str:
        answer: Look | str = self._ask("method", step, seconds=seconds)
        return answer

    def size(self, step: Step, seconds: float) -> float | str:
        answer: float | str = self._ask("size", step, seconds=seconds)
        return answer


@contextmanager
def judging(context: TrialContext, limits: Sequence[Limit], log_file: Path) -> Iterator[JudgeProcess]:
    """A process that judges finalists."""
    with ray_messages_to(log_file):
        yield JudgeProcess(Judge, _shared(context), limits)


@contextmanager
def probing(context: TrialContext, log_file: Path) -> Iterator[ProspectorProcess]:
    """A process that looks at methods, and is gone afterwards with what it holds of the device's memory."""
    with ray_messages_to(log_file):
        process = ProspectorProcess(Prospector, _shared(context))
        try:
            yield process
        finally:
            process.end()


@contextmanager
def session(workers: int, gpu_share: float = 0.0) -> Iterator[Path]:
    """Ray, started here unless the caller is connected already, and a folder for what Tune writes.

    All trials share one GPU of this machine. Raises RunError where the Ray that runs already has none to give.
    """
    started, gpus = not ray.is_initialized(), math.ceil(gpu_share)
    if started:
        with _import_path():
            ray.init(
                num_cpus=workers, num_gpus=gpus, include_dashboard=False, configure_logging=False, log_to_driver=False
            )
    elif gpus and not ray.cluster_resources().get("GPU"):
        raise RunError(
            "trials on a GPU need one of Ray's, but the Ray that this process is connected to has none: start it with"
            " `num_gpus`, or leave that to the search"
        )
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
