"""How small are the files of sparse, 4-bit and binary weights, and what does the model lose?

    python benchmarks/small_files.py --data FOLDER --json out.json

The trained CNN of examples/fashion_mnist.py, compressed by one method at a time, with recovery where it trains. The
file is that of the artifact, loaded again by another process, whose logits on the test images must be those of
the model that was saved, bit for bit. Takes about ten minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import TensorDataset  # noqa: E402

from autocompress import Artifact, Recipe, Recovery, Step, Target, Task  # noqa: E402
from autocompress.artifact import seal, write_model  # noqa: E402
from autocompress.compress import compress, resolve  # noqa: E402
from autocompress.data import batches  # noqa: E402
from autocompress.measure.device import hardware_name  # noqa: E402
from autocompress.plugins import registry  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import fashion_mnist  # noqa: E402

TARGET = Target("cpu")


def recipes(epochs: int) -> dict[str, tuple[Recipe, float]]:
    """By what is claimed of it: a recipe, and the largest share of the dense fp32 file that its artifact may have."""
    recovery = Recovery(epochs=epochs, learning_rate=2e-3, batch_size=128)

    def one(method: str, trained: Recovery | None = None, **params: Any) -> Recipe:
        return Recipe(steps=(Step(method=method, params=params),), recovery=trained or Recovery())

    return {
        "80 % sparse": (one("unstructured_magnitude", recovery, sparsity=0.8), 0.25),
        "4 bits": (one("low_bit_weights", bits=4), 1 / 6),
        "binary": (one("binary_weights", recovery), 1 / 16),
    }


def logits(model: nn.Module, data: TensorDataset) -> Tensor:
    """(samples, classes)."""
    with torch.inference_mode():
        return torch.cat([model(inputs) for inputs, _ in batches(data, 500)])


def digest(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


def accuracy(values: Tensor, data: TensorDataset) -> float:
    return float((values.argmax(1) == data.tensors[1]).float().mean())


def loaded_elsewhere(artifact: Path, data: Path) -> str:
    """The digest of the test logits that another process computes from the artifact."""
    command = [sys.executable, __file__, "--data", str(data), "--load", str(artifact)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]


def saved(task: Task, recipe: Recipe, folder: Path) -> nn.Module:
    """The compressed model, whose artifact is in the folder."""
    resolved = resolve(recipe, registry(), task)
    made = compress(task, resolved, registry=registry(), target=TARGET)
    write_model(folder, made, resolved, TARGET, registry())
    seal(folder)
    return made.model


def row(task: Task, name: str, recipe: Recipe, bound: float, dense_bytes: int, data: Path) -> dict[str, Any]:
    """One method's figures."""
    assert isinstance(task.test, TensorDataset)
    with tempfile.TemporaryDirectory() as folder:
        found = logits(saved(task, recipe, Path(folder)), task.test)
        size_bytes = Artifact(Path(folder)).size_bytes
        exact = loaded_elsewhere(Path(folder), data) == digest(found)
    return {
        "weights": name,
        "recipe": str(recipe),
        "size_bytes": size_bytes,
        "share": size_bytes / dense_bytes,
        "allowed": bound,
        "bit_exact": exact,
        "test_accuracy": accuracy(found, task.test),
    }


def table(rows: list[dict[str, Any]], dense: dict[str, Any]) -> Table:
    shown = Table("weights", "recipe", "file", "of dense", "at most", "loads bit for bit", "test accuracy")
    shown.add_row("dense fp32", "", f"{dense['size_bytes']:,} B", "", "", "", f"{dense['test_accuracy']:.4f}")
    for found in rows:
        figures = f"{found['share']:.4f}", f"{found['allowed']:.4f}", "yes" if found["bit_exact"] else "NO"
        size = f"{found['size_bytes']:,} B"
        shown.add_row(found["weights"], found["recipe"], size, *figures, f"{found['test_accuracy']:.4f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=fashion_mnist.default_folder(), help="the folder of the example")
    parser.add_argument("--epochs", type=int, default=3, help="of recovery")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.load:
        test = fashion_mnist.images(arguments.data, train=False)
        print(digest(logits(Artifact(arguments.load).load(fashion_mnist.FashionCNN, TARGET), test)))
        return
    task = fashion_mnist.task(arguments.data)
    assert isinstance(task.test, TensorDataset)
    with tempfile.TemporaryDirectory() as folder:
        values = logits(saved(task, Recipe(), Path(folder)), task.test)
        dense_bytes = Artifact(Path(folder)).size_bytes
    dense = {"size_bytes": dense_bytes, "test_accuracy": accuracy(values, task.test)}
    rows = [
        row(task, name, recipe, bound, dense_bytes, arguments.data)
        for name, (recipe, bound) in recipes(arguments.epochs).items()
    ]
    console = Console(width=140)
    console.print(f"{hardware_name(TARGET)}, torch {torch.__version__}, {arguments.epochs} epochs of recovery")
    console.print(table(rows, dense))
    if arguments.json:
        arguments.json.write_text(json.dumps({"dense": dense, "rows": rows}, indent=1))
    sys.exit(not all(found["bit_exact"] and found["share"] <= found["allowed"] for found in rows))


if __name__ == "__main__":
    main()
