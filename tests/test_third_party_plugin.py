"""A whole outside package, built and installed as a third party's, found and checked in processes of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "third_party_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package's `source` and the `site` that it is installed into."""
    folder = tmp_path_factory.mktemp("third_party")
    shutil.copytree(SOURCE, folder / "source")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    python("-m", "pip", "install", *options, "--target", str(folder / "site"), str(folder / "source"), folder=folder)
    return folder


def python(*arguments: str, folder: Path) -> str:
    """What a fresh Python says; beside this package only what is installed there."""
    environment = os.environ | {"PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_passes_its_own_contract_tests(installed: Path) -> None:
    said = python("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "source/tests", folder=installed)
    assert " passed" in said
    assert "failed" not in said


def test_it_is_found_with_its_distribution_and_version_and_takes_part_in_a_search(installed: Path) -> None:
    code = """if True:
        import torch
        from torch import nn
        from torch.utils.data import TensorDataset
        import autocompress
        from autocompress.plugins import registry

        plugin = registry().plugin_of("half_weights")
        print(plugin, plugin.status, [method.name for method in plugin.methods], sep="; ")
        data = TensorDataset(torch.randn(32, 8), torch.randint(0, 3, (32,)))
        model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
        task = autocompress.Task(model=model, train=data, validation=data, test=data)
        space = autocompress.SearchSpace(
            methods={"half_weights": None, "structured_magnitude": None},
            recipes=[{"steps": [{"method": "structured_magnitude"}, {"method": "half_weights"}],
                      "recovery": {"epochs": 1}}],
        )
        budget = autocompress.Budget(trials=2)
        run = autocompress.search(
            task, space=space, budget=budget, limits=[], target="cpu@1", workers=1, progress=False,
            latency_seconds=0.1, hardware_seconds=0,
        )
        print(run.trials[run.trials["recipe"].str.contains("half_weights")]["state"].iloc[0])
        print(run.best().load()(torch.randn(2, 8)).shape)
    """
    said = python("-c", code, folder=installed).split("\n")
    assert said[0] == "plugin 'round_weights' of autocompress-round-weights 0.3.1; ok; ['half_weights']"
    assert said[1:3] == ["ok", "torch.Size([2, 3])"]
