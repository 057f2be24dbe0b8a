"""Weights that a step left as they were without saying so."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from autocompress.leaves import leaves
from autocompress.method import Method, Technique

Form = tuple[torch.Size, torch.dtype]
_PARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original\d*")


def weights_of(model: nn.Module) -> dict[str, Form]:
    """Shape and type of each floating-point parameter of two dimensions and more."""
    names = {name for name, _ in model.named_parameters()}
    return {
        name: (tensor.shape, tensor.dtype)
        for name, tensor in leaves(model).items()
        if name in names and tensor.is_floating_point() and tensor.ndim > 1
    }


def left_alone(
    method: Method, before: Mapping[str, Form], stored: Mapping[str, Tensor], told: Collection[str]
) -> dict[str, str]:
    """Those weights that are stored as before, with the reason; those of one module together.

    Of methods that are for all weights of their kinds: quantization and factorization. `told` are the layers and
    weights that the method names itself.
    """
    if method.technique not in (Technique.QUANTIZATION, Technique.FACTORIZATION):
        return {}
    found: dict[str, set[str]] = defaultdict(set)
    for name, form in before.items():
        same = name in stored and (stored[name].shape, stored[name].dtype) == form
        known = _PARAMETRIZED.sub(r"\1", name)
        if same and not any(f"{known}.".startswith(f"{layer}.") for layer in told):
            found[known.rpartition(".")[0]].add(known)
    reason = f"of no kind that {method.name} works on"
    return dict(_told(module, sorted(names), reason) for module, names in found.items())


def _told(module: str, names: list[str], reason: str) -> tuple[str, str]:
    if len(names) == 1:
        return names[0], f"it is {reason}"
    return module or "(model)", f"its {', '.join(name.rpartition('.')[2] for name in names)} are {reason}"
