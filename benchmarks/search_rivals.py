"""The front over time of a search beside plain Optuna under Ray Tune, on a real task, with the same methods.

    python benchmarks/search_rivals.py --data FOLDER --minutes 20 --seeds 3 --json out.json --figure out.html

The task is the Fashion-MNIST CNN of examples/fashion_mnist.py, the space the same for both, without known recipes: the
portfolio is switched off, since it holds what earlier searches found on this very data. The rival is Ray's own
OptunaSearch on the same worker: it proposes, every proposal is trained, shipped and measured as a search does it, with
no store, no screening, no stopping and no probe. For each seed both run at once, each with one worker and a processor
core of its own, which they swap from seed to seed: what else the machine does slows down both.

A front is scored by its hypervolume in accuracy (validation split), size and time, as shares of the baseline's, within
a box that ends 5 points below the baseline's accuracy and at the baseline's size and time: 1 is the baseline's accuracy
for nothing. The JSON file is written after each seed, and the same call again goes on from it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import autocompress
from autocompress import Budget, Recipe, SearchSpace, Target
from autocompress.outcome import Outcome, Savings
from autocompress.search.hypervolume import hypervolume
from autocompress.space import BoundSpace

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

SIDES = OURS, RIVAL = "autocompress", "OptunaSearch"
DROP = 0.05
"""Accuracy below the baseline's at which the box ends."""
QUARTER = 0.25
MARKS = (0.1, 0.2, 1 / 3, 0.5, 0.75, 1.0)
"""Shares of the time at which both sides are compared."""
TARGET = Target("cpu")
LATENCY_S = 1.0
SPACE = SearchSpace.parse(
    {
        "methods": {
            "structured_magnitude": {"ratio": {"low": 0.1, "high": 0.9}, "round_to": 8},
            "tucker2_conv": None,
            "soft_labels": {"temperature": {"low": 2, "high": 8}, "weight": {"low": 0.5, "high": 1}},
            "int8_weight_only": None,
            "int8_dynamic": None,
            "low_bit_weights": None,
            "onnx_int8_static": None,
            "onnx_runtime": None,
        },
        "recovery": {"epochs": {"low": 1, "high": 4}, "learning_rate": {"low": 5e-4, "high": 1e-2}, "batch_size": 128},
    },
    "space",
)
Row = dict[str, Any]
"""A scored trial: `seconds` since the search was called, its `recipe`, `accuracy`, `size` and `time` as shares."""
Curve = list[tuple[float, float]]
"""Seconds, and a height from then on."""


