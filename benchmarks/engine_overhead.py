"""What the engine costs beyond the work: a search whose methods do nothing, beside Ray's OptunaSearch.

    python benchmarks/engine_overhead.py --trials 200 --json out.json
    python benchmarks/engine_overhead.py --suggesting --json out.json

With `--suggesting`, only the processor time of a proposal after many trials: three objectives, two limits, 15
conditional parameters, of our sampler and of Optuna's TPE; the study is in memory, so that only the sampler is timed.

Overhead of a trial: wall time of the whole search, start and end included, less the seconds that its trials spent
compressing and scoring, by the number of trials; one trial at a time, so that nothing hides behind anything.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

import autocompress

PLUGIN = '''
import torch
from autocompress import Float, Integer, Method, Technique, hookimpl

class Nothing(Method):
    """Adds an identity, so that it counts as a change."""

    name = "nothing"
    technique = Technique.ACCELERATION

    def search_space(self, task):
        return {"x": Float(0.0, 1.0, 0.5), "y": Float(0.0, 1.0, 0.5), "n": Integer(1, 100, 1)}

    def finalize(self, model, plan, task, target):
        model.add_module("nothing", torch.nn.Identity())
        return model

    def restore(self, model, plan, target):
        model.add_module("nothing", torch.nn.Identity())
        return model

@hookimpl
def autocompress_methods():
    return [Nothing()]
'''
HISTORIES = (100, 1000, 5000)
"""Finished trials before a timed proposal."""
TICKS = (10, 100, 200)
"""Trial counts at which the time of a suggestion is told."""


class Tiny(nn.Module):
    """Two classes from four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, 4) -> (B, 2)
        return torch.as_tensor(self.linear(x))


def install_plugin(folder: Path) -> None:
    """The plugin as a distribution on the path of this process and of the workers."""
    (folder / "nothing_plugin.py").write_text(PLUGIN)
    info = folder / "nothing_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nothing-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autocompress]\nnothing = nothing_plugin\n")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def tiny_task() -> autocompress.Task:
    data = TensorDataset(torch.randn(8, 4), torch.randint(0, 2, (8,)))
    return autocompress.Task(model=Tiny(), train=data, validation=data, test=data, name="overhead")


def ours(trials: int, folder: Path) -> dict[str, Any]:
    """The engine, from the call to the result."""
    space = autocompress.SearchSpace(methods={"nothing": None})
    start = time.perf_counter()
    run = autocompress.search(
        tiny_task(),
        space=space,
        limits=[],
        budget=autocompress.Budget(trials=trials),
        target="cpu@1",
        runs=folder,
        workers=1,
        latency_seconds=0.05,
        hardware_seconds=0,
        probe_seconds=0,
        progress=False,
    )
    wall = time.perf_counter() - start
    states = run.trials["state"].value_counts().to_dict()
    work = float(run.trials["work_s"].sum())
    return {
        "trials": len(run.trials),
        "states": states,
        "wall_s": wall,
        "work_s": work,
        "overhead_s_per_trial": (wall - work) / trials,
        "suggestion_ms": suggestion_times(folder / "overhead" / "events.jsonl"),
    }


def suggestion_times(events: Path) -> dict[str, float]:
    """Milliseconds of the suggestion at each tick, the median over the ten proposals before it."""
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    times = [1e3 * row["suggested_in_s"] for row in rows if row["event"] == "started"]
    return {str(tick): sorted(times[tick - 10 : tick])[5] for tick in TICKS if tick <= len(times)}


