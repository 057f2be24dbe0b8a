"""An Optuna study that is asked in memory and kept on disk.

Asking an SQLite study costs a transaction for every parameter and reads the whole history anew. Here the sampler works
on a study in memory, and the file gets each trial in one piece when it starts and its end in a few. The numbers agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from autocompress.errors import RunError, first_line
from autocompress.run import STUDY_NAME


@dataclass(frozen=True)
class Answer:
    """How a trial ended, in Optuna's words."""

    state: TrialState
    attributes: Mapping[str, Any]
    constraints: Mapping[str, float] = field(default_factory=dict)
    """How far each limit is exceeded; zero or less where it holds."""
    values: Sequence[float] | None = None
    """Of a COMPLETE trial."""


class AskedStudy(optuna.Study):
    """A study in memory whose trials are asked for and told."""

    def __init__(
        self, directions: Sequence[StudyDirection], sampler: optuna.samplers.BaseSampler | None = None
    ) -> None:
        storage = optuna.storages.InMemoryStorage()
        made = optuna.create_study(storage=storage, directions=directions)
        super().__init__(made.study_name, storage, sampler)

    def stop(self) -> None:
        """Nothing: of a sampler that has proposed its whole space, whoever asks hears repetitions."""


class MirroredStudy:
    """The one writer of a study's database."""

    def __init__(self, url: str, directions: Sequence[StudyDirection]) -> None:
        try:
            self._disk = optuna.create_study(
                storage=open_storage(url), study_name=STUDY_NAME, directions=directions, load_if_exists=True
            )
        except Exception as error:  # SQLAlchemy on a file that may be damaged
            raise RunError(f"{url} is not readable: {first_line(error)}; choose another --name") from error
        self._memory = AskedStudy(directions)
        self._live: dict[int, Trial] = {}
        for trial in self._disk.get_trials(deepcopy=False):
            self._memory.add_trial(trial)
            if trial.state == TrialState.RUNNING:
                self._live[trial.number] = Trial(self._memory, self._memory.trials[-1]._trial_id)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self._memory.get_trials(deepcopy=False)

    @property
    def directions(self) -> list[StudyDirection]:
        return self._memory.directions

    def set_sampler(self, sampler: BaseSampler) -> None:
        self._memory.sampler = sampler

    def ask(self, choices: Mapping[str, Any] | None) -> Trial:
        """A trial that takes the given choices, or the sampler's; only `start` or `add` puts it on disk."""
        if choices is not None:
            self._memory.enqueue_trial(dict(choices))
        return self._memory.ask()

    def start(self, trial: Trial, attributes: Mapping[str, Any]) -> None:
        """Put an asked trial on disk, running."""
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self._live[trial.number] = trial
        self._disk.add_trial(self.trials[trial.number])

    def finish(self, number: int, answer: Answer) -> None:
        """Tell how a running trial ended, in memory and on disk."""
        on_disk = Trial(self._disk, self._disk.get_trials(deepcopy=False)[number]._trial_id)
        for study, trial in ((self._disk, on_disk), (self._memory, self._live.pop(number))):
            tell(study, trial, answer)

    def add(self, trial: Trial, answer: Answer) -> None:
        """Put an asked trial on disk that has its end already."""
        tell(self._memory, trial, answer)
        self._disk.add_trial(self.trials[trial.number])


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """A study's database; SQLite waits for a reader instead of failing."""
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def tell(study: optuna.Study, trial: Trial, answer: Answer) -> None:
    """End a trial."""
    for name, value in answer.attributes.items():
        trial.set_user_attr(name, value)
    for name, excess in answer.constraints.items():
        trial.set_constraint(name, excess)
    study.tell(trial, answer.values, state=answer.state)
