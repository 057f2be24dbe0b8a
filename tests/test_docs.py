"""What the documents show works."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import torch

from autocompress import Recipe, Step, Target, Task
from autocompress.artifact import Artifact, seal, write_model
from autocompress.compress import compress
from autocompress.plugins import Plugin, Registry
from tests.conftest import tiny_model

ROOT = Path(__file__).parents[1]


def module_in(document: str, folder: Path) -> ModuleType:
    """The Python block of a document whose first line names a file, imported."""
    text = (ROOT / document).read_text(encoding="utf-8")
    block = next(
        block for block in re.findall(r"```python\n(.*?)```", text, re.S) if block.startswith("# autocompress_")
    )
    path = folder / "autocompress_half.py"
    path.write_text(block)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plugin_of_the_manual_halves_a_model(task: Task, tmp_path: Path) -> None:
    methods = tuple(module_in("docs/plugins.md", tmp_path).autocompress_methods())
    registry, target = Registry((Plugin("half", "autocompress-half", "0.1", methods),)), Target("cpu")
    sizes: list[int] = []
    for recipe in (Recipe(), Recipe(steps=(Step(method="half"),))):
        folder = tmp_path / str(len(sizes))
        folder.mkdir()
        made = compress(task, recipe, registry=registry, target=target)
        write_model(folder, made, recipe, target, registry)
        seal(folder)
        sizes.append((folder / "weights.safetensors").stat().st_size)
    x = torch.randn(4, 8)
    assert Artifact(folder).scores == {}
    torch.testing.assert_close(made.model(x), tiny_model()(x), atol=0.05, rtol=0.05)
    assert sizes[1] < 0.75 * sizes[0]


def test_every_method_stands_in_the_readme() -> None:
    from autocompress.plugins import registry

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    built_in = [method.name for plugin in registry().plugins if plugin.built_in for method in plugin.methods]
    assert built_in
    assert [name for name in built_in if f"`{name}`" not in readme] == []
