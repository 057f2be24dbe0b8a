"""A training that is halted after an epoch, as plain tensors and JSON."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on, here or in another process, as if it had not been halted."""

    tensors: Mapping[str, Tensor]
    """Of the model, the optimizer and torch's random numbers, by name, on the CPU."""
    state: Mapping[str, Any]
    """The rest, as plain data: `epochs` that are done, `batch_size`, the learning rate's schedule."""

    @property
    def epochs(self) -> int:
        """Those that are done."""
        done: int = self.state["epochs"]
        return done


def on_cpu(tensors: list[Tensor], name: str) -> dict[str, Tensor]:
    """Copies, numbered: `model.0`."""
    return {
        f"{name}.{index}": tensor.detach().to("cpu", copy=True).contiguous() for index, tensor in enumerate(tensors)
    }


def put_back(tensors: list[Tensor], name: str, kept: Mapping[str, Tensor]) -> None:
    """The same copies, into the tensors that they are of."""
    with torch.no_grad():
        for index, tensor in enumerate(tensors):
            tensor.copy_(kept[f"{name}.{index}"])


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Its tensors, `optimizer.<parameter>.<name>`, and its groups of parameters as plain data."""
    state = optimizer.state_dict()
    tensors = {
        f"optimizer.{index}.{name}": tensor.detach().to("cpu", copy=True).contiguous()
        for index, values in state["state"].items()
        for name, tensor in values.items()
    }
    return tensors, state["param_groups"]


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """What `optimizer_state` gave, into an optimizer of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, index, *rest = name.split(".")
        if kind == "optimizer":
            state.setdefault(int(index), {})[".".join(rest)] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def random_state(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Of torch's generators, and of Python's and NumPy's, which the user's data may draw from."""
    tensors = {"random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    return tensors, {"python": [version, list(numbers), gauss], "numpy": [kind, np.asarray(keys).tolist(), *rest]}


def restore_random(device: torch.device, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
