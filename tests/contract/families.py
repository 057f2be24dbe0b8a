"""The contract on all families; a file a kind of model, so that processes can share the work."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from autocompress import Method, Task
from autocompress.artifact import seal, write_model
from autocompress.plugins import registry
from autocompress.testing import MethodContract, UnderTest, alone_in_recipe
from autocompress.testing_families import FAMILIES
from tests.contract.other_process import named

CHECKS = {
    check: arguments
    for check in vars(MethodContract).values()
    if inspect.isfunction(check) and (arguments := inspect.getfullargspec(check).args[1:]) != ["method"]
}
"""What the contract asks of a method and a task, in order, and the fixtures that each check looks at."""

SLOW_TO_LOAD = ("torch_compile",)
"""They compile again where they are loaded, and so are loaded in another process only."""

LOAD_ALL = bool(os.environ.get("AUTOCOMPRESS_ALL_FAMILIES"))
"""Whether what methods make of each family is loaded in another process, and not of one family a method and file."""


class FamilyContract(UnderTest):
    """All checks of a method and a family in one test, since a test costs more than most checks."""

    def test_family(
        self, method: Method, task_name: str, request: pytest.FixtureRequest, subtests: pytest.Subtests
    ) -> None:
        applicable = self.reason(method, self.tasks[task_name]()) is None
        for check, arguments in CHECKS.items():
            if check is MethodContract.test_compressed_model_can_be_saved_and_loaded and method.name in SLOW_TO_LOAD:
                continue  # another process does it
            if applicable or arguments == ["method", "task_name"]:
                with subtests.test(check.__name__):
                    check(self, **{name: request.getfixturevalue(name) for name in arguments})

    def test_artifacts_load_in_another_process(self, tmp_path: Path) -> None:
        """One process for all, since a process takes seconds to start; what is wrong is told by method and family."""
        allowed = {}
        for method, task in self.pairs():
            made, folder = self.compress_once(method, task), tmp_path / f"{method.name}.{task.name}"
            folder.mkdir()
            write_model(folder, made, alone_in_recipe(method), self.target, registry())
            seal(folder)
            save_file(named(self.outputs_once(method, task)), tmp_path / f"{folder.name}.outputs")
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
        """Each method with one of these families that it is applicable to, another one for other methods."""
        for turn, method in enumerate(self.methods_under_test()):
            tasks = [task for factory in self.tasks.values() if self.reason(method, task := factory()) is None]
            first = turn % max(len(tasks), 1)
            yield from ((method, task) for task in (tasks if LOAD_ALL else tasks[first : first + 1]))


def families(*names: str) -> dict[str, Callable[[], Task]]:
    return {name: FAMILIES[name] for name in names}
