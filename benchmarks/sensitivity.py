"""What do layers' shares by a solver over measured sensitivities give, beside the same share in every layer?

    python benchmarks/sensitivity.py --data FOLDER --json out.json

The trained CNN of examples/fashion_mnist.py, compressed by one method at a time: accuracy on test images as it is
then, without any recovery, and with `--recovery N` also after an epoch over N training images. Takes two minutes of
one CPU core, and some ten with recovery.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402

from autocompress import Recipe, Recovery, Step, Target, Task  # noqa: E402
from autocompress.compress import compress, finalize, resolve, train_recipe  # noqa: E402
from autocompress.effect import byte_count, output_error, outputs  # noqa: E402
from autocompress.measure.cost import model_cost  # noqa: E402
from autocompress.measure.device import hardware_name  # noqa: E402
from autocompress.plugins import registry  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import fashion_mnist  # noqa: E402

TARGET = Target("cpu")
HIDDEN = ("scope", "allocation", "round_to")
"""Parameters that have a column of their own, or are always the same."""


def cases() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Method, parameters and who allots; those in a row want about the same size."""
    for ratio in (0.3, 0.5, 0.7):
        for scope in ("uniform", "global", "sensitivity", "sensitivity_macs"):
            yield "structured_magnitude", {"ratio": ratio, "scope": scope, "round_to": 8}, scope
    for method in ("svd_linear", "tucker2_conv", "spatial_svd_conv"):
        for energy in (0.5, 0.7, 0.9):
            for allocation in ("energy", "sensitivity"):
                yield method, {"energy": energy, "allocation": allocation}, allocation
    for bits in (2, 3, 4):
        yield "low_bit_weights", {"bits": bits}, "uniform"
        for average in (float(bits), bits + 0.5):
            yield "mixed_precision", {"average_bits": average}, "sensitivity"


def measure(method: str, params: dict[str, Any], task: Task, test: TensorDataset, recovers: bool) -> dict[str, Any]:
    """One row: sizes, and what the model still knows."""
    recipe = resolve(Recipe(steps=(Step(method=method, params=params),)), registry(), task)
    if registry().get(method).needs_training:
        work = train_recipe(task, recipe, registry=registry(), target=TARGET)
        model, bytes_left = work.model.eval(), byte_count(work.model.state_dict())
        recovered = recipe.model_copy(update={"recovery": Recovery(epochs=1, learning_rate=1e-3, batch_size=64)})
        after = fashion_mnist.accuracy(recover(task, recovered), test) if recovers else None
    else:
        made = compress(task, recipe, registry=registry(), target=TARGET)
        model, bytes_left, after = made.model, byte_count(made.tensors()), None
    images = test[:1000][0]
    return {
        "bytes": bytes_left,
        "macs": model_cost(model, task.inputs(1)).macs,
        "output_error": output_error(outputs(model, images), outputs(task.trained_model(), images)),
        "accuracy": fashion_mnist.accuracy(model, test),
        "accuracy_recovered": after,
    }


def recover(task: Task, recipe: Recipe) -> nn.Module:
    return finalize(train_recipe(task, recipe, registry=registry(), target=TARGET), TARGET).model


def show(rows: list[dict[str, Any]]) -> None:
    recovered = [] if rows[0]["accuracy_recovered"] is None else ["recovered"]
    table = Table("method", "asked for", "allotted by", "kB", "MMACs", "outputs differ", "accuracy", *recovered)
    for row in rows:
        after = row["accuracy_recovered"]
        table.add_row(
            row["method"], row["asked"], row["by"], f"{row['bytes'] / 1000:.1f}", f"{row['macs'] / 1e6:.2f}",
            f"{row['output_error']:.3f}", f"{row['accuracy']:.4f}",
            *(["" if after is None else f"{after:.4f}"] if recovered else []), end_section=row["last"],
        )  # fmt: skip
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=fashion_mnist.default_folder(), help="the folder of data, weights")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--recovery", type=int, default=0, help="training images of a short recovery; 0: none")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    whole = fashion_mnist.task(arguments.data)
    task = dataclasses.replace(whole, train=TensorDataset(*whole.train[: arguments.recovery or 5000]))
    test = TensorDataset(*whole.test[: arguments.test])
    rows: list[dict[str, Any]] = []
    for method, params, by in cases():
        asked = ", ".join(f"{name} {value}" for name, value in params.items() if name not in HIDDEN)
        if rows and (rows[-1]["asked"].split(".")[0], rows[-1]["method"]) != (asked.split(".")[0], method):
            rows[-1]["last"] = method != "mixed_precision"
        with contextlib.redirect_stdout(io.StringIO()):  # what each step did
            row = measure(method, params, task, test, arguments.recovery > 0)
        rows.append({"method": method, "asked": asked, "by": by, **row, "last": False})
    print(f"{hardware_name(TARGET)}; uncompressed: {fashion_mnist.accuracy(whole.trained_model(), test):.4f}")
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
