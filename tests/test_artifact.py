"""Artifacts: saved whole, loaded to the bit, refused when anything is off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from autocompress import Artifact, Method, Plan, Recipe, Recovery, Step, Target, Technique, load
from autocompress.artifact import seal, whole_folder, write_model
from autocompress.compress import Compressed, PlannedStep, compress, resolve
from autocompress.errors import ArtifactError, InvalidInput
from autocompress.plugins import Plugin, Registry, registry
from autocompress.testing_tasks import images

CPU = Target("cpu")
PRUNED_INT8 = Recipe(
    steps=(Step(method="structured_magnitude", params={"ratio": 0.5}), Step(method="int8_weight_only")),
    recovery=Recovery(epochs=1, learning_rate=1e-3, batch_size=64),
)


def untrained() -> nn.Module:
    """The structure of the images task, with weights that are not those of the task."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24 * 2 * 2, 4),
    )  # fmt: skip


def save(path: Path, compressed: Compressed, recipe: Recipe | None = None, plugins: Registry | None = None) -> Artifact:
    with whole_folder(path) as folder:
        write_model(folder, compressed, recipe or Recipe(), CPU, plugins or registry())
        (folder / "metrics.json").write_text('{"accuracy": 0.5}')
        seal(folder)
    return Artifact(path)


@pytest.fixture(scope="module")
def compressed() -> Compressed:
    task = images()
    return compress(task, resolve(PRUNED_INT8, registry(), task), registry=registry(), target=CPU)


@pytest.fixture
def artifact(compressed: Compressed, tmp_path: Path) -> Artifact:
    return save(tmp_path / "saved", compressed, resolve(PRUNED_INT8, registry(), images()))


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(images().inputs(16))
    return found


@pytest.mark.parametrize("model", [untrained, untrained()], ids=["factory", "module"])
@pytest.mark.parametrize("target", [None, "cpu@4"])
def test_what_is_loaded_is_what_was_saved_to_the_bit(
    target: str | None, model: nn.Module | Callable[[], nn.Module], artifact: Artifact, compressed: Compressed
) -> None:
    loaded = load(artifact.path, model, target)
    assert not loaded.training
    torch.testing.assert_close(outputs(loaded), outputs(compressed.model), rtol=0, atol=0)
    assert not torch.equal(outputs(loaded), outputs(images().trained_model()))


def test_an_artifact_knows_its_recipe_its_scores_and_its_size(artifact: Artifact) -> None:
    assert artifact.recipe == resolve(PRUNED_INT8, registry(), images())
    assert artifact.scores == {"accuracy": 0.5}
    sizes = {path.name: path.stat().st_size for path in artifact.path.iterdir()}
    assert set(sizes) == {"recipe.json", "weights.safetensors", "metrics.json", "MANIFEST.json"}
    assert artifact.size_bytes == sizes["recipe.json"] + sizes["weights.safetensors"]
    original = sum(tensor.nbytes for tensor in images().trained_model().state_dict().values())
    assert sizes["weights.safetensors"] < 0.75 * original


def test_a_copy_is_a_whole_artifact(artifact: Artifact, tmp_path: Path) -> None:
    copy = artifact.save(tmp_path / "deep" / "copy")
    assert copy.path == tmp_path / "deep" / "copy"
    for path in artifact.path.iterdir():
        assert (copy.path / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in copy.path.parent.iterdir()] == ["copy"]
    torch.testing.assert_close(outputs(copy.load(untrained)), outputs(artifact.load(untrained)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors", "metrics.json"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_damaged_byte_is_noticed(place: int, name: str, artifact: Artifact, tmp_path: Path) -> None:
    data = bytearray((artifact.path / name).read_bytes())
    data[place] ^= 1
    (artifact.path / name).write_bytes(data)
    for use in (lambda: artifact.load(untrained), lambda: artifact.save(tmp_path / "copy")):
        with pytest.raises(ArtifactError, match=f"{name} is damaged: its SHA-256 differs from MANIFEST.json"):
            use()
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors", "metrics.json"])
def test_a_missing_file_is_noticed(name: str, artifact: Artifact) -> None:
    (artifact.path / name).unlink()
    with pytest.raises(ArtifactError, match=f"saved/{name} is missing"):
        artifact.load(untrained)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "inner/weights.safetensors"])
