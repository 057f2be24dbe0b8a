"""How fast a model could be on a device: bounds from its cost and the device's limits.

Williams, Waterman & Patterson 2009, "Roofline: An Insightful Visual Performance Model for Multicore Architectures".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from autocompress.errors import InvalidInput
from autocompress.measure.cost import Cost
from autocompress.measure.probe import DeviceLimits

Binding = Literal["compute", "memory", "launch"]


@dataclass(frozen=True)
class Bounds:
    """Times that one forward pass cannot go below, under three assumptions.

    Bytes are taken to come from main memory: a model whose weights and activations stay in the caches from call to
    call can go below the bounds that memory sets. The launch floor is that of operators launched one by one: a
    compiler that fuses them goes below it.
    """

    dtype: str
    """The type of the products, whose peak was taken."""
    compute_ms: float
    """All FLOPs at the peak."""
    memory_ms: float
    """Weights, inputs and outputs once, at the bandwidth."""
    per_operator_ms: float
    """Every operator at its own roof, its tensors read from memory and written back: no fusion."""
    launch_ms: float
    """All launches, one after another, if the kernels took no time."""
    binding: Binding
    """What holds the model back most as eager PyTorch runs it: launches where their floor is the highest bound, else
    arithmetic or memory, whichever roof its operators spend more of their bound under."""
    unseen: tuple[str, ...]
    """What the cost leaves out, in words: with it the bounds would be higher."""

    @property
    def fused_ms(self) -> float:
        """As if all operators were one kernel, overlapping arithmetic with memory."""
        return max(self.compute_ms, self.memory_ms)

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"fused_ms": self.fused_ms}


def bounds(cost: Cost, limits: DeviceLimits, dtype: str = "float32", *, graphed: bool = False) -> Bounds:
    """The bounds of one forward pass with products of `dtype`, one of `DeviceLimits.matmul_flops_per_s`.

    On a GPU, where float32 convolutions and products may run in TF32, only "tf32" gives a bound for them. `graphed` is
    for a model that is replayed as a CUDA graph. Raises InvalidInput when the limit or the cost is not known, and why.
    """
    if cost.flops is None:
        raise InvalidInput(f"bounds need a model's cost, but {'; '.join(cost.unseen)}")
    peak, bandwidth = _peak(limits, dtype), limits.bandwidth_bytes_per_s
    by_compute = by_memory = 0.0
    for operator in cost.operators:
        compute, memory = operator.flops / peak, operator.moved_bytes / bandwidth
        if compute > memory:
            by_compute += operator.calls * compute
        else:
            by_memory += operator.calls * memory
    launch_ms, per_operator_ms = cost.launches * _launch_us(limits, graphed) / 1e3, (by_compute + by_memory) * 1e3
    slower: Binding = "compute" if by_compute > by_memory else "memory"
    return Bounds(
        dtype=dtype,
        compute_ms=cost.flops / peak * 1e3,
        memory_ms=cost.compulsory_bytes / bandwidth * 1e3,
        per_operator_ms=per_operator_ms,
        launch_ms=launch_ms,
        binding="launch" if launch_ms > per_operator_ms else slower,
        unseen=cost.unseen,
    )


def gap_closed(baseline_ms: float, model_ms: float, bound_ms: float) -> float | None:
    """How much of the way from the baseline to the bound a model has gone: 0 is the baseline's speed, 1 the bound's.

    Negative when it is slower than the baseline; above 1 when it went below what was taken for a bound (data in caches,
    fused operators, another runtime's kernels). None when the baseline leaves no gap.
    """
    if baseline_ms <= bound_ms:
        return None
    return (baseline_ms - model_ms) / (baseline_ms - bound_ms)


def _peak(limits: DeviceLimits, dtype: str) -> float:
    if dtype in limits.matmul_flops_per_s:
        return limits.matmul_flops_per_s[dtype]
    why = limits.not_measured.get(dtype, "the probe does not know it")
    known = ", ".join(limits.matmul_flops_per_s)
    raise InvalidInput(f"bounds need a type whose peak was measured: {known}; but got {dtype!r}: {why}")


def _launch_us(limits: DeviceLimits, graphed: bool) -> float:
    if not graphed:
        return limits.launch_us
    if limits.graph_launch_us is None:
        raise InvalidInput(f"a CUDA graph needs a GPU, but the limits are those of {limits.device}")
    return limits.graph_launch_us
