"""What a step did to a model: the guard against methods that change nothing, or change more than they say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.leaves import leaves
from autocompress.tensors import call, map_tensors

Structure = dict[str, tuple[object, ...]]


@dataclass(frozen=True)
class Change:
    """One step's effect in one moment, as kept with the trial."""

    method: str
    moment: str
    """`reshape`, `finalize` or `pack`."""
    modules_changed: int
    """Modules and tensors that are new, gone or of another type, shape or dtype."""
    parameters_removed: int
    bytes_before: int
    bytes_after: int
    dtypes: dict[str, int] = field(default_factory=dict)
    """Tensors by dtype, afterwards."""
    output_error: float | None = None
    """RMS of the outputs' difference by the RMS of the outputs; None where training comes in between."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Layers left as they were, with the reason."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        error = "" if self.output_error is None else f", outputs differ by {self.output_error:.2g}"
        return (
            f"{self.method} ({self.moment}): {self.modules_changed} modules and tensors changed,"
            f" {self.parameters_removed} parameters removed, {self.bytes_before} -> {self.bytes_after} bytes{error}"
            + "".join(f"\n  {layer} left as it was: {reason}" for layer, reason in self.skipped.items())
        )


def compare(before: nn.Module | Snapshot, after: nn.Module, method: str, moment: str) -> Change:
    """What changed between a snapshot and a model."""
    old, new = (before if isinstance(before, Snapshot) else Snapshot.of(before)), Snapshot.of(after)
    names = old.structure.keys() | new.structure.keys()
    return Change(
        method=method,
        moment=moment,
        modules_changed=sum(old.structure.get(name) != new.structure.get(name) for name in names),
        parameters_removed=old.parameters - new.parameters,
        bytes_before=old.bytes,
        bytes_after=new.bytes,
        dtypes=new.dtypes,
    )


@dataclass(frozen=True)
class Snapshot:
    """A model's structure and counts at one moment."""

    structure: Structure
    parameters: int
    bytes: int
    file_bytes: int
    dtypes: dict[str, int]

    @classmethod
    def of(cls, model: nn.Module) -> Snapshot:
        tensors = leaves(model)
        return cls(
            structure(model),
            sum(parameter.numel() for parameter in model.parameters()),
            byte_count(tensors),
            file_bytes(tensors),
            dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())),
        )


def structure(model: nn.Module) -> Structure:
    """Module types and leaf tensors' shapes, layouts and dtypes: what must differ after a step that had an effect."""
    modules: Structure = {f"<{name}>": (type(module).__name__,) for name, module in model.named_modules()}
    tensors = {name: (tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in leaves(model).items()}
    return modules | tensors


def byte_count(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """About what they take in a file: their own bytes, and the JSON that says where each is."""
    names = {
        name: {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [0, 0]} for name, tensor in tensors.items()
    }
    return byte_count(tensors) + len(json.dumps(names, separators=(",", ":")))


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All floating-point tensors that the model gives, in order, as float32 on the CPU; without any, all integers."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor.detach().cpu())
        return tensor

    with torch.no_grad():
        map_tensors(note, call(model.eval(), inputs))
    integers = [tensor for tensor in found if not tensor.is_floating_point() and not tensor.is_complex()]
    return [tensor.float() for tensor in found if tensor.is_floating_point()] or integers


def output_error(actual: list[Tensor], expected: list[Tensor]) -> float:
    """RMS of the difference by the RMS of what is expected; infinite when number or shapes of tensors differ.

    So it is where one is finite and the other is not. Equal infinities, as masked scores are, and NaN in both do not
    differ, and have no part in the RMS. Of integers, such as classes, it is the share that differs.
    """
    if [tensor.shape for tensor in actual] != [tensor.shape for tensor in expected]:
        return float("inf")
    if not expected:
        return 0.0
    if not expected[0].is_floating_point():
        differ = torch.cat([(own != other).flatten() for own, other in zip(actual, expected, strict=True)])
        return float(differ.double().mean())
    own, scale = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (actual, expected))
    finite = own.isfinite() & scale.isfinite()
    if not torch.allclose(own[~finite], scale[~finite], rtol=0, atol=0, equal_nan=True):
        return float("inf")
    difference, scale = (own - scale)[finite], scale[finite]
    return float(difference.double().norm() / scale.double().norm().clamp_min(1e-12))