def test_a_manifest_names_no_file_outside_the_folder(name: str, artifact: Artifact) -> None:
    manifest = json.loads((artifact.path / "MANIFEST.json").read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (artifact.path / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=f"MANIFEST.json names '{name}', but files must lie in the folder itself"):
        Artifact(artifact.path).load(untrained)


@pytest.mark.parametrize("name", ["recipe.json", "weights.safetensors"])
def test_a_manifest_vouches_for_what_is_loaded(name: str, artifact: Artifact) -> None:
    manifest = json.loads((artifact.path / "MANIFEST.json").read_text())
    del manifest["files"][name]
    (artifact.path / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=f"MANIFEST.json does not vouch for {name}"):
        Artifact(artifact.path).load(untrained)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "saved is no artifact: it has no MANIFEST.json"),
        ("{", "MANIFEST.json is not readable: JSONDecodeError"),
        ('{"format": 2, "files": {}}', "saved has format 2, but this autocompress reads 1"),
        ("{}", "saved has format None, but this autocompress reads 1"),
        ("[]", "saved has format None, but this autocompress reads 1"),
        ('{"format": 1}', "MANIFEST.json must give a SHA-256 for each file, but: KeyError: 'files'"),
        ('{"format": 1, "files": ["recipe.json"]}', "must give a SHA-256 for each file, but: AttributeError"),
        ('{"format": 1, "files": {"recipe.json": 3}}', "must give a SHA-256 for each file, but: TypeError"),
    ],
)
def test_a_folder_that_is_no_artifact(manifest: str | None, message: str, artifact: Artifact) -> None:
    (artifact.path / "MANIFEST.json").unlink()
    if manifest is not None:
        (artifact.path / "MANIFEST.json").write_text(manifest)
    with pytest.raises(ArtifactError, match=message):
        load(artifact.path, untrained)


def changed(index: str, layer: nn.Module) -> nn.Module:
    model = untrained()
    model.set_submodule(index, layer)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 3), "saved could not be rebuilt on the given model: "),
        (changed("0", nn.Conv2d(3, 16, 5, bias=False)), r"tensor '0.weight' must be \(8, 3, 5, 5\) torch.float32 in"),
        (changed("0", nn.Conv2d(3, 16, 3)), "tensor '0.bias' is missing in the stored weights: is it the model they"),
        (changed("1", nn.BatchNorm2d(16, affine=False)), "tensor '1.bias' is not expected from the stored weights"),
        (changed("8", nn.Linear(96, 5)), r"tensor '8\.[\w.]+' must be \(5.* but is stored as \(4"),
    ],
)
def test_another_model_is_refused(model: nn.Module, message: str, artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match=message):
        artifact.load(model)


def test_a_target_in_words_is_checked(artifact: Artifact) -> None:
    with pytest.raises(InvalidInput, match="a target is DEVICE"):
        load(artifact.path, untrained, "gpu")


class Mark(Method):
    """A method of a plugin that is installed only where the artifact was made."""

    name = "mark"
    technique = Technique.ACCELERATION

    def restore(self, model: nn.Module, plan: Plan, target: Target) -> nn.Module:
        return model


def test_a_missing_plugin_is_named_with_its_distribution(tmp_path: Path) -> None:
    method = Mark()
    plugins = Registry((Plugin("mine", "acme-mark", "2.3", (method,)),))
    save(tmp_path / "saved", Compressed(untrained(), (PlannedStep(method, {}),)), plugins=plugins)
    with pytest.raises(ArtifactError, match="needs method 'mark' of acme-mark 2.3: pip install acme-mark$"):
        load(tmp_path / "saved", untrained)


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.head(self.embedding(tokens))  # (B, T, 10)
        return found


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model, tokens = Tied(), torch.arange(10)[None]
    artifact = save(tmp_path / "saved", Compressed(model, ()))
    with safe_open(artifact.path / "weights.safetensors", "pt") as file:
        assert list(file.keys()) == ["embedding.weight"]
    loaded = artifact.load(Tied)
    assert isinstance(loaded, Tied)
    assert loaded.head.weight is loaded.embedding.weight
    torch.testing.assert_close(loaded(tokens), model(tokens), rtol=0, atol=0)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["folder", "file"])
def test_nothing_is_overwritten(make: Callable[[Path], None], artifact: Artifact, tmp_path: Path) -> None:
    make(tmp_path / "there")
    with pytest.raises(ArtifactError, match="there exists already: name a new folder"):
        artifact.save(tmp_path / "there")
    assert (tmp_path / "there").is_dir() == (make is Path.mkdir)


def test_a_place_that_cannot_be_written_is_told(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=r"file/copy cannot be written: (Not a directory|File exists)$"):
        artifact.save(tmp_path / "file" / "copy")


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of luck"), whole_folder(tmp_path / "saved") as folder:
        (folder / "half").write_text("of it")
        assert not (tmp_path / "saved").exists()
        raise RuntimeError("out of luck")
    assert list(tmp_path.iterdir()) == []


AUDITED = """
import os, pickle, sys
import torch
from autocompress import Artifact
from autocompress.plugins import registry
from autocompress.testing_tasks import images

task, found = images(), []
registry()
Artifact(sys.argv[1]).load(task.trained_model())  # imports what it needs

def hook(event, arguments):
    if event == "pickle.find_class":
        found.append(arguments)

sys.addaudithook(hook)
loaded = Artifact(sys.argv[1]).load(task.trained_model())
loaded(task.inputs(4))
assert not found, found
pickle.loads(pickle.dumps(os.getcwd))
assert len(found) == 1, "the hook hears nothing"
print("loaded")
"""


def test_loading_never_unpickles(artifact: Artifact) -> None:
    assert {path.suffix for path in artifact.path.iterdir()} == {".json", ".safetensors"}
    audited = subprocess.run(
        [sys.executable, "-c", AUDITED, str(artifact.path)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert audited.returncode == 0, audited.stderr
    assert audited.stdout.split()[-1] == "loaded"
