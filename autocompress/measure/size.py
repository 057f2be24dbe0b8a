"""What the bytes of an artifact are: by file, by layer, by type, from the files themselves."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autocompress.artifact import Artifact, shipped_files

WHOLE_MODEL = "(model)"
"""The layer of what belongs to no single one: parameters of the model itself, tensors stored together, whole files."""
HEADER = "(header)"
"""The layer and type of what holds no weights: names, shapes, graphs, the recipe."""
_PARAMETER = re.compile(r"weight|bias|running_mean|running_var|num_batches_tracked")
_SAFETENSORS_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool", "C64": "complex64",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Some of the bytes that ship."""

    file: str
    name: str
    """The tensor's, as it is stored; empty for what is no tensor."""
    layer: str
    """Module path, `WHOLE_MODEL` or `HEADER`."""
    dtype: str
    """As it is stored: packed weights are integers of 8 bits. A file that cannot be looked into has its suffix."""
    size_bytes: int


@dataclass(frozen=True)
class Breakdown:
    """All bytes of the files that must ship, once each."""

    parts: tuple[Part, ...]

    @property
    def size_bytes(self) -> int:
        """Their sum: what `Artifact.size_bytes` says."""
        return sum(part.size_bytes for part in self.parts)

    def by(self, key: Callable[[Part], str]) -> dict[str, int]:
        """Bytes by what `key` says of a part, the largest first; like `by(lambda part: part.dtype)`."""
        sizes: Counter[str] = Counter()
        for part in self.parts:
            sizes[key(part)] += part.size_bytes
        return dict(sizes.most_common())

    def plain(self) -> dict[str, Any]:
        return {
            "size_bytes": self.size_bytes,
            "by_file": self.by(lambda part: part.file),
            "by_layer": self.by(lambda part: part.layer),
            "by_dtype": self.by(lambda part: part.dtype),
            "parts": [asdict(part) for part in self.parts],
        }


def size_breakdown(artifact: Artifact | str | Path) -> Breakdown:
    """The bytes that must ship, of an artifact or of its folder. Raises ArtifactError if its recipe cannot be read.

    Tensors are found in safetensors and, where `onnx` is installed, in ONNX files; other files count in whole.
    """
    folder = artifact.path if isinstance(artifact, Artifact) else Path(artifact)
    return Breakdown(tuple(part for name in shipped_files(folder) for part in _parts(folder / name)))


def layer_of(tensor: str) -> str:
    """The module that a stored tensor belongs to: `conv.weight`, `conv.weight.codes`, `conv.weight_scale` to `conv`."""
    components = tensor.split(".")
    position = next((i for i, part in enumerate(components) if _PARAMETER.search(part)), len(components) - 1)
    return ".".join(components[:position]) or WHOLE_MODEL


def _parts(path: Path) -> list[Part]:
    size = path.stat().st_size
    if path.suffix == ".json":
        return [Part(path.name, "", HEADER, HEADER, size)]
    found = list(_READERS.get(path.suffix, _opaque)(path))
    rest = size - sum(part.size_bytes for part in found)
    return [*found, Part(path.name, "", HEADER, HEADER, rest)] if rest else found


def _safetensors(path: Path) -> Iterator[Part]:
    """Tensors by the header: 8 bytes of its length, then JSON."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            dtype = _SAFETENSORS_TYPES.get(entry["dtype"], entry["dtype"])
            yield Part(path.name, name, layer_of(name), dtype, end - start)


def _onnx(path: Path) -> Iterator[Part]:
    """Initializers, each with its own name and shape; in whole without `onnx`, or if their data lie elsewhere."""
    try:
        import onnx
    except ImportError:
        yield from _opaque(path)
        return
    initializers = onnx.load(path, load_external_data=False).graph.initializer
    dotted = [tensor.name for tensor in initializers if "." in tensor.name]
    # What was exported with a wrapper around the model has its name before all of them.
    prefix = "model." if dotted and all(name.startswith("model.") for name in dotted) else ""
    for tensor in initializers:
        dtype = onnx.TensorProto.DataType.Name(tensor.data_type).lower().replace("float8e4m3fn", "float8_e4m3fn")
        layer = layer_of(tensor.name.removeprefix(prefix))
        yield Part(path.name, tensor.name, layer, "float32" if dtype == "float" else dtype, tensor.ByteSize())


def _opaque(path: Path) -> Iterator[Part]:
    yield Part(path.name, "", WHOLE_MODEL, path.suffix or path.name, path.stat().st_size)


_READERS: dict[str, Callable[[Path], Iterator[Part]]] = {".safetensors": _safetensors, ".onnx": _onnx}
