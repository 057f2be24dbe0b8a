"""How many trainings are spent on recipes that cannot meet the limits, with screening and without.

    python benchmarks/screening.py --trials 60 --json out.json

Scikit-learn's digits, a small convolutional net, pruning and quantization. The limit on size is set where a tenth of
random recipes meet it, judged by what they would ship untrained; then the same search runs twice, with screening and
without, each in a folder of its own. A training is one that was done: what the store answers is none.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import autocompress
from autocompress import Budget, Recipe, Recovery, SearchSpace, Target, Task
from autocompress.artifact import shipped_bytes, write_model
from autocompress.compress import compress
from autocompress.outcome import INFEASIBLE, OK, SCREENED
from autocompress.plugins import registry
from autocompress.space import bind

TARGET = Target("cpu")
FEASIBLE = 0.1
"""The share of the space that the limit leaves."""
SPACE = SearchSpace.parse(
    {
        "methods": {
            "structured_magnitude": {"ratio": {"low": 0.1, "high": 0.9}},
            "structured_lamp": {"ratio": {"low": 0.1, "high": 0.9}},
            "int8_weight_only": None,
            "low_bit_weights": None,
            "float16_storage": None,
        },
        "recovery": {"epochs": [6], "batch_size": 32, "learning_rate": {"low": 1e-4, "high": 1e-2}},
    },
    "space",
)


def net() -> nn.Module:
    """(N, 1, 8, 8) -> (N, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


@functools.cache
def digits() -> Task:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = order[:1100], order[1100:1450], order[1450:]
    train, validation, test = (TensorDataset(images[rows], torch.tensor(data.target)[rows]) for rows in parts)
    torch.manual_seed(0)
    model, (inputs, targets) = net(), train.tensors
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(12):
        for rows in torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch)).split(32):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return Task(model=model.eval(), train=train, validation=validation, test=test, name="digits")


def untrained_bytes(recipe: Recipe) -> int:
    """What a recipe ships without its training."""
    recipe = Recipe(steps=recipe.steps, recovery=Recovery(epochs=0))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        made = compress(digits(), recipe, registry=registry(), target=TARGET)
        write_model(Path(folder), made, recipe, TARGET, registry())
        return shipped_bytes(Path(folder))


def limit_on_size(draws: int = 200) -> tuple[str, float]:
    """A limit that about a tenth of random recipes meet, and the share of these recipes that do."""
    space, rng = bind(SPACE, digits(), registry(), TARGET), random.Random(0)
    sizes = np.array([untrained_bytes(space.random_recipe(rng)) for _ in range(draws)]) / untrained_bytes(Recipe())
    percent = round(100 * float(np.quantile(sizes, FEASIBLE)), 1)
    return f"size <= {percent}% of baseline", float((sizes <= percent / 100).mean())


def searched(limit: str, screening: bool, trials: int, seed: int) -> dict[str, Any]:
    """One search, counted."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as runs:
        run = autocompress.search(
            digits(),
            space=SPACE,
            limits=[limit],
            budget=Budget(trials=trials),
            target=TARGET,
            runs=runs,
            seed=seed,
            latency_seconds=0.3,
            hardware_seconds=0,
            probe_seconds=0,
            screening=screening,
        )
        outcomes, savings = [outcome for _, outcome in run.all_trials.values()], run.savings
        best = run.front["accuracy"].max() if len(run.front) else None
    trained = [outcome for outcome in outcomes if outcome.training_s]
    wasted = [outcome for outcome in trained if outcome.state == INFEASIBLE]
    return savings.plain() | {  # whose `trainings` are those that recipes have, done or spared
        "screening": screening,
        "trials": len(outcomes),
        "trainings": len(trained),
        "on_infeasible": len(wasted),
        "share_on_infeasible": len(wasted) / len(trained) if trained else None,
        "screened": sum(outcome.state == SCREENED for outcome in outcomes),
        "feasible_trials": sum(outcome.state == OK for outcome in outcomes),
        "best_feasible_accuracy": best,
        "training_s": sum(outcome.training_s for outcome in trained),
        "wall_s": time.monotonic() - start,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trials", type=int, default=60)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    limit, feasible = limit_on_size()
    print(f"limit: {limit}, met by {feasible:.1%} of 200 random recipes")
    rows = [searched(limit, screening, given.trials, given.seed) for screening in (True, False)]
    names = ["screening", "trials", "trainings", "on_infeasible", "share_on_infeasible", "feasible_trials"]
    names += ["best_feasible_accuracy", "screened", "screening_s", "spared", "training_s", "wall_s"]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(_cell(row[name]) for name in names) + " |")
    if given.json:
        given.json.write_text(json.dumps({"limit": limit, "feasible": feasible, "searches": rows}, indent=1))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
