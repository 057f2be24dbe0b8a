"""What a model's forward pass costs whatever the device: parameters, FLOPs, bytes moved, kernels launched."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from autocompress.leaves import leaves
from autocompress.measure.formulas import FORMULAS, multiplies_matrices
from autocompress.tensors import call, map_tensors

aten = torch.ops.aten
_NO_KERNEL = {
    aten.empty, aten.empty_like, aten.empty_strided, aten.empty_permuted, aten.new_empty, aten.new_empty_strided,
    aten._unsafe_view, aten.unsafe_chunk, aten.unsafe_split, aten.unsafe_split_with_sizes,
    aten.transpose_, aten.t_, aten.squeeze_, aten.unsqueeze_,
}  # fmt: skip
"""What launches no kernel, beside the views that say of themselves that they are."""
_LOOKUPS = {aten.embedding, aten.index, aten.index_select, aten.gather, aten.take}
"""They read no more of their first argument than they give."""
_WRITES = {aten.copy_, aten.fill_, aten.zero_}
"""They overwrite their first argument without reading it."""
_BATCH_NORMS = {aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten.cudnn_batch_norm}
"""At inference they give no statistics, only room for them on some devices."""


@dataclass(frozen=True)
class OperatorCost:
    """One operator at one size."""

    name: str
    flops: int
    """Of one call: of matrix products, convolutions and attention, two a multiply-add; 0 for all others."""
    moved_bytes: int
    """Bytes of the tensors that one call reads and writes."""
    calls: int


@dataclass(frozen=True)
class Cost:
    """One forward pass of a model, as eager PyTorch runs it."""

    parameters: int | None
    """None for a model that holds none in PyTorch."""
    flops: int | None
    """Two a multiply-add, by the formulas of `torch.utils.flop_counter`. None if nothing could be seen."""
    weight_bytes: int
    """Of weights and buffers that the operators read, each once; of a looked-up table, the rows."""
    input_bytes: int
    output_bytes: int
    operators: tuple[OperatorCost, ...]
    unseen: tuple[str, ...]
    """What the numbers leave out, in words; empty when nothing."""

    @property
    def macs(self) -> int | None:
        """Multiply-adds: half of the FLOPs."""
        return None if self.flops is None else self.flops // 2

    @property
    def launches(self) -> int:
        """Kernels launched: operators that compute, not views."""
        return sum(operator.calls for operator in self.operators)

    @property
    def compulsory_bytes(self) -> int:
        """What must move even if all operators were fused into one: weights, inputs and outputs, each once."""
        return self.weight_bytes + self.input_bytes + self.output_bytes

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"macs": self.macs, "launches": self.launches}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Cost:
        """The record that `plain` gave, as it comes back from JSON."""
        own = {field.name: data[field.name] for field in fields(cls)}
        operators = tuple(OperatorCost(**operator) for operator in own.pop("operators"))
        return cls(**own | {"operators": operators, "unseen": tuple(data["unseen"])})


def model_cost(model: nn.Module, inputs: Any) -> Cost:
    """Runs the model twice on `inputs`, on the device where both are, and counts what its operators do.

    A model on the meta device is counted without computing. What torch.compile compiled is counted as the eager
    operators it stands for, and so are the fused transformer layers.
    """
    counter = _Counter(model)
    with torch.no_grad(), _as_eager_operators():
        call(model.eval(), inputs)  # what is prepared at the first call is no part of the next
        with counter:
            outputs = call(model, inputs)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    hidden = counter.ran_elsewhere
    return Cost(
        parameters=None if hidden and not parameters else parameters,
        flops=None if hidden else sum(key[1] * calls for key, calls in counter.operators.items()),
        weight_bytes=counter.weight_bytes,
        input_bytes=_total_bytes(inputs),
        output_bytes=_total_bytes(outputs),
        operators=() if hidden else tuple(OperatorCost(*key, calls) for key, calls in counter.operators.items()),
        unseen=counter.unseen(model),
    )


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operator with its FLOPs and bytes."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: Counter[tuple[str, int, int]] = Counter()
        self.uncounted: dict[str, None] = {}
        self._weights = {name: tensor for name, tensor in leaves(model).items() if tensor.dim()}
        buffers = [buffer for buffer in model.buffers() if not is_traceable_wrapper_subclass(buffer)]
        self._storages = _bytes_by_storage([*self._weights.values(), *buffers])
        self._reads: Counter[int] = Counter()
        self._whole: set[tuple[Any, ...]] = set()

    @property
    def weight_bytes(self) -> int:
        return sum(min(read, self._storages[storage]) for storage, read in self._reads.items())

    @property
    def ran_elsewhere(self) -> bool:
        """Whether no operator read any weight, though there are some: then the model ran outside of PyTorch."""
        return bool(self._weights) and not self._reads

    def unseen(self, model: nn.Module) -> tuple[str, ...]:
        if self.ran_elsewhere:
            return (f"{type(model).__name__} runs outside of PyTorch's operators: no FLOPs, bytes or launches seen",)
        notes = [f"{name}: no formula for its FLOPs" for name in self.uncounted]
        unread = [name for name, tensor in self._weights.items() if _storage(tensor) not in self._reads]
        if unread:
            more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
            notes.append(f"tensors that no operator was seen to read: {', '.join(unread[:3])}{more}")
        codes = sum(b.numel() for b in model.buffers() if b.dtype in (torch.int8, torch.uint8))
        if codes:
            notes.append(f"{codes} integers of 8 bits in buffers, which are no parameters")
        return tuple(notes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        if any(is_traceable_wrapper_subclass(tensor) for tensor in given):
            return NotImplemented  # it takes itself apart into operators on plain tensors, which come by here again
        operator = getattr(func, "_overloadpacket", func)
        formula = FORMULAS.get(operator) or flop_registry.get(operator)
        if formula is None and hasattr(func, "decompose"):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        written = _tensors(result)
        if (given or written) and not getattr(func, "is_view", False) and operator not in _NO_KERNEL:
            if formula is None and multiplies_matrices(operator):
                self.uncounted[str(operator)] = None
            flops = int(formula(*args, **kwargs, out_val=result)) if formula else 0
            self._note(operator, flops, given, written)
        return result

    def _note(self, operator: Any, flops: int, given: list[Tensor], written: list[Tensor]) -> None:
        if operator in _BATCH_NORMS:
            written = written[:1]
        table = given.pop(0) if operator in _LOOKUPS else None
        if operator in _WRITES:
            given = given[1:]
        moved = sum(_bytes_by_storage(given).values()) + sum(_bytes_by_storage(written).values())
        self._note_reads(given)
        if table is not None:
            rows = min(_total_bytes(written), _bytes(table))
            moved += rows
            self._read(table, rows)
        self.operators[str(operator), flops, moved] += 1

    def _note_reads(self, tensors: Iterable[Tensor]) -> None:
        """What is read in whole counts once, however often it is read."""
        for tensor in tensors:
            part = _storage(tensor), tensor.storage_offset(), tensor.numel()
            if part not in self._whole:
                self._whole.add(part)
                self._read(tensor, _bytes(tensor))

    def _read(self, tensor: Tensor, count: int) -> None:
        if _storage(tensor) in self._storages:
            self._reads[_storage(tensor)] += count


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    """The identity of the memory that a tensor is a view of."""
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    """What must be read to read it all: an expanded tensor is no larger than its memory."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _bytes_by_storage(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes of views of one memory together, at most as many as it has."""
    found: Counter[int] = Counter()
    sizes: dict[int, int] = {}
    for tensor in tensors:
        found[_storage(tensor)] += _bytes(tensor)
        sizes[_storage(tensor)] = tensor.untyped_storage().nbytes()
    return {storage: min(count, sizes[storage]) for storage, count in found.items()}


def _total_bytes(value: Any) -> int:
    """Of all tensors in a nested value."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    map_tensors(note, value)
    return sum(sizes)


@contextlib.contextmanager
def _as_eager_operators() -> Iterator[None]:
    """Everything as operators one by one: not as torch.compile's kernels, nor as fused transformer layers."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    compiled = "torch._dynamo" in sys.modules  # else nothing can be compiled, and the import takes seconds
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