def optuna_search(trials: int, folder: Path) -> dict[str, Any]:
    """Ray's OptunaSearch with reused actors on a trainable that does nothing: no scoring, no files, no study."""
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from autocompress.search.chatter import log_records_to, ray_messages_to
    from autocompress.search.ray_session import session

    class NoOp(tune.Trainable):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            return {"done": True, "a": self.config["x"], "b": self.config["y"], "c": self.config["n"]}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    times: list[float] = []

    class Timed(OptunaSearch):  # type: ignore[misc]
        def suggest(self, trial_id: str) -> Any:
            start = time.perf_counter()
            suggestion = super().suggest(trial_id)
            times.append(1e3 * (time.perf_counter() - start))
            return suggestion

    space = {"x": tune.uniform(0, 1), "y": tune.uniform(0, 1), "n": tune.randint(1, 100)}
    log = folder / "rival.log"
    start = time.perf_counter()
    with session(1) as scratch, ray_messages_to(log), log_records_to(log, "optuna"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the options of this sampler are called experimental
        sampler = optuna.samplers.TPESampler(multivariate=True, group=True, seed=0)
        tune.Tuner(
            NoOp,
            param_space=space,
            tune_config=tune.TuneConfig(
                search_alg=Timed(metric=["a", "b", "c"], mode=["max", "min", "min"], sampler=sampler),
                num_samples=trials,
                max_concurrent_trials=1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=str(scratch),
                name="rival",
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
    wall = time.perf_counter() - start
    ticks = {str(tick): sorted(times[tick - 10 : tick])[5] for tick in TICKS if tick <= len(times)}
    return {"trials": trials, "wall_s": wall, "overhead_s_per_trial": wall / trials, "suggestion_ms": ticks}


def conditional_space() -> Any:
    """Five techniques and ten parameters that matter only with one of their methods, or with a training."""
    from autocompress import Choice, Float, Integer, Technique
    from autocompress.openings import Openings
    from autocompress.space import BoundSpace

    ratio, bits = Float(0.1, 0.9, 0.5, step=0.05), Choice((8, 4), 8)
    methods: dict[Technique, dict[str, dict[str, Any]]] = {
        Technique.PRUNING: {"cut": {"ratio": ratio, "rounds": Integer(1, 8, 1)}, "mask": {"share": ratio}},
        Technique.FACTORIZATION: {"svd": {"rank": ratio}},
        Technique.DISTILLATION: {"logits": {"temperature": Float(1, 8, 4), "weight": Float(0, 1, 0.5)}},
        Technique.QUANTIZATION: {"static": {"bits": bits}, "grouped": {"bits": bits, "group": Choice((32, 64), 32)}},
        Technique.ACCELERATION: {"compile": {}},
    }
    recovery = {"learning_rate": Float(1e-4, 1e-2, 1e-3, log=True)}
    return BoundSpace(
        {name: parameters for offered in methods.values() for name, parameters in offered.items()},
        Openings({technique: tuple(offered) for technique, offered in methods.items()}),
        recovery,
        frozenset({"cut", "svd", "logits"}),
    )


def suggesting() -> dict[str, dict[str, float]]:
    """Processor seconds of a proposal by sampler and number of finished trials: the worst of three."""
    import optuna

    from autocompress.search.candidates import Space
    from autocompress.search.sampler import GreyBoxSampler
    from autocompress.search.study import walk

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")  # options of TPE are called experimental
    bound = conditional_space()
    space = Space(functools.partial(walk, bound))
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "GreyBoxSampler": lambda: GreyBoxSampler(space.define, exploration=0.0),
        "TPESampler": lambda: optuna.samplers.TPESampler(multivariate=True, group=True, seed=0),
    }
    times: dict[str, dict[str, float]] = {name: {} for name in samplers}
    for count in HISTORIES:
        trials = finished_trials(space, count + 3)
        for name, make in samplers.items():
            study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=make())
            study.add_trials(trials[:count])
            walk(bound, study.ask())  # what is read once
            worst = 0.0
            for trial in trials[count:]:
                study.add_trial(trial)
                start = time.process_time()
                walk(bound, study.ask())
                worst = max(worst, time.process_time() - start)
            times[name][str(count)] = worst
    return times


def finished_trials(space: Any, count: int) -> list[Any]:
    """Random recipes with made-up scores that depend on them, a third of them infeasible."""
    from optuna.trial import create_trial

    rng = random.Random(0)
    made = []
    for _ in range(count):
        params = space.at_random(rng)
        kept = 1 - params.get("cut.ratio", params.get("mask.share", 0.0))
        size = kept**2 * params.get("svd.rank", 1.0) * params.get("static.bits", params.get("grouped.bits", 32)) / 32
        accuracy = 0.95 - 0.3 * (1 - kept) ** 3 - 0.1 * (1 - params.get("svd.rank", 1.0)) ** 2 + rng.gauss(0, 0.005)
        values = [accuracy, 1e6 * size, kept * (0.6 if params["acceleration"] == "compile" else 1.0)]
        limits = {"size <= 50%": size / 0.5 - 1, "accuracy >= 80%": 0.8 - accuracy}
        distributions = {name: space.distributions[name] for name in params}
        made.append(create_trial(params=params, distributions=distributions, values=values, constraints=limits))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--suggesting", action="store_true", help="only the time of a proposal after many trials")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.suggesting:
        times = suggesting()
        for name, by_count in times.items():
            ticks = ", ".join(f"{count}: {1e3 * seconds:.0f} ms" for count, seconds in by_count.items())
            print(f"{name:14s} a proposal after {ticks}")
        if arguments.json:
            arguments.json.write_text(json.dumps(times, indent=1))
        return
    with tempfile.TemporaryDirectory(prefix="ac") as name:
        folder = Path(name)
        install_plugin(folder)
        rows = {
            "autocompress": ours(arguments.trials, folder / "runs"),
            "OptunaSearch": optuna_search(arguments.trials, folder),
        }
    for label, row in rows.items():
        ticks = ", ".join(f"{tick}: {value:.0f} ms" for tick, value in row["suggestion_ms"].items())
        print(f"{label:14s} {row['overhead_s_per_trial']:.3f} s overhead a trial; suggestion at {ticks}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