def ours(task: autocompress.Task, minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """The search with all it has but known recipes."""
    began = time.time()
    run = autocompress.search(
        task,
        space=SPACE,
        limits=[],
        budget=Budget(trials=None, hours=minutes / 60),
        target=TARGET,
        runs=folder,
        seed=seed,
        workers=1,
        latency_seconds=LATENCY_S,
        hardware_seconds=0,
        portfolio=False,
    )
    events = map(json.loads, (run.path / "events.jsonl").read_text().splitlines())
    ended = {event["trial"]: event["time"] for event in events if event["event"] == "finished"}
    scored = {number: (recipe, outcome) for number, (recipe, outcome) in run.all_trials.items() if outcome.scored}
    baseline = run.baseline.scores
    rows = [
        row(ended[number] - began, recipe, outcome, baseline["size_bytes"])
        for number, (recipe, outcome) in scored.items()
    ]
    states = run.trials["state"].value_counts().to_dict()
    return {
        "baseline": baseline["accuracy"],
        "rows": sorted(rows, key=seconds_of),
        "states": states,
        "savings": run.savings.plain(),
        "left_out": run.left_out,
    }


def seconds_of(row: Row) -> float:
    return float(row["seconds"])


def row(seconds: float, recipe: Recipe, outcome: Outcome, baseline_bytes: float) -> Row:
    scores = outcome.scores
    return {
        "seconds": seconds,
        "recipe": str(recipe),
        "accuracy": scores["accuracy"],
        "size": scores["size_bytes"] / baseline_bytes,
        "time": 1 / scores["speedup"],
    }


def optuna_search(task: autocompress.Task, minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """Ray's class with its own defaults; a trial that fails is lost, as it is to its users."""
    import ray
    from ray import tune

    from autocompress.plugins import registry
    from autocompress.search.ray_session import session
    from autocompress.search.trial import TrialContext
    from autocompress.space import bind

    began = time.time()
    (folder / "trials").mkdir(parents=True)
    context = TrialContext(task, (TARGET,), folder, seed, None, LATENCY_S)
    with session(1) as scratch:
        tuner = tune.Tuner(
            tune.with_parameters(scoring_worker(), context=ray.put(context)),
            tune_config=tune.TuneConfig(
                search_alg=recipe_searcher(bind(SPACE, task, registry(), TARGET), seed),
                num_samples=-1,
                reuse_actors=True,
                time_budget_s=60 * minutes,
            ),
            run_config=tune.RunConfig(
                storage_path=str(scratch),
                name="rival",
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        results = tuner.fit()
    whole = [result.metrics for result in results if "outcome" in (result.metrics or {})]
    baseline = untouched_bytes(task)
    rows = [
        row(
            told["ended"] - began,
            Recipe.parse(told["config"]["recipe"], "recipe"),
            Outcome.from_json(told["outcome"]),
            baseline,
        )
        for told in whole
    ]
    return {
        "rows": sorted(rows, key=seconds_of),
        "states": {"ok": len(rows), "lost": len(results.errors)},
    }


def scoring_worker() -> type[Any]:
    """Our worker, telling Ray the objectives."""
    from autocompress.search.worker import TrialWorker

    class Worker(TrialWorker):
        def step(self) -> dict[str, Any]:
            outcome = Outcome.from_json(super().step()["outcome"])
            scores = outcome.scores
            objectives = {"accuracy": scores["accuracy"], "bytes": scores["size_bytes"], "time": 1 / scores["speedup"]}
            return {"done": True, "outcome": outcome.to_json(), "ended": time.time(), **objectives}

    return Worker


def recipe_searcher(space: BoundSpace, seed: int) -> Any:
    """Ray's OptunaSearch over our space, handing the worker the recipe that its parameters make."""
    from ray.tune.search.optuna import OptunaSearch

    from autocompress.search.study import define, walk

    class Searcher(OptunaSearch):  # type: ignore[misc]
        number = 0

        def suggest(self, trial_id: str) -> Any:
            super().suggest(trial_id)
            recipe, self.number = define(space, self._ot_trials[trial_id]), self.number + 1
            return {"recipe": recipe.plain(), "number": self.number, "hurdles": None}

        def save(self, checkpoint_path: str) -> None:
            """Not at all: it would pickle the space, and nobody goes on with this search."""

    return Searcher(
        space=lambda trial: walk(space, trial),
        metric=["accuracy", "bytes", "time"],
        mode=["max", "min", "min"],
        seed=seed,
    )


def untouched_bytes(task: autocompress.Task) -> int:
    """What the baseline ships."""
    from autocompress.artifact import shipped_bytes, write_model
    from autocompress.compress import compress
    from autocompress.plugins import registry

    with tempfile.TemporaryDirectory() as folder:
        made = compress(task, Recipe(), registry=registry(), target=TARGET)
        write_model(Path(folder), made, Recipe(), TARGET, registry())
        return shipped_bytes(Path(folder))


def one_side(side: str, data: Path, minutes: float, seed: int, core: int) -> dict[str, Any]:
    """A whole search in this process and its children, on one core."""
    import torch
    from fashion_mnist import task

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    run = ours if side == OURS else optuna_search
    with tempfile.TemporaryDirectory() as folder:
        return run(task(data), minutes, seed, Path(folder) / "run")


def both_sides(data: Path, minutes: float, seed: int) -> dict[str, dict[str, Any]]:
    """Both searches at once, each with temporary files, and so a lock of the processor, of its own."""
    with tempfile.TemporaryDirectory() as folder:
        processes = {}
        for core, side in enumerate(SIDES):
            own = Path(folder) / side
            own.mkdir()
            asked = {"side": side, "data": str(data), "minutes": minutes, "seed": seed, "core": (core + seed) % 2}
            environment = os.environ | {"TMPDIR": str(own), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, "--side", json.dumps(asked | {"answer": str(own / "answer.json")})]
            processes[side] = subprocess.Popen(command, env=environment)
        try:
            for side, process in processes.items():
                if process.wait():
                    raise SystemExit(f"{side} ended with {process.returncode}")
        finally:
            for process in processes.values():
                process.terminate()
        return {side: json.loads((Path(folder) / side / "answer.json").read_text()) for side in processes}


def volumes(rows: Sequence[Row], baseline: float) -> Curve:
    """The hypervolume of the trials so far."""
    points = np.array([[(baseline - row["accuracy"]) / DROP, row["size"], row["time"]] for row in rows])
    return [(row["seconds"], hypervolume(points[: end + 1], np.ones(3))) for end, row in enumerate(rows)]


def small_accuracies(rows: Sequence[Row], baseline: float) -> Curve:
    """The best accuracy at a quarter of the size so far."""
    small = [row for row in rows if row["size"] <= QUARTER]
    return [(row["seconds"], max(other["accuracy"] for other in small[: end + 1])) for end, row in enumerate(small)]


CURVES = {"hypervolume": volumes, "accuracy at 1/4 size": small_accuracies}


def at(curve: Curve, seconds: float) -> float | None:
    """The height of a curve at a time; None before its first step."""
    return next((height for when, height in reversed(curve) if when <= seconds), None)


def reached(curve: Curve, height: float) -> float | None:
    """The seconds after which a curve is as high."""
    return next((seconds for seconds, now in curve if now >= height), None)


def table(seeds: dict[str, Any], minutes: float) -> str:
    """Both sides at marks of time, the mean over the seeds that have a value there, and how many those are."""
    lines = [
        f"{'':8}" + "".join(f"  {name:^28}" for name in CURVES),
        f"{'minutes':>8}" + f"  {OURS:>14}{RIVAL:>14}" * 2,
    ]
    for share in MARKS:
        line = f"{minutes * share:8.1f}"
        for draw_curve in CURVES.values():
            line += "  "
            for side in (OURS, RIVAL):
                curves = [draw_curve(seed[side]["rows"], seed[OURS]["baseline"]) for seed in seeds.values()]
                heights = [height for curve in curves if (height := at(curve, 60 * minutes * share)) is not None]
                told = f"{statistics.fmean(heights):.4f} ({len(heights)})" if heights else "-"
                line += f"{told:>14}"
        lines.append(line)
    return "\n".join(lines)


def verdict(name: str, seed: dict[str, Any], minutes: float) -> str:
    """When ours was as good as the rival in the end, and what was saved for it."""
    mine, theirs = (volumes(seed[side]["rows"], seed[OURS]["baseline"]) for side in (OURS, RIVAL))
    final = theirs[-1][1] if theirs else 0.0
    seconds = reached(mine, final)
    told = "never" if seconds is None else f"after {seconds / 60:.1f} min, {seconds / 60 / minutes:.0%} of the time"
    trials = [
        f"{side}: {', '.join(f'{count} {state}' for state, count in seed[side]['states'].items())}" for side in SIDES
    ]
    return "\n  ".join(
        [f"seed {name}: {OURS} has the rival's final {final:.4f} {told}, and {mine[-1][1]:.4f} in the end"]
        + trials
        + Savings(**seed[OURS]["savings"]).lines()
    )


def draw(seeds: dict[str, Any], minutes: float, file: Path) -> None:
    """Both curves over time, a step line for each seed."""
    from plotly.subplots import make_subplots

    figure = make_subplots(1, len(CURVES), subplot_titles=list(CURVES))
    for column, draw_curve in enumerate(CURVES.values(), start=1):
        for side, color in zip(SIDES, ("#1f77b4", "#ff7f0e"), strict=True):
            for name, seed in seeds.items():
                curve = draw_curve(seed[side]["rows"], seed[OURS]["baseline"])
                curve += [(60 * minutes, height) for _, height in curve[-1:]]
                figure.add_scatter(
                    x=[seconds / 60 for seconds, _ in curve], y=[height for _, height in curve], name=side,
                    mode="lines", line={"shape": "hv", "color": color}, legendgroup=side,
                    showlegend=column == 1 and name == "0", hovertext=f"seed {name}", row=1, col=column,
                )  # fmt: skip
    figure.update_xaxes(title="minutes", range=[0, minutes])
    figure.write_html(file, include_plotlyjs="cdn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder that holds FashionMNIST/raw")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        asked = json.loads(given.side)
        answer = Path(asked.pop("answer"))
        answer.write_text(json.dumps(one_side(**asked | {"data": Path(asked["data"])})))
        return
    found: dict[str, Any] = {"minutes": given.minutes, "seeds": {}}
    if given.json and given.json.is_file():
        found = json.loads(given.json.read_text())
        if found["minutes"] != given.minutes:
            raise SystemExit(f"{given.json} holds searches of {found['minutes']} minutes: name another file")
    for seed in range(given.seeds):
        if str(seed) not in found["seeds"]:
            sides = both_sides(given.data.resolve(), given.minutes, seed)
            found["seeds"][str(seed)] = sides
            if given.json:
                given.json.write_text(json.dumps(found, indent=1))
        print(verdict(str(seed), found["seeds"][str(seed)], given.minutes), flush=True)
    print(table(found["seeds"], given.minutes))
    if given.figure:
        draw(found["seeds"], given.minutes, given.figure)


if __name__ == "__main__":
    main()
