"""A run on disk: its configuration, its trials, its front, and the model that fits."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial
from pydantic import Field
from torch import nn

from autocompress.artifact import Artifact
from autocompress.budget import Budget
from autocompress.document import Document
from autocompress.errors import ArtifactError, RunError, first_line
from autocompress.final import Final, read_finals, read_surroundings
from autocompress.folders import device_folder, trial_folder
from autocompress.likeness import Likeness
from autocompress.limits import Limit, check_against_baseline, parse_limits, target_suffix
from autocompress.measure.device import Target
from autocompress.metric import Metric
from autocompress.outcome import INTERRUPTED, Outcome, Savings, as_one, own
from autocompress.prospect import Prospect, read_prospect
from autocompress.recipe import Recipe
from autocompress.rungs import RungReport, rung_reports
from autocompress.selection import choose, pareto_front
from autocompress.space import SearchSpace
from autocompress.task import Model

FORMAT = 1
STUDY_NAME = "autocompress"
RECIPE, PROPOSED, OUTCOME, DUPLICATE_OF = "recipe", "proposed", "outcome", "duplicate_of"
"""The user attributes of an Optuna trial."""
PROMOTED = "promoted"
"""What a proposal holds that goes on with a stopped trial: its number."""
RUN_FILE, CONFIG_FILE, ENV_FILE, STUDY_FILE = "run.json", "config.yaml", "env.json", "study.db"
LEFT_OUT_FILE = "left_out.json"


class MetricRecord(Document):
    """What a run keeps of a metric; its function stays with the task."""

    name: str
    higher_is_better: bool
    is_share: bool


class RunRecord(Document):
    """`run.json`: what a search belongs to."""

    format: int = FORMAT
    task: str
    fingerprint: str
    metrics: tuple[MetricRecord, ...]
    likeness: Likeness | None = None
    """None in runs of versions that did not keep it."""


class RunConfig(Document):
    """`config.yaml`: what a search was asked for. All but the budget stays the same when it continues."""

    space: SearchSpace
    limits: tuple[str, ...] = ()
    targets: tuple[str, ...]
    seed: int = 0
    methods: dict[str, str] = {}
    """Those that apply to the task, with the distribution and version of their plugins."""
    budget: Budget = Field(default_factory=Budget)


@dataclass(frozen=True)
class Trial:
    """One scored trial: its recipe, its scores and the model it left."""

    number: int
    recipe: Recipe
    outcome: Outcome
    final: Final | None
    """Its figures when it was judged again, for trials of the front; None of others."""
    path: Path
    model: Model | None = None
    students: Mapping[str, Model] = field(default_factory=dict)
    proposed: Mapping[str, Any] = field(default_factory=dict)
    """Why it was tried: its `origin` in words, and what the sampler expected of it, if it did."""

    @property
    def scores(self) -> dict[str, float]:
        return self.outcome.scores

    @property
    def test_scores(self) -> dict[str, float]:
        """The metrics on the test split; empty if it was not judged there."""
        return {} if self.final is None else self.final.test_scores

    def artifact(self, device: str | None = None) -> Artifact:
        """What ships to a device of the search's targets (`cpu`, `cuda:0`), by default to the first target's.

        Raises ArtifactError when it is gone.
        """
        own = self.path if device is None else device_folder(self.path, device, "")
        return Artifact(own if own.is_dir() else self.path)

    def load(self, model: Model | None = None, device: str | None = None) -> nn.Module:
        """The compressed model. `model` is needed only when the run was opened without its task.

        Raises ArtifactError when a file is damaged or the model is another one.
        """
        artifact = self.artifact(device)
        own = self.model if artifact.student is None else self.students.get(artifact.student)
        source = model if model is not None else own
        if source is None:
            raise ArtifactError(f"trial {self.number} needs the model it was made from: pass the factory, load(model)")
        target = None if device is None else Target.parse(device)
        return artifact.load(source, target, native_code=True)  # this run compiled it

    def save(self, path: str | Path, device: str | None = None) -> Artifact:
        """A copy of the artifact in a new folder. Raises ArtifactError if there is something at `path`."""
        return self.artifact(device).save(path)


class Run:
    """A search's folder, read from disk; nothing here searches or needs Ray."""

    def __init__(
        self, path: str | Path, model: Model | None = None, students: Mapping[str, Model] | None = None
    ) -> None:
        """Raises RunError unless `path` is a run.

        The task's `model` and `students` let its trials load without being told the model.
        """
        self.path = Path(path)
        self._model, self._students = model, students or {}
        if not (self.path / RUN_FILE).is_file():
            raise RunError(f"{self.path} is no run: it has no {RUN_FILE}")
        self.record = RunRecord.read(self.path / RUN_FILE)
        if self.record.format != FORMAT:
            raise RunError(f"{self.path} has format {self.record.format}, but this autocompress reads {FORMAT}")
        self.config = RunConfig.read(self.path / CONFIG_FILE)

    @functools.cached_property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(Metric(m.name, _only_the_task_scores, m.higher_is_better, m.is_share) for m in self.record.metrics)

    @property
    def objective(self) -> Metric:
        return self.metrics[0]

    @property
    def limits(self) -> tuple[Limit, ...]:
        return parse_limits(self.config.limits, self.metrics, self.config.targets)

    @functools.cached_property
    def all_trials(self) -> dict[int, tuple[Recipe, Outcome]]:
        """Recipe and outcome of every trial that ended and counts, by number."""
        return {trial.number: (_recipe_of(trial), outcome) for trial, outcome in self._ended}

    @functools.cached_property
    def proposed(self) -> dict[int, dict[str, Any]]:
        """Why each of these trials was proposed: its `origin` in words, and what the sampler expected, if it did."""
        return {trial.number: dict(trial.user_attrs.get(PROPOSED, {})) for trial, _ in self._ended}

    @functools.cached_property
    def _ended(self) -> list[tuple[FrozenTrial, Outcome]]:
        ends = ((trial, self._outcome(trial)) for trial in self._frozen)
        return [(trial, outcome) for trial, outcome in ends if outcome is not None and outcome.counts]

    def _outcome(self, trial: FrozenTrial) -> Outcome | None:
        """Raises RunError for a scored trial that lacks a score."""
        file = self.path / STUDY_FILE
        outcome = outcome_of(trial, file)
        if outcome is not None and outcome.scored:
            ends = [target_suffix(target, self.config.targets) for target in self.config.targets]
            times = [f"{name}{end}" for end in ends for name in ("latency_ms", "speedup")]
            needed = ["size_bytes", *times, *(metric.name for metric in self.metrics)]
            missing = [name for name in needed if name not in outcome.scores]
            if missing:
                raise RunError(_unreadable(file, trial, f"it has no {', '.join(missing)}"))
        return outcome

    @functools.cached_property
    def _frozen(self) -> list[FrozenTrial]:
        return _frozen_trials(self.path / STUDY_FILE)

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Methods that the search left out because they do not apply or cannot help, with their reasons."""
        file = self.path / LEFT_OUT_FILE
        if not file.is_file():
            return {}
        reasons: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        return reasons

    @functools.cached_property
    def prospect(self) -> Prospect | None:
        """What each method does to the model alone, as the search saw it before its first trial, if it looked."""
        return read_prospect(self.path)

    @property
    def savings(self) -> Savings:
        """What the search did not have to train."""
        return Savings.of(self._whole_trials.values())

    @property
    def rungs(self) -> dict[str, RungReport]:
        """By rung (`1/3` of a recipe's epochs), how well the order of the trials there tells that at the end."""
        return rung_reports(self._whole_trials.values(), self.objective.name)

    @functools.cached_property
    def _whole_trials(self) -> dict[int, Outcome]:
        """The outcomes, where a trial that was stopped or interrupted and the one that went on with it are one."""
        whole = {number: outcome for number, (_, outcome) in self.all_trials.items()}
        for number in list(whole):
            stopped = whole.pop(self.proposed[number].get(PROMOTED, -1), None)
            if stopped is not None:
                whole[number] = as_one(stopped, whole[number])
            if self.all_trials[number][0].key in self._interrupted:
                whole[number] = own(whole[number])
        return whole

    @functools.cached_property
    def _interrupted(self) -> set[str]:
        """The keys of the recipes of trials that were interrupted."""
        ends = ((trial, self._outcome(trial)) for trial in self._frozen)
        return {_recipe_of(trial).key for trial, outcome in ends if outcome and outcome.state == INTERRUPTED}

    @property
    def scored(self) -> dict[int, dict[str, float]]:
        return {number: outcome.scores for number, (_, outcome) in self.all_trials.items() if outcome.scored}

    @property
    def baseline(self) -> Trial:
        """Trial 0, the untouched model. Raises RunError when it was not scored yet."""
        for number, (recipe, outcome) in self.all_trials.items():
            if recipe == Recipe() and outcome.scored:
                return self.trial(number)
        raise RunError(f"{self.path} has no scored baseline yet: let the search run, and longer if its hours ended")

    @functools.cached_property
    def finals(self) -> dict[int, Final]:
        """The baseline and the front judged once more when the search was over, by trial."""
        return read_finals(self.path)

    @functools.cached_property
    def surroundings(self) -> dict[str, Any]:
        """By target, what the hardware can do at most, and what free acceleration does for the baseline."""
        return read_surroundings(self.path)

    @property
    def test_scores(self) -> dict[int, dict[str, float]]:
        """Metrics on the test split, by trial."""
        return {number: final.test_scores for number, final in self.finals.items()}

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial, failures included, indexed by number.

        Columns: state, the metrics, size_bytes, latency_ms and baseline_latency_ms (medians of the same rounds),
        speedup with speedup_low and speedup_high (95 % interval), resolution (A/A), and the same of each further target
        with its name (`speedup[cpu@8]`), test_<metric> where it was judged, recipe, proposed (why it was tried), error,
        method, plugin, work_s.
        """
        rows = {
            number: {
                "state": outcome.state,
                **outcome.scores,
                **{f"test_{name}": value for name, value in self.test_scores.get(number, {}).items()},
                "recipe": str(recipe),
                "proposed": self.proposed[number].get("origin", ""),
                "error": outcome.error,
                "method": outcome.method,
                "plugin": outcome.plugin,
                "work_s": outcome.work_s,
            }
            for number, (recipe, outcome) in self.all_trials.items()
        }
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=self._columns())
        frame.index.name = "trial"
        return frame

    @property
    def front(self) -> pd.DataFrame:
        """The rows that meet the limits and that no other such row beats in quality, size and latency together."""
        feasible = {n: o.scores for n, (_, o) in self.all_trials.items() if o.state == "ok"}
        return self.trials.loc[pareto_front(feasible, self.objective)]

    def best(self, limits: Sequence[str] | None = None) -> Trial:
        """The trial that fits the limits best; the search's own limits when none are given.

        Raises NothingFits, naming the nearest trial, when none meets them, and InvalidInput for limits that this
        baseline makes no sense of.
        """
        wanted = self.limits if limits is None else parse_limits(limits, self.metrics, self.config.targets)
        check_against_baseline(wanted, self.baseline.scores)
        names = {number: str(recipe) for number, (recipe, _) in self.all_trials.items()}
        return self.trial(choose(self.scored, self.baseline.scores, self.objective, wanted, names))

    def trial(self, number: int) -> Trial:
        """One trial by number. Raises RunError when there is none or it was not scored."""
        if number not in self.scored:
            raise RunError(f"{self.path} has no scored trial {number}")
        recipe, outcome = self.all_trials[number]
        folder = trial_folder(self.path, number)
        return Trial(
            number, recipe, outcome, self.finals.get(number), folder, self._model, self._students, self.proposed[number]
        )

    def _columns(self) -> list[str]:
        names = [metric.name for metric in self.metrics]
        measured = ["latency_ms", "baseline_latency_ms", "speedup", "speedup_low", "speedup_high", "resolution"]
        suffixes = [target_suffix(target, self.config.targets) for target in self.config.targets]
        latency = [f"{name}{suffix}" for suffix in suffixes for name in measured]
        tests = [f"test_{name}" for name in names]
        return [
            "state",
            *names,
            "size_bytes",
            *latency,
            *tests,
            "recipe",
            "proposed",
            "error",
            "method",
            "plugin",
            "work_s",
        ]


def _recipe_of(trial: FrozenTrial) -> Recipe:
    return Recipe.parse(trial.user_attrs[RECIPE], f"trial {trial.number}")


def outcome_of(trial: FrozenTrial, file: str | Path = STUDY_FILE) -> Outcome | None:
    """How a trial of the study ended, if it did. Raises RunError, naming the study's file, where that is not told."""
    data = trial.user_attrs.get(OUTCOME)
    try:
        return None if data is None else Outcome(**data)
    except TypeError as error:
        raise RunError(_unreadable(file, trial, first_line(error))) from error


def _unreadable(file: str | Path, trial: FrozenTrial, reason: str) -> str:
    return f"{file} is damaged or of another version of autocompress: of trial {trial.number}, {reason}"


def _frozen_trials(database: Path) -> list[FrozenTrial]:
    if not database.is_file():
        return []
    try:
        study = optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{database}")
        return study.get_trials(deepcopy=False)
    except KeyError:  # its search died before it had made the study
        return []
    except Exception as error:  # SQLAlchemy on a file that may be damaged
        raise RunError(f"{database} is not readable: {first_line(error)}") from error


def _only_the_task_scores(outputs: Any, targets: Any) -> float:
    raise RunError("a run opened without its task cannot score: open it by the search that made it")
