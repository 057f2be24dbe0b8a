"""Every installed method, alone with its defaults, on every family of models: what it saves, costs and changes.

    python benchmarks/method_matrix.py --json benchmarks/method_matrix.json

What is in the file already is kept, so an interrupted run is continued by the same command; `--again` runs the chosen
methods and families anew. `python -m benchmarks.methods_document` then writes what was found into docs/methods.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import date
from multiprocessing import TimeoutError, get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from autocompress import NotApplicable, Recipe, Target
from autocompress.artifact import load_model, shipped_bytes, write_model
from autocompress.compress import Compressed, compress
from autocompress.effect import output_error, outputs
from autocompress.errors import first_line
from autocompress.measure.accuracy import evaluate
from autocompress.measure.device import hardware_name
from autocompress.measure.latency import measure_latency
from autocompress.plugins import registry
from autocompress.tensors import to_device
from autocompress.testing import alone_in_recipe, compress_alone
from autocompress.testing_families import FAMILIES

Cell = dict[str, Any]
"""What a method did to a family, `{"not_applicable": reason}`, or `{"failure": error}`."""
Matrix = dict[str, Any]
"""`{"machine": {...}, "cells": {method: {family: Cell}}}`."""

LONGEST = 300
"""Characters kept of a failure: some list all that they know."""
FILE = Path(__file__).with_name("method_matrix.json")


@functools.cache
def baseline(family: str, target: Target) -> tuple[Compressed, int]:
    """The family's uncompressed model on the target's device, and the bytes of its artifact."""
    made = compress(FAMILIES[family](), Recipe(), registry=registry(), target=target)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), made, Recipe(), target, registry())
        return made, shipped_bytes(Path(folder))


def measure(method_name: str, family: str, target: Target, seconds: float) -> Cell:
    """One cell; what is loaded from the artifact is what is measured."""
    method, task = registry().get(method_name), FAMILIES[family]()
    try:
        method.check(task, target)
    except NotApplicable as reason:
        return {"not_applicable": str(reason)}
    start = time.monotonic()
    untouched, bytes_before = baseline(family, target)
    compressed = compress_alone(method, task, target)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, compressed, alone_in_recipe(method), target, registry())
        bytes_after = shipped_bytes(folder)
        model = load_model(folder, task.source(compressed.student), registry(), target, native_code=True)
        inputs = to_device(task.inputs(32), target.torch_device)
        error = output_error(outputs(model, inputs), outputs(untouched.model, inputs))
        objective = task.objective.name
        before, after = (evaluate(each, task.validation, task, target)[objective] for each in (untouched.model, model))
        latency = measure_latency(model, untouched.model, task.inputs(target.batch_size), target, seconds)
    return {
        "bytes_before": bytes_before,
        "bytes_after": bytes_after,
        "time_ratio": 1 / latency.speedup,
        "time_ratio_low": 1 / latency.speedup_high,
        "time_ratio_high": 1 / latency.speedup_low,
        "output_error": error,
        "metric": objective,
        "metric_before": before,
        "metric_after": after,
        "seconds": seconds,
        "took_s": time.monotonic() - start,
    }


def attempt(method_name: str, family: str, target: Target, seconds: float) -> Cell:
    """`measure`, whatever happens; in a process of its own, quietly."""
    torch.set_num_threads(target.threads)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries: nothing that a figure would say more with
            return rounded(measure(method_name, family, target, seconds))
    except Exception as error:  # a defect of the method, or of the engine
        return {"failure": first_line(error)[:LONGEST]}


def cells(
    todo: Sequence[tuple[str, str]], target: Target, seconds: float, limit: float
) -> Iterator[tuple[tuple[str, str], Cell]]:
    """Each cell as it is ready. They share a worker process, which is replaced when one takes longer than `limit` s."""
    pool = _pool()
    try:
        for key in todo:
            try:
                cell = pool.apply_async(attempt, (*key, target, seconds)).get(limit)
            except TimeoutError:  # also when native code brought the process down: a pool does not tell
                pool.terminate()
                pool, cell = _pool(), {"failure": f"no answer within {limit:g} s"}
            yield key, cell
    finally:
        pool.terminate()


def _pool() -> Pool:
    return get_context("spawn").Pool(1)


def rounded(cell: Cell) -> Cell:
    """Figures to four digits: more is noise, and the file is kept with the sources."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in cell.items()}


def read(path: Path = FILE) -> Matrix:
    """A recorded matrix; an empty one where there is no file."""
    matrix: Matrix = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"machine": {}, "cells": {}}
    return matrix


def write(matrix: Matrix, path: Path) -> None:
    """Whole or not at all, with one line a cell, so that a difference between two recordings can be read."""
    methods = [
        f" {json.dumps(method)}: {{\n"
        + ",\n".join(f"  {json.dumps(family)}: {json.dumps(row[family])}" for family in sorted(row))
        + "\n }"
        for method, row in sorted(matrix["cells"].items())
    ]
    partial = path.with_suffix(".partial")
    partial.write_text(
        f'{{"machine": {json.dumps(matrix["machine"])},\n"cells": {{\n' + ",\n".join(methods) + "\n}}\n",
        encoding="utf-8",
    )
    os.replace(partial, path)


def machine(target: Target) -> dict[str, Any]:
    return {
        "date": str(date.today()),
        "target": str(target),
        "hardware": hardware_name(target),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main() -> None:
    methods = list(registry().methods)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=FILE, help="where cells are kept, and taken from")
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, metavar="NAME")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--device", default="cpu@1", help="a target: cpu@1, cuda:0@32")
    parser.add_argument("--seconds", type=float, default=1.0, help="the longest that one measurement may take")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a cell has failed")
    parser.add_argument("--again", action="store_true", help="run cells that are in the file already")
    arguments = parser.parse_args()
    target, matrix = Target.parse(arguments.device), read(arguments.json)
    matrix["machine"] = machine(target)
    todo = [
        (method, family)
        for family in arguments.families  # a family is trained once
        for method in arguments.methods
        if arguments.again or family not in matrix["cells"].get(method, {})
    ]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns) as progress:
        bar = progress.add_task("methods x families", total=len(todo))
        for (method, family), cell in cells(todo, target, arguments.seconds, arguments.limit):
            matrix["cells"].setdefault(method, {})[family] = cell
            write(matrix, arguments.json)
            if "failure" in cell:
                progress.console.print(f"{method} on {family}: {cell['failure']}", markup=False)
            progress.update(bar, advance=1, description=f"{method} on {family}")


if __name__ == "__main__":
    main()
