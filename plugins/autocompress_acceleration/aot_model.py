"""A model that AOTInductor compiled to machine code."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from autocompress import Runtime, Target
from autocompress.errors import ArtifactError
from autocompress_acceleration.export import Interface, quiet

MODEL_FILE = "model.pt2"
_CODE = (".cpp", ".so", ".json", ".o", ".cubin", ".h")
"""What AOTInductor puts into a package; anything else might be unpickled."""
_HEADER = ("archive_format", "archive_version", "byteorder", "version", "serialization_id")


class AotModel(Runtime):
    """Takes and gives tensors nested as the model did that it was compiled from."""

    file: Tensor
    """The bytes of `model.pt2` (bytes,)."""

    def __init__(self, file: bytes, interface: Interface) -> None:
        """Raises ArtifactError for a package that holds something else than code."""
        super().__init__()
        self.interface = interface
        self.register_buffer("file", torch.frombuffer(bytearray(file), dtype=torch.uint8))
        self._run = _load(file)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.interface.nested(self._run(*self.interface.flat(*args, **kwargs)))

    def save(self, folder: Path) -> list[str]:
        (folder / MODEL_FILE).write_bytes(self.file.cpu().numpy().tobytes())
        return [MODEL_FILE, self.interface.save(folder)]

    @classmethod
    def load(cls, folder: Path) -> AotModel:
        return cls((folder / MODEL_FILE).read_bytes(), Interface.load(folder))


def compile_ahead(program: ExportedProgram, interface: Interface, target: Target) -> AotModel:
    """The program as machine code for the target, its weights frozen into it. Takes seconds and a C++ compiler."""
    with quiet():
        import torch._inductor as inductor
    options = {"freezing": True, "cpp.threads": target.threads, "compile_threads": 1}
    with tempfile.TemporaryDirectory() as folder, quiet(), torch.no_grad():
        path = inductor.aoti_compile_and_package(
            program, package_path=str(Path(folder) / MODEL_FILE), inductor_configs=options
        )
        return AotModel(Path(path).read_bytes(), interface)


def _load(file: bytes) -> Any:
    with quiet():
        import torch._inductor as inductor
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / MODEL_FILE
        path.write_bytes(file)
        _audit(path)
        return inductor.aoti_load_package(str(path))


def _audit(path: Path) -> None:
    """Raises ArtifactError if loading the package could unpickle something."""
    with zipfile.ZipFile(path) as package:
        for name in package.namelist():
            entry = PurePosixPath(name)
            is_code = "aotinductor" in entry.parts and entry.suffix in _CODE
            if not is_code and entry.name not in _HEADER:
                raise ArtifactError(f"{MODEL_FILE} must hold compiled code and no more, but holds {name!r}")
