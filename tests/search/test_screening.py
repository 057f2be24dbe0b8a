"""Screening: the hopeless are not trained, and nobody else notices. No Ray."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from autocompress import Artifact, Method, Plan, Recipe, Recovery, Step, Target, Task, Technique
from autocompress.compress import Compression, resolve, train_recipe
from autocompress.folders import trial_folder
from autocompress.limits import parse_limits
from autocompress.outcome import OK, SCREENED, Outcome
from autocompress.plugins import Plugin, Registry, registry
from autocompress.search.prefixes import StoreAccess
from autocompress.search.screening import Hurdles, Screening, at_best, is_ahead, judgeable
from autocompress.search.trial import TrialContext, TrialRunner
from autocompress.testing_tasks import images

CPU = Target("cpu")
SCORES = {"size_bytes": 1000.0, "speedup": 2.0, "speedup_high": 2.2, "resolution": 0.1, "latency_ms": 1.0}
SCORES |= {"baseline_latency_ms": 2.0}


def recipe(*methods: str, epochs: int = 1) -> Recipe:
    written = Recipe(steps=tuple(Step(method=name) for name in methods), recovery=Recovery(epochs=epochs))
    return resolve(written, registry(), images())


PRUNED = recipe("structured_magnitude", "int8_weight_only")


class Runner:
    """Runs trials in this process."""

    def __init__(self, folder: Path, limits: Sequence[str] = (), store: bool = False) -> None:
        self.folder = folder
        parsed = parse_limits(limits, images().metrics)
        access = StoreAccess(str(folder / "store"), 10**8, "task") if store else None
        self.runner = TrialRunner(TrialContext(images(), (CPU,), folder, 0, None, 0.05, access, parsed))

    def __call__(self, number: int, recipe: Recipe, hurdles: Hurdles | None) -> Outcome:
        return self.runner.run(number, recipe, hurdles)

    def log(self, number: int) -> str:
        return (trial_folder(self.folder, number) / "log.txt").read_text()


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return Runner(tmp_path_factory.mktemp("baseline"))(0, Recipe(), None).scores


@pytest.mark.parametrize(
    ("limit", "measured", "reason"),
    [
        ("size <= 5% of baseline", False, "beyond 'size <= 5% of baseline'"),
        ("speedup >= 1000x", True, "beyond 'speedup >= 1000x'"),
        ("latency <= 0.001 us", True, "beyond 'latency <= 0.001 us'"),
    ],
)
def test_what_breaks_a_limit_is_not_trained(
    limit: str, measured: bool, reason: str, baseline: dict[str, float], tmp_path: Path
) -> None:
    run = Runner(tmp_path, [limit])
    outcome = run(1, PRUNED, Hurdles(baseline))
    assert outcome.state == SCREENED and reason in outcome.error
    assert outcome.training_s == 0 and 0 < outcome.screening_s < outcome.work_s
    assert 0 < outcome.scores["size_bytes"] < baseline["size_bytes"]
    assert ("speedup" in outcome.scores) == measured
    assert "epoch" not in run.log(1) and reason in run.log(1)
    assert sorted(file.name for file in trial_folder(tmp_path, 1).iterdir()) == ["log.txt", "outcome.json"]


def test_who_passes_ends_as_without_screening(baseline: dict[str, float], tmp_path: Path) -> None:
    run = Runner(tmp_path, ["size <= 90% of baseline", "accuracy >= 100%"])
    outcomes = [run(number, PRUNED, hurdles) for number, hurdles in ((1, Hurdles(baseline)), (2, None))]
    assert [outcome.state for outcome in outcomes] == [OK, OK]
    assert outcomes[0].screening_s > 0 == outcomes[1].screening_s
    assert outcomes[0].scores["size_bytes"] == outcomes[1].scores["size_bytes"]
    screened, other = (load_file(trial_folder(tmp_path, number) / "weights.safetensors") for number in (1, 2))
    assert all(torch.equal(screened[name], other[name]) for name in other)
    assert (run.log(1).count("int8_weight_only (finalize)"), run.log(2).count("int8_weight_only (finalize)")) == (1, 1)
    Artifact(trial_folder(tmp_path, 1)).verify()


def test_who_cannot_enter_the_front_is_not_trained(baseline: dict[str, float], tmp_path: Path) -> None:
    run = Runner(tmp_path)
    rival = {"accuracy": 0.9, "size_bytes": 1.0, "speedup": 1000.0}
    outcome = run(1, PRUNED, Hurdles(baseline, (rival,)))
    assert outcome.state == SCREENED and "smaller and faster" in outcome.error
    larger = rival | {"size_bytes": 1e9}
    assert run(2, recipe("structured_lamp"), Hurdles(baseline, (larger,))).state == OK


def test_what_was_trained_before_is_not_screened(baseline: dict[str, float], tmp_path: Path) -> None:
    run = Runner(tmp_path, ["size <= 5% of baseline"], store=True)
    assert run(1, PRUNED, None).training_s > 0
    again = run(2, recipe("structured_magnitude"), Hurdles(baseline))
    assert again.spared_s > 0 == again.screening_s and again.state == OK


def test_zeros_that_come_with_training_are_waited_for(baseline: dict[str, float], tmp_path: Path) -> None:
    run = Runner(tmp_path, ["size <= 50% of baseline"])
    outcome = run(1, recipe("unstructured_magnitude"), Hurdles(baseline))
    assert outcome.state == OK and "not screened: its size comes with training" in run.log(1)


class Needy(Method):
    """Finalizes only what was trained."""

    name = "needy"
    technique = Technique.QUANTIZATION

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        model.register_buffer("extra", torch.zeros(1))
        return model

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        raise ValueError("it was not trained")


def test_what_fails_without_training_is_trained(
    task: Task, baseline: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screening = Screening(task, [CPU], parse_limits(["size <= 1 B"], task.metrics), 0.05)
    wanted = Recipe(steps=(Step(method="needy"),), recovery=Recovery(epochs=1))
    look: Any = functools.partial(
        screening, recipe=wanted, hurdles=Hurdles(baseline), baselines=dict, scratch=tmp_path / "scratch"
    )
    plugins = Registry((Plugin("needy", "needy", "1.0", (Needy(),)),))
    trained = train_recipe(task, wanted, registry=plugins, target=CPU, before_training=look)
    assert trained.training_s > 0 and not (tmp_path / "scratch").exists()
    assert "not screened: ValueError: it was not trained" in capsys.readouterr().out


def test_screening_that_takes_longer_than_training_is_left_out(
    baseline: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screening = Screening(images(), [CPU], (), 0.05)

    def look(work: Compression) -> None:
        for epochs in (1, 1, 1, 10**9):
            screening(
                work, recipe("structured_magnitude", epochs=epochs), Hurdles(baseline), dict, tmp_path / "scratch"
            )
            screening.trained(1e-6, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(images(), recipe("structured_magnitude"), registry=registry(), target=CPU, before_training=look)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not screened")]
    assert len(said) == 4 and "training takes less" in said[2]  # the first training of a process tells nothing
    tried = "not screened: KeyError: 'cpu'"  # there is no baseline to measure beside
    assert said[0] == said[1] == said[3] == tried


def test_what_other_finalizers_took_tells_of_those_that_were_not_screened_yet(
    baseline: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screening = Screening(images(), [CPU], (), 0.05)
    for _ in range(2):
        screening.trained(1e-6, 1)
    for wanted in (recipe("structured_magnitude"), PRUNED, recipe("structured_magnitude", "float16_storage")):
        work = Compression(images(), lambda method: None)
        work.reshape([(registry().get(step.method), step.params) for step in wanted.steps], {})
        screening(work, wanted, Hurdles(baseline), dict, tmp_path / "scratch")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not screened")]
    assert "KeyError" in said[0] and all("training takes less" in line for line in said[1:]) and len(said) == 3


def test_a_part_of_a_training_counts_its_own_epochs() -> None:
    wanted = recipe("structured_magnitude", epochs=3)
    half = train_recipe(images(), wanted, registry=registry(), target=CPU, until=lambda done: 1)
    rest = train_recipe(images(), wanted, registry=registry(), target=CPU, begun=half.trained())
    assert (half.epochs, rest.epochs) == (1, 2)
    assert train_recipe(images(), wanted, registry=registry(), target=CPU, begun=rest.trained()).epochs == 0


def test_what_measuring_may_be_off_by_counts_in_favour() -> None:
    best = at_best(SCORES, {"latency_ms": 3.0})
    assert best["size_bytes"] == pytest.approx(980)
    assert best["speedup"] == pytest.approx(2.42) and best["latency_ms"] == pytest.approx(2 / 2.42)


def test_a_slow_moment_of_the_machine_counts_in_favour() -> None:
    slow = SCORES | {"latency_ms": 3.0, "baseline_latency_ms": 6.0}  # all of it three times as slow as usual
    assert at_best(slow, {"latency_ms": 2.0})["latency_ms"] == pytest.approx(2 / 2.42)


@pytest.mark.parametrize(
    ("rival", "ahead"),
    [
        ({"size_bytes": 500, "speedup": 4.0}, True),
        ({"size_bytes": 950, "speedup": 4.0}, False),
        ({"size_bytes": 500, "speedup": 2.1}, False),
    ],
)
def test_a_rival_must_be_clearly_smaller_and_faster(rival: dict[str, float], ahead: bool) -> None:
    assert is_ahead(rival, SCORES) == ahead
    assert not is_ahead(rival, {"size_bytes": 1000.0})


def test_limits_are_judged_by_what_is_known() -> None:
    texts = ["size <= 1 B", "size >= 1 B", "latency <= 1 ms", "speedup >= 2x", "accuracy >= 90%"]
    limits = parse_limits(texts, images().metrics)
    assert [judgeable(limit, {"size_bytes": 5}) for limit in limits] == [True, False, False, False, False]
    assert [judgeable(limit, SCORES) for limit in limits] == [True, False, True, True, False]


def test_hurdles_travel_as_json(baseline: dict[str, float]) -> None:
    hurdles = Hurdles(baseline, (SCORES, SCORES))
    assert Hurdles.from_json(hurdles.to_json()) == hurdles
