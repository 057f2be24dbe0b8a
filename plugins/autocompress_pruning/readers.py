"""Which layers read a layer's columns, found by letting NaN stand in them; and their inputs cut to match."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from autocompress.effect import outputs
from autocompress_pruning.replay import encode
from autocompress_pruning.scattered import Scattered

KINDS = (nn.Linear, nn.LSTM, nn.GRU)


def find_readers(model: nn.Module, scattered: str, inputs: Any) -> dict[str, str]:
    """Linear and recurrent layers whose inputs hold columns of the scattered layer that are gone, as ranges of columns.

    What stands in those is only proposed: the columns may have been mixed with others on the way, or be read elsewhere.
    Layers that share a weight are left out.
    """
    source = model.get_submodule(scattered)
    assert isinstance(source, Scattered)
    own, shared = set(source.modules()), shared_parameters(model)
    seen: dict[str, set[str]] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: _note(args, seen.setdefault(name, set())))
        for name, layer in model.named_modules()
        if type(layer) in KINDS and layer not in own and shared.isdisjoint(layer.parameters())
    ]
    source.fill = float("nan")
    try:
        outputs(model, inputs)
    except Exception:  # the user's forward, which may not like NaN
        return {}
    finally:
        source.fill = 0.0
        for hook in hooks:
            hook.remove()
    return {name: columns.pop() for name, columns in seen.items() if len(columns) == 1 and columns != {""}}


def _note(args: tuple[Any, ...], seen: set[str]) -> tuple[Any, ...] | None:
    """Notes the columns with NaN, and gives the layer zeros there: what comes behind it reads its outputs, not them."""
    if not args:
        return None
    packed = args[0] if isinstance(args[0], PackedSequence) else None
    values = packed.data if packed is not None else args[0]  # (..., columns)
    gone = values.isnan().flatten(0, -2).any(dim=0) if values.ndim > 1 else values.isnan()
    if gone.all():
        return None  # a norm or the like mixed them with all others
    seen.add(encode(gone.nonzero().flatten().tolist()))
    clean = values.masked_fill(values.isnan(), 0.0)
    return (packed._replace(data=clean) if packed is not None else clean, *args[1:])


def cut(reader: nn.Module, columns: list[int]) -> None:
    """Takes columns out of a layer's inputs, in place."""
    if isinstance(reader, nn.Linear):
        names = ["weight"]
    else:
        names = [name for name in ("weight_ih_l0", "weight_ih_l0_reverse") if hasattr(reader, name)]
    for name in names:
        weight = reader.get_parameter(name)
        stay = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        stay[columns] = False
        set_weight(reader, name, weight.detach()[:, stay])
    width = reader.get_parameter(names[0]).shape[1]
    setattr(reader, "in_features" if isinstance(reader, nn.Linear) else "input_size", width)


def set_weight(layer: nn.Module, name: str, weight: Tensor) -> None:
    """A new parameter of another shape; it is trained if the old one was."""
    trained = layer.get_parameter(name).requires_grad
    setattr(layer, name, nn.Parameter(weight.clone(), requires_grad=trained))


def replace(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The model with another layer under the name; the layer itself if the name is the model's."""
    if not name:
        return layer
    model.set_submodule(name, layer)
    return model


def shared_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Parameters with several names in the model: tied, or of a layer that stands in two places."""
    uses = Counter(parameter for _, parameter in model.named_parameters(remove_duplicate=False))
    return {parameter for parameter, count in uses.items() if count > 1}


def same_tensors(model: nn.Module) -> nn.Module:
    """A copy of the model that holds the same tensors: its layers may be replaced and cut, which makes new ones."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
