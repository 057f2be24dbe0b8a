"""What a wheel holds is what an editable install gives."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, timeout=200)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_a_wheel_holds_engine_plugins_and_search_spaces(wheel: zipfile.ZipFile) -> None:
    packed = set(wheel.namelist())
    spaces = {f"autocompress/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "search_spaces").rglob("*.yaml")}
    engine = {path.relative_to(ROOT).as_posix() for path in (ROOT / "autocompress").rglob("*.py")}
    plugins = {path.relative_to(ROOT / "plugins").as_posix() for path in (ROOT / "plugins").rglob("*.py")}
    assert spaces and plugins
    assert spaces | engine | plugins | {"autocompress/py.typed"} <= packed
    assert not [name for name in packed if name.startswith(("plugins/", "search_spaces/", "tests/"))]


def test_a_wheel_names_the_plugins_as_entry_points(wheel: zipfile.ZipFile) -> None:
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    text = wheel.read(name).decode()
    for plugin in ("pruning", "distillation", "quantization"):
        assert f"{plugin} = autocompress_{plugin}" in text
