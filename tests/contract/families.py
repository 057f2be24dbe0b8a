"""The contract on all families; a file a technique, so that processes can share the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from autocompress import Method, Task, Technique
from autocompress.artifact import seal, write_model
from autocompress.plugins import registry
from autocompress.testing import MethodContract, alone_in_recipe
from autocompress.testing_families import FAMILIES
from tests.contract.other_process import named_outputs


class FamilyContract(MethodContract):
    """With one process more, which loads what all methods saved."""

    tasks = FAMILIES

    def test_artifacts_load_in_another_process(self, tmp_path: Path) -> None:
        """One process for all, since a process takes seconds to start; what is wrong is told by method and family."""
        allowed = {}
        for method, task in self.pairs():
            made, folder = self.compress_once(method, task), tmp_path / f"{method.name}.{task.name}"
            folder.mkdir()
            write_model(folder, made, alone_in_recipe(method), self.target, registry())
            seal(folder)
            save_file(named_outputs(made.model, task, self.target), tmp_path / f"{folder.name}.outputs")
            allowed[folder.name] = method.reload_error
        assert allowed, "a method is applicable to a family"
        process = subprocess.run(
            [sys.executable, "-m", "tests.contract.other_process", str(tmp_path), str(self.target)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        found: dict[str, Any] = json.loads((tmp_path / "errors.json").read_text())
        assert found.keys() == allowed.keys()
        wrong = {name: error for name, error in found.items() if isinstance(error, str) or error > allowed[name]}
        assert wrong == {}, "outputs differ by more than reload_error, or the artifact does not load"

    def pairs(self) -> Iterator[tuple[Method, Task]]:
        """Each method with two of the families that it is applicable to, other ones for other methods."""
        for turn, method in enumerate(self.methods_under_test()):
            tasks = [task for factory in self.tasks.values() if self.reason(method, task := factory()) is None]
            first = turn % max(len(tasks), 1)
            turned = tasks[first:] + tasks[:first]
            yield from ((method, task) for task in (turned if EVERYWHERE else turned[:2]))


COMPILED = ("torch_compile", "aot_inductor", "pt2e_int8_static")
"""They compile C++ for half a minute a model."""
EXPORTED = ("onnx_runtime", "onnx_int8_static", "onnx_int8_dynamic")
"""They export a model for some seconds."""
VARIANTS = (
    "structured_batch_norm_scale", "structured_error_change", "structured_hessian", "structured_lamp",
    "structured_random",
)  # fmt: skip
"""They differ from `structured_magnitude` and `structured_taylor` only in how channels are ranked."""
EVERYWHERE = bool(os.environ.get("AUTOCOMPRESS_ALL_FAMILIES"))
"""Whether those, too, are tested on every family, and all that is saved is loaded elsewhere: half an hour."""


def methods_of(technique: Technique) -> list[Method]:
    """The installed methods of a technique that are quick enough for every family."""
    slow = COMPILED + EXPORTED + VARIANTS  # have files of their own
    return [m for m in registry().methods.values() if m.technique is technique and m.name not in slow]


def methods_named(names: Sequence[str]) -> list[Method]:
    return [registry().get(name) for name in names]


def some_families(*names: str) -> dict[str, Callable[[], Task]]:
    return {name: FAMILIES[name] for name in names}
