"""A device's memory: the peak in inference, and what is free."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autocompress.leaves import leaves
from autocompress.measure.device import Target
from autocompress.tensors import call


def peak_memory_bytes(model: nn.Module, inputs: Any, target: Target) -> int | None:
    """The model's tensors on the GPU, and the most that one call takes of torch's allocator beyond what is taken.

    None on a CPU, whose allocator keeps no peak.
    """
    if not target.is_cuda:
        return None
    device = target.torch_device
    call(model, inputs)  # workspaces that are taken once, and by whoever comes first
    own = sum(tensor.nbytes for tensor in leaves(model).values() if tensor.is_cuda)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    output = call(model, inputs)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    del output
    return own + peak - before


def free_memory_bytes(device: torch.device) -> int | None:
    """What a GPU has left for this process, with what torch's allocator holds in reserve; None on a CPU."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
