"""Weights stored in 16 bits, run in 32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autocompress import Method, NotApplicable, Plan, Target, Task, Technique, Trait
from autocompress.leaves import leaves
from autocompress_quantization.weights import RESCALED, rescaled_tables

_SUFFIX = ".float16"
_NORMAL = torch.finfo(torch.float16).smallest_normal


class Float16Storage(Method):
    """Rounds weights and statistics to float16 values and stores those; the model runs in float32.

    Half the file at hardly any loss, on every device. Neither speed nor memory changes: where a GPU computes in 16
    bits, `half_precision` gains both. Tensors with values beyond float16's range stay float32, and so do embedding
    tables with `max_norm`, whose rows are rescaled in place.
    IEEE 754-2008, binary16.
    """

    name = "float16_storage"
    technique = Technique.QUANTIZATION
    gives = frozenset({Trait.PACKED})
    refuses = frozenset({Trait.QUANTIZED, Trait.PACKED, Trait.HALF})
    max_output_error = 0.02

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if there is no tensor to store in 16 bits."""
        model = task.trained_model()
        if not _halved(model):
            left = "".join(f"; {name}: {reason}" for name, reason in self.skipped(model, {}).items())
            raise NotApplicable(f"{self.name} halves float32 tensors of float16's range, but this model has none{left}")

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        rescaled = _rescaled(model)
        return {
            name: RESCALED if name in rescaled else "its values are beyond the range of float16"
            for name, tensor in leaves(model).items()
            if tensor.dtype == torch.float32 and (name in rescaled or not _fits(tensor))
        }

    def finalize(self, model: nn.Module, plan: Plan, task: Task, target: Target) -> nn.Module:
        for tensor in _halved(model):
            tensor.copy_(tensor.half())
        return model

    def pack(self, tensors: dict[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        return {
            name + _SUFFIX if _is_half(tensor) else name: tensor.half() if _is_half(tensor) else tensor
            for name, tensor in tensors.items()
        }

    def unpack(self, stored: dict[str, Tensor], like: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        return {
            name.removesuffix(_SUFFIX): tensor.float() if name.endswith(_SUFFIX) else tensor
            for name, tensor in stored.items()
        }


def _halved(model: nn.Module) -> list[Tensor]:
    """The tensors that it rounds."""
    rescaled = _rescaled(model)
    return [tensor for name, tensor in leaves(model).items() if name not in rescaled and _fits(tensor)]


def _rescaled(model: nn.Module) -> set[str]:
    """Names of tables that would not keep rounded values."""
    tables = rescaled_tables(model)
    return {name for name, parameter in model.named_parameters() if id(parameter) in tables}


def _fits(tensor: Tensor) -> bool:
    """Whether its largest magnitude is a normal number of float16, or all are 0."""
    if tensor.dtype != torch.float32 or tensor.numel() == 0:
        return False
    largest = float(tensor.abs().max())
    return largest == 0 or _NORMAL <= largest <= torch.finfo(torch.float16).max


def _is_half(tensor: Tensor) -> bool:
    """Whether float16 holds its values exactly."""
    return tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor)
