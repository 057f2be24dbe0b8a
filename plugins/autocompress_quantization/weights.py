"""The weights that can be quantized: where they are, and which dimension counts their output channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_EMBEDDINGS)
RESCALED = "its rows are rescaled to `max_norm` in place where they are read"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Weight:
    """A parameter of a layer."""

    name: str
    """In the model; the first of its names where layers share it."""
    parameter: nn.Parameter
    axis: int
    """The dimension that counts output channels, or the rows of an embedding."""
    owners: tuple[tuple[nn.Module, str], ...]
    """The layers that hold it, and the name that it has there."""

    @property
    def layer(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def is_embedding(self) -> bool:
        """Whether it is a table that is looked up in, be it another layer's weight too."""
        return any(isinstance(module, _EMBEDDINGS) for module, _ in self.owners)

    @property
    def bytes(self) -> int:
        return self.parameter.numel() * self.parameter.element_size()


def find_weights(model: nn.Module) -> list[Weight]:
    """All floating-point weights of layers of known kinds, in the order of the model's modules.

    Left out: what a quantizer has replaced, and what `unfit_weights` tells.
    """
    found: dict[int, Weight] = {}
    rescaled = rescaled_tables(model)
    for name, module, attribute, axis in _slots(model):
        parameter = module._parameters.get(attribute)
        if parameter is None or parameter.dtype not in FLOATS or is_traceable_wrapper_subclass(parameter):
            continue
        if id(parameter) in rescaled:
            continue
        known = found.get(id(parameter))
        owners = (*(known.owners if known else ()), (module, attribute))
        found[id(parameter)] = Weight(known.name if known else name, parameter, axis, owners)
    return list(found.values())


def unfit_weights(model: nn.Module) -> dict[str, str]:
    """Weights of the known kinds that `find_weights` leaves out, with the reason."""
    rescaled = rescaled_tables(model)
    found = {}
    for name, module, attribute, _ in _slots(model):
        parameter = module._parameters.get(attribute)
        if is_parametrized(module, attribute):
            found[name] = "a parametrization computes it"
        elif id(parameter) in rescaled:
            found[name] = RESCALED
        elif parameter is not None and parameter.is_floating_point() and parameter.dtype not in FLOATS:
            found[name] = f"its type is {str(parameter.dtype).removeprefix('torch.')}"
    return found


def rescaled_tables(model: nn.Module) -> set[int]:
    """The `id` of each table whose rows a lookup rescales in place, be it another layer's weight too."""
    return {
        id(module._parameters.get("weight"))
        for module in model.modules()
        if isinstance(module, _EMBEDDINGS) and module.max_norm is not None
    }


def _slots(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, int]]:
    """Name, layer, attribute and channels' dimension of each place of a weight."""
    for prefix, module in model.named_modules():
        for attribute in _attributes(module):
            axis = 1 if isinstance(module, _TRANSPOSED) or is_transformers_conv1d(module) else 0
            yield (f"{prefix}.{attribute}" if prefix else attribute), module, attribute, axis


def _attributes(module: nn.Module) -> list[str]:
    """Names of a layer's weights; none of a layer of unknown kind."""
    if isinstance(module, _PLAIN + _TRANSPOSED) or is_transformers_conv1d(module):
        return ["weight"]
    if isinstance(module, nn.MultiheadAttention):
        return ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
    if isinstance(module, nn.RNNBase):
        return [name for name in module._flat_weights_names if name.startswith("weight_")]
    if isinstance(module, nn.RNNCellBase):
        return ["weight_ih", "weight_hh"]
    return []


def is_transformers_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2, whose weight is (in, out); transformers need not be there."""
    kinds = {(kind.__module__, kind.__name__) for kind in type(module).__mro__}
    return ("transformers.pytorch_utils", "Conv1D") in kinds
