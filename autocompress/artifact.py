"""A compressed model on disk: recipe and plans as JSON, tensors as safetensors, checksums of both. No pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from autocompress.compress import Compressed, PlannedStep, rebuild, runtime_step, unpack
from autocompress.errors import ArtifactError, AutocompressError, InvalidInput, first_line
from autocompress.folders import publish
from autocompress.leaves import load_leaves
from autocompress.measure.device import Target
from autocompress.method import Runtime
from autocompress.plugins import Registry, registry
from autocompress.recipe import Recipe
from autocompress.task import Model, build

FORMAT = 1
RECIPE_FILE, WEIGHTS_FILE, MANIFEST_FILE = "recipe.json", "weights.safetensors", "MANIFEST.json"


class Artifact:
    """A saved model: how it was made, what it scored, and the way back to a running module."""

    def __init__(self, path: str | Path) -> None:
        """Raises ArtifactError unless the folder holds a whole artifact of a known format."""
        self.path = Path(path)
        if not (self.path / MANIFEST_FILE).is_file():
            raise ArtifactError(f"{self.path} is no artifact: it has no {MANIFEST_FILE}")
        manifest = self._read(MANIFEST_FILE)
        found = manifest.get("format") if isinstance(manifest, dict) else None
        if found != FORMAT:
            raise ArtifactError(f"{self.path} has format {found!r}, but this autocompress reads {FORMAT}")
        self._files = _checksums(manifest, self.path / MANIFEST_FILE)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of the files that must ship."""
        return shipped_bytes(self.path)

    @property
    def recipe(self) -> Recipe:
        return Recipe.parse(self._read(RECIPE_FILE)["recipe"], str(self.path / RECIPE_FILE))

    @property
    def scores(self) -> dict[str, float]:
        """What its trial scored on the validation split; empty if it was not scored."""
        return self._read("metrics.json") if "metrics.json" in self._files else {}

    def verify(self) -> None:
        """Raises ArtifactError, naming the file, when one is missing or its SHA-256 differs from the manifest's."""
        for name, checksum in self._files.items():
            if Path(name).name != name:
                raise ArtifactError(
                    f"{self.path / MANIFEST_FILE} names {name!r}, but files must lie in the folder itself"
                )
            if not (self.path / name).is_file():
                raise ArtifactError(f"{self.path / name} is missing")
            if sha256(self.path / name) != checksum:
                raise ArtifactError(f"{self.path / name} is damaged: its SHA-256 differs from {MANIFEST_FILE}")
        for name in shipped_files(self.path):
            if name not in self._files:
                raise ArtifactError(f"{self.path / MANIFEST_FILE} does not vouch for {name}")

    @property
    def student(self) -> str | None:
        """The name of the task's student that it was made of; None when it was made of the trained model."""
        name: str | None = self._read(RECIPE_FILE).get("student")
        return name

    def load(self, model: Model, target: Target | None = None, *, native_code: bool = False) -> nn.Module:
        """The compressed model, in eval mode, on the target's device (by default the one it was made for).

        `model` is the factory, or a module, with the original structure; its weights do not matter.
        Raises ArtifactError when a file is damaged, the model is another one, or the artifact holds machine code and
        `native_code` does not allow it.
        """
        self.verify()
        return load_model(self.path, model, registry(), target, native_code=native_code)

    def save(self, path: str | Path) -> Artifact:
        """A copy in a new folder, whole or not at all. Raises ArtifactError if there is something at `path`."""
        self.verify()
        with whole_folder(Path(path)) as folder:
            for name in (*self._files, MANIFEST_FILE):
                shutil.copyfile(self.path / name, folder / name)
        return Artifact(path)

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.path / name} is not readable: {first_line(error)}") from None


def write_model(folder: Path, compressed: Compressed, recipe: Recipe, target: Target, plugins: Registry) -> None:
    """The shipped files into a folder."""
    steps = [
        {
            "method": step.method.name,
            "distribution": plugins.plugin_of(step.method.name).distribution,
            "version": plugins.plugin_of(step.method.name).version,
            "plan": step.plan,
        }
        for step in compressed.steps
    ]
    document = {"format": FORMAT, "recipe": recipe.plain(), "target": str(target), "steps": steps}
    if compressed.student is not None:
        document["student"] = compressed.student
    if isinstance(compressed.model, Runtime):
        document["files"] = compressed.model.save(folder)
    else:
        document["files"] = [WEIGHTS_FILE]
        save_file(compressed.tensors(), folder / WEIGHTS_FILE)
    (folder / RECIPE_FILE).write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def load_model(
    folder: Path, model: Model, plugins: Registry, target: Target | None = None, *, native_code: bool = False
) -> nn.Module:
    """The model in a folder whose files are known to be whole."""
    document = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    target = target or _target(document["target"])
    steps = [PlannedStep(_method(step, plugins), step["plan"]) for step in document["steps"]]
    for step in steps:
        if step.method.native_code and not native_code:
            raise ArtifactError(
                f"{folder} holds machine code that {step.method.name} compiled: if you trust where it comes from,"
                " load it with native_code=True"
            )
    try:
        runtime = runtime_step(steps)
        if runtime is not None:
            return runtime.method.load(folder, runtime.plan, target).eval()
        restored = rebuild(build(model).cpu().eval(), steps, target)
        load_leaves(restored, unpack(load_file(folder / WEIGHTS_FILE), restored, steps))
    except AutocompressError:
        raise
    except (Exception, SafetensorError) as error:  # plugins' code on a model that may be another
        student = f"student {document['student']!r}" if "student" in document else "given model"
        raise ArtifactError(f"{folder} could not be rebuilt on the {student}: {first_line(error)}") from error
    return restored


def seal(folder: Path) -> None:
    """Write the manifest over all files of a folder: the last act of saving."""
    files = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST_FILE
    }
    (folder / MANIFEST_FILE).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1), encoding="utf-8")


def shipped_files(folder: Path) -> list[str]:
    """What loading needs, and so what the size counts."""
    try:
        files = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / RECIPE_FILE} is not readable: {first_line(error)}") from None
    return [RECIPE_FILE, *files]


def shipped_bytes(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in shipped_files(folder))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that appears at `path` complete, synced to disk, or not at all."""
    if path.exists():
        raise ArtifactError(f"{path} exists already: name a new folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error.strerror}") from None
    try:
        yield partial
        publish(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _checksums(manifest: Any, where: Path) -> dict[str, str]:
    """SHA-256 by file name."""
    try:
        return {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{where} must give a SHA-256 for each file, but: {first_line(error)}") from None


def _method(step: Mapping[str, Any], plugins: Registry) -> Any:
    try:
        return plugins.get(step["method"])
    except InvalidInput:
        raise ArtifactError(
            f"the artifact needs method {step['method']!r} of {step['distribution']} {step['version']}:"
            f" pip install {step['distribution']}"
        ) from None


def _target(made_for: str) -> Target:
    """The target that the artifact was made for, or the CPU where that device is not there."""
    try:
        return Target.parse(made_for)
    except InvalidInput:
        return Target("cpu")


def load(path: str | Path, model: Model, target: Target | str | None = None, *, native_code: bool = False) -> nn.Module:
    """The compressed model saved at `path`, rebuilt on `model`: the original factory, or a module of that structure.

    An artifact that holds machine code (AOTInductor's) is loaded only with `native_code`: it can do what any program
    can. Raises ArtifactError when a file is missing or damaged, a plugin is not installed, or the model is another one.
    """
    wanted = Target.parse(target) if isinstance(target, str) else target
    return Artifact(path).load(model, wanted, native_code=native_code)
