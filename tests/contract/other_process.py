"""A process that loads what another one saved: `python -m tests.contract.other_process FOLDER TARGET`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from autocompress import Artifact, Target, testing_tasks
from autocompress.compress import COMPARED_SAMPLES
from autocompress.effect import output_error, outputs
from autocompress.errors import first_line
from autocompress.tensors import to_device
from autocompress.testing_families import FAMILIES


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
            made = named(outputs(model, to_device(task.inputs(COMPARED_SAMPLES), target.torch_device)))
            found[path.name] = output_error(list(made.values()), [expected[name] for name in made])
        except Exception as error:  # the plugin's, told by the test
            found[path.name] = first_line(error)
    return found


def named(made: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's outputs by their place."""
    return {str(index): tensor.contiguous().clone() for index, tensor in enumerate(made)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    (where / "errors.json").write_text(json.dumps(load_all(where, Target.parse(sys.argv[2]))))
