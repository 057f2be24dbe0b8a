"""The end of a search on two targets: finalists judged again in a fresh process, beside the hardware's limits."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import Tensor

from autocompress import ACCURACY, Budget, Metric, Recipe, Recovery, Run, SearchSpace, Step, Task, search
from autocompress.damage import Damage
from autocompress.measure.statistics import figures
from autocompress.report.final import final_lines
from autocompress.report.tables import print_result
from autocompress.selection import time_ratios
from tests.conftest import tiny_data, tiny_model

TARGETS = ("cpu@1", "cpu@64x2")
FIGURES = ("latency_ms", "baseline_latency_ms", "speedup", "speedup_low", "speedup_high", "resolution")


def process_of_scoring(outputs: Tensor, targets: Tensor) -> float:
    return float(os.getpid())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    task = Task(
        model=tiny_model,
        train=tiny_data(64, 1),
        validation=tiny_data(32, 2),
        test=tiny_data(64, 3),
        metrics=(ACCURACY, Metric("process", process_of_scoring)),
        name="finals",
    )
    return search(
        task,
        space=SearchSpace(methods={"int8_weight_only": None, "structured_magnitude": None}),
        recipes=[
            Recipe(
                steps=(Step(method="structured_magnitude", params={"ratio": 0.75, "round_to": 1}),),
                recovery=Recovery(epochs=1),
            )
        ],
        budget=Budget(trials=2),
        limits=["accuracy_drop <= 90%", "latency[cpu@64x2] <= 900% of baseline"],
        target=TARGETS,
        runs=tmp_path_factory.mktemp("runs"),
        latency_seconds=0.2,
        hardware_seconds=1,
        workers=1,
    )


def raw(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_each_target_has_its_own_figures_and_is_an_objective_of_its_own(run: Run) -> None:
    trial = run.trial(1)
    for name in FIGURES:
        assert {name, f"{name}[cpu@64x2]"} <= set(trial.scores)
        assert {name, f"{name}[cpu@64x2]"} <= set(run.trials.columns)
    assert trial.scores["latency_ms[cpu@64x2]"] != trial.scores["latency_ms"]
    assert time_ratios(trial.scores) == [1 / trial.scores["speedup"], 1 / trial.scores["speedup[cpu@64x2]"]]


def test_the_front_shows_each_target(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    print_result(run, Console(width=250))
    said = capsys.readouterr().out
    scores = run.trial(int(run.front.index[0])).scores
    assert "latency on cpu@1, cpu@64x2:" in said
    assert re.search(r"latency cpu@1 .*latency cpu@64x2 ", said)
    for end in ("", "[cpu@64x2]"):
        assert f" {scores[f'speedup{end}']:.2f}x " in said


def test_a_trials_figures_can_be_had_again_from_its_raw_samples(run: Run) -> None:
    for number in (0, 1):
        trial = run.trial(number)
        latency = raw(trial.path / "latency.json")
        assert tuple(latency) == TARGETS
        for target, end, batch in (("cpu@1", "", 1), ("cpu@64x2", "[cpu@64x2]", 64)):
            own, baseline, control = (latency[target][f"{kind}samples_ms"] for kind in ("", "baseline_", "control_"))
            again = figures(own, baseline, control, batch)
            assert {name: getattr(again, name) for name in FIGURES} == {
                name: trial.scores[f"{name}{end}"] for name in FIGURES
            }


def test_finalists_are_judged_in_a_process_that_carried_out_no_trial(run: Run) -> None:
    searched = {run.trial(number).scores["process"] for number in (0, 1)}
    judged = {final.test_scores["process"] for final in run.finals.values()}
    assert len(judged) == 1 and not judged & searched
    assert set(run.finals) == {0, *run.front.index}


def test_both_latencies_are_kept_and_the_difference_is_told(run: Run) -> None:
    final, searched = run.finals[1].scores, run.trial(1).scores
    assert set(final) == {f"{name}{end}" for name in FIGURES for end in ("", "[cpu@64x2]")}
    assert final["speedup"] != searched["speedup"]
    difference = final["speedup"] / searched["speedup"] - 1
    [line] = [line for line in final_lines(run, run.trial(1)) if line.startswith("Latency on cpu@1:")]
    assert line.endswith(f" {abs(difference):.1%} {'more' if difference > 0 else 'less'} than the search saw.")


def test_damage_is_judged_at_the_margin_that_the_limits_fix(run: Run) -> None:
    assert run.finals[0].damage is None
    final = run.finals[1]
    assert final.damage is not None and final.explanations is not None and final.representations is not None
    damage = Damage.from_plain(final.damage)
    assert damage.heads[0].kind == "classification" and damage.plain() == final.damage
    assert final.damage["heads"][0]["answers"]["verdict"]["margin"] == 0.9
    drop = run.baseline.test_scores["accuracy"] - final.test_scores["accuracy"]
    assert final.damage["heads"][0]["answers"]["accuracy"]["change"] == pytest.approx(-drop, abs=1e-6)


def test_every_byte_that_ships_has_a_layer(run: Run) -> None:
    size = run.finals[1].size
    assert size["size_bytes"] == sum(size["by_layer"].values()) == run.trial(1).scores["size_bytes"]
    assert size["by_layer"]["0"] == 4 * (8 * 4 + 4)


def test_the_page_shows_the_tables_and_draws_the_pictures_without_a_network(run: Run) -> None:
    page = (run.path / "report.html").read_text(encoding="utf-8")
    for heading in ("All trials", "Size on disk", "Classes", "Limits of cpu@1", "Limits of cpu@64x2"):
        assert f"<h2>{heading}</h2>" in page
    assert "Best: trial " in page and page.count("Plotly.newPlot(") == 5
    assert "<script src=" not in page and "no measurable difference" in page or "faster" in page


def test_the_hardwares_limits_and_free_acceleration_stand_beside_each_target(run: Run) -> None:
    assert tuple(run.surroundings) == TARGETS
    for target, threads in zip(TARGETS, (1, 2), strict=True):
        found = run.surroundings[target]
        assert found["limits"]["threads"] == threads
        batch = 1 if target == "cpu@1" else 64
        assert found["baseline"]["cost"]["macs"] == batch * (8 * 16 + 16 * 3)
        assert found["baseline"]["bounds"]["fused_ms"] > 0
        assert run.finals[1].costs[target]["cost"]["macs"] == batch * (8 * 4 + 4 * 3)
        assert run.finals[1].costs[target]["bounds"]["compute_ms"] < found["baseline"]["bounds"]["compute_ms"]
    lines = final_lines(run, run.trial(1))
    assert sum("the hardware's bound for it is" in line for line in lines) == 2
    assert sum("untouched model" in line and "is" in line for line in lines) >= 2
