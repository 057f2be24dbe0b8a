"""Is a latency ratio measured here steadier than by other means, and are its verdicts right, on a machine under load?

    python benchmarks/latency_noise.py --json out.json

A second process loads all cores in bursts meanwhile. In each of 20 repeats, with models built anew, the same model is
measured beside a copy of itself (A/A) and beside one with a layer more of twenty (a true 5 %): by `measure_latency`, by
`torch.utils.benchmark` for as long, and by a plain mean of 100 runs. Takes about six minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils import benchmark  # noqa: E402

from autocompress import Target  # noqa: E402
from autocompress.measure.device import hardware_name  # noqa: E402
from autocompress.measure.latency import Latency, measure_latency  # noqa: E402
from autocompress.measure.load import OtherLoad  # noqa: E402
from autocompress.measure.statistics import Verdict  # noqa: E402

TARGET = Target("cpu", batch_size=8)
LAYERS, WIDTH = 20, 64
BURST_S = (0.05, 0.5)
"""Shortest and longest burst of load, and pause between bursts; each core on its own."""
MEAN_RUNS = 100
OURS, TORCH, MEAN = "autocompress", "torch.utils.benchmark", f"mean of {MEAN_RUNS} runs"
BASELINE, SAME, SLOWER = "baseline", "A/A", "5 % slower"


@dataclass
class Contender:
    """A way to get the ratio of the baseline's time by the model's, and the ratios it gave by comparison."""

    ratio: Callable[[nn.Module, nn.Module], float]
    ratios: dict[str, list[float]] = field(default_factory=lambda: {SAME: [], SLOWER: []})

    def spread(self, comparison: str) -> float:
        """Interquartile range by median."""
        low, middle, high = np.quantile(self.ratios[comparison], [0.25, 0.5, 0.75])
        return float((high - low) / middle)


def network(layers: int) -> nn.Module:
    """(B, 64) -> (B, 64); its weights, 330 kB, fit a core's own cache."""
    return nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU()))).eval()


class Ours:
    """Measures, and keeps the records."""

    def __init__(self, inputs: torch.Tensor, seconds: float) -> None:
        self.inputs, self.seconds = inputs, seconds
        self.records: list[Latency] = []

    def __call__(self, model: nn.Module, baseline: nn.Module) -> float:
        self.records.append(measure_latency(model, baseline, self.inputs, TARGET, self.seconds))
        return self.records[-1].speedup


def by_torch(inputs: torch.Tensor, seconds: float) -> Callable[[nn.Module, nn.Module], float]:
    """Medians of `blocked_autorange`, which both models together get as long as a measurement of ours may take."""

    @torch.inference_mode()
    def median_s(model: nn.Module) -> float:
        timer = benchmark.Timer("model(inputs)", globals={"model": model, "inputs": inputs}, num_threads=1)
        return float(timer.blocked_autorange(min_run_time=seconds / 2).median)

    return lambda model, baseline: median_s(baseline) / median_s(model)


def by_mean(inputs: torch.Tensor) -> Callable[[nn.Module, nn.Module], float]:
    """What most scripts do: 10 calls of warm-up, then the mean of 100."""

    @torch.inference_mode()
    def mean_s(model: nn.Module) -> float:
        for _ in range(10):
            model(inputs)
        start = time.perf_counter()
        for _ in range(MEAN_RUNS):
            model(inputs)
        return (time.perf_counter() - start) / MEAN_RUNS

    return lambda model, baseline: mean_s(baseline) / mean_s(model)


def compare(repeats: int, seconds: float) -> tuple[dict[str, Contender], dict[str, list[Latency]]]:
    """All contenders on the same models, in random order, and our records by comparison."""
    inputs = torch.randn(TARGET.batch_size, WIDTH)
    ours = Ours(inputs, seconds)
    contenders = {
        OURS: Contender(ours),
        TORCH: Contender(by_torch(inputs, seconds)),
        MEAN: Contender(by_mean(inputs)),
    }
    records: dict[str, list[Latency]] = {SAME: [], SLOWER: []}
    order = random.Random(0)
    for repeat in track(range(repeats), "repeats", console=Console(stderr=True)):
        torch.manual_seed(repeat)
        layers = {BASELINE: LAYERS, SAME: LAYERS, SLOWER: LAYERS + 1}
        # where its weights lie makes a model up to 2 % faster or slower, so none has the first place for ever
        models = {name: network(layers[name]) for name in order.sample(list(layers), len(layers))}
        baseline = models.pop(BASELINE)
        turns = [(name, comparison) for name in contenders for comparison in (SAME, SLOWER)]
        for name, comparison in order.sample(turns, len(turns)):
            contenders[name].ratios[comparison].append(contenders[name].ratio(models[comparison], baseline))
            if name == OURS:
                records[comparison].append(ours.records[-1])
    return contenders, records


