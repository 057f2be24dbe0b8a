"""What a method saved, loaded in a process that never saw it made: the contract's test, and that process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from autocompress import Artifact, Target, testing_tasks
from autocompress.artifact import seal, write_model
from autocompress.effect import output_error, outputs
from autocompress.errors import first_line
from autocompress.plugins import registry
from autocompress.task import Task
from autocompress.tensors import to_device
from autocompress.testing import MethodContract, alone_in_recipe
from autocompress.testing_families import FAMILIES


class OtherProcess(MethodContract):
    """The contract on all families, with one process more, which loads what all methods saved."""

    tasks = FAMILIES

    def test_artifacts_load_in_another_process(self, tmp_path: Path) -> None:
        """One process for all, since a process takes seconds to start; what is wrong is told by method and family."""
        allowed = {}
        for method in self.methods_under_test():
            for task in (factory() for factory in self.tasks.values()):
                if self.reason(method, task) is None:
                    made, folder = self.compress_once(method, task), tmp_path / f"{method.name}.{task.name}"
                    folder.mkdir()
                    write_model(folder, made, alone_in_recipe(method), self.target, registry())
                    seal(folder)
                    save_file(_named_outputs(made.model, task, self.target), tmp_path / f"{folder.name}.outputs")
                    allowed[folder.name] = method.reload_error
        assert allowed, "a method is applicable to a family"
        process = subprocess.run(
            [sys.executable, "-m", "tests.other_process", str(tmp_path), str(self.target)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        found: dict[str, Any] = json.loads((tmp_path / "errors.json").read_text())
        assert found.keys() == allowed.keys()
        wrong = {name: error for name, error in found.items() if isinstance(error, str) or error > allowed[name]}
        assert wrong == {}, "outputs differ by more than reload_error, or the artifact does not load"


def load_all(folder: Path, target: Target) -> dict[str, float | str]:
    """By artifact: how far its outputs are from those noted beside it, or why it could not be loaded."""
    # Weights come from the artifacts alone, so the families' models need no training here.
    testing_tasks._train = lambda model, *_: model.eval()
    found: dict[str, float | str] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        task, expected = FAMILIES[path.name.partition(".")[2]](), load_file(path.with_name(f"{path.name}.outputs"))
        try:
            artifact = Artifact(path)
            model = artifact.load(task.source(artifact.student), target, native_code=True)
            made = _named_outputs(model, task, target)
            found[path.name] = output_error(list(made.values()), [expected[name] for name in made])
        except Exception as error:  # the plugin's, told by the test
            found[path.name] = first_line(error)
    return found


def _named_outputs(model: nn.Module, task: Task, target: Target) -> dict[str, torch.Tensor]:
    made = outputs(model, to_device(task.inputs(8), target.torch_device))
    return {str(index): tensor.contiguous().clone() for index, tensor in enumerate(made)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    (where / "errors.json").write_text(json.dumps(load_all(where, Target.parse(sys.argv[2]))))