@contextmanager
def loaded_in_bursts() -> Iterator[None]:
    """With a second process that loads all cores."""
    process = subprocess.Popen([sys.executable, __file__, "--load"], env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    time.sleep(1)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def load_cores() -> None:
    """Until the parent ends: on a thread for each core, matrix products in bursts."""
    parent = os.getppid()

    def bursts(seed: int) -> None:
        dice, matrix = random.Random(seed), np.random.default_rng(seed).random((256, 256))
        while True:
            end = time.monotonic() + dice.uniform(*BURST_S)
            while time.monotonic() < end:
                matrix @ matrix
            time.sleep(dice.uniform(*BURST_S))

    for seed in range(os.cpu_count() or 1):
        threading.Thread(target=bursts, args=(seed,), daemon=True).start()
    while os.getppid() == parent:
        time.sleep(1)


def table(contenders: dict[str, Contender]) -> Table:
    shown = Table("", *(f"{c}: median ratio" for c in (SAME, SLOWER)), *(f"{c}: IQR/median" for c in (SAME, SLOWER)))
    for name, contender in contenders.items():
        medians = [f"{np.median(contender.ratios[c]):.4f}" for c in (SAME, SLOWER)]
        shown.add_row(name, *medians, *(f"{contender.spread(c):.2%}" for c in (SAME, SLOWER)))
    return shown


def judge(contenders: dict[str, Contender], records: dict[str, list[Latency]]) -> list[tuple[bool, str]]:
    """What must hold, and whether it does."""
    checks = []
    for comparison in (SAME, SLOWER):
        spread = {name: contender.spread(comparison) for name, contender in contenders.items()}
        bound = min(spread[TORCH], spread[MEAN]) / 2
        said = f"spread {comparison}: {spread[OURS]:.2%}, at most half of the better of the others: {bound:.2%}"
        checks.append((spread[OURS] <= bound, said))
    for comparison, verdict, share in ((SAME, Verdict.TIE, 0.95), (SLOWER, Verdict.SLOWER, 0.9)):
        right = sum(record.verdict == verdict for record in records[comparison])
        count = len(records[comparison])
        said = f"{comparison}: '{verdict}' in {right} of {count}, at least {share * count:g}"
        checks.append((right >= share * count, said))
    return checks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=4.0, help="the longest that one of our measurements may take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load_cores()
        return
    torch.set_num_threads(1)
    start = time.monotonic()
    with loaded_in_bursts():
        load = OtherLoad()
        contenders, records = compare(arguments.repeats, arguments.seconds)
        share = load.share()
    console = Console() if sys.stdout.isatty() else Console(width=120)
    busy = "" if share is None else f", {share:.0%} busy with other processes"
    console.print(f"{hardware_name(TARGET)}, {os.cpu_count()} cores{busy}, {time.monotonic() - start:.0f} s")
    console.print(table(contenders))
    checks = judge(contenders, records)
    for passed, text in checks:
        console.print(f"{'pass' if passed else 'FAIL'}  {text}", markup=False, highlight=False)
    if arguments.json:
        data: dict[str, Any] = {
            "hardware": hardware_name(TARGET),
            "other_load": share,
            "ratios": {name: contender.ratios for name, contender in contenders.items()},
            "checks": [{"passed": passed, "text": text} for passed, text in checks],
            "records": {comparison: [record.plain() for record in kept] for comparison, kept in records.items()},
        }
        arguments.json.write_text(json.dumps(data))
    sys.exit(not all(passed for passed, _ in checks))


if __name__ == "__main__":
    main()
