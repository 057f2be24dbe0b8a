"""Which channels depend on one another: Torch-Pruning's groups, found by tracing the model once."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from autocompress import NotApplicable
from autocompress.tensors import call, map_tensors
from autocompress_pruning.attention import attentions
from autocompress_pruning.dependency import dependency_graph, linear_types
from autocompress_pruning.replay import Removal, encode

_STEPS_A_NODE = 20
"""How often a search of the graph may come to a node; a group of a trained model's takes it there a few times."""


@dataclass(frozen=True)
class Member:
    """A layer, or a parameter that belongs to none, that has channels of a group."""

    name: str
    into: bool
    """Whether they are channels that the layer takes, not ones that it gives."""
    indices: list[int]
    roots: list[int]
    """The group's channel that each index belongs to."""
    dimension: int | None = None
    """Of a parameter: where the channels are."""


@dataclass(frozen=True)
class Group:
    """Channels that all of its members must lose together (Fang et al. 2023, "DepGraph")."""

    root: str
    """The layer that the search started from, which has each channel once."""
    size: int
    blocks: int
    """Each block of `size / blocks` channels must lose the same ones (grouped convolutions, norms, heads)."""
    kind: str
    """Alike for groups of like layers, connected alike (Fang et al. 2024, "Isomorphic Pruning")."""
    members: tuple[Member, ...]

    def removals(self, channels: Collection[int]) -> list[Removal]:
        """What goes with these channels; members that lose the same indices share one entry."""
        gone, found = set(channels), dict[str, Removal]()
        for member in self.members:
            indices = [index for index, root in zip(member.indices, member.roots, strict=True) if root in gone]
            removal = found.setdefault(encode(indices), Removal())
            if member.dimension is not None:
                removal.setdefault("parameters", {})[member.name] = member.dimension
            elif member.into:
                removal.setdefault("into", []).append(member.name)
            else:
                removal.setdefault("out", []).append(member.name)
        return [Removal(removed=removed, **removal) for removed, removal in found.items() if removed]


def removals(groups: Sequence[Group], chosen: Mapping[str, list[int]]) -> list[Removal]:
    """What goes with these channels, by the root of their group."""
    return [removal for group in groups if group.root in chosen for removal in group.removals(chosen[group.root])]


def find_groups(model: nn.Module, inputs: Any) -> list[Group]:
    """All groups of channels that might go. `inputs` is one small batch.

    Left out are the channels that are the model's outputs, and those inside attention, which belong to its heads.
    Raises NotApplicable if the model cannot be traced.
    """
    traced = copy.deepcopy(model).requires_grad_(True)  # what is frozen would leave no trace
    heads = {layer for attention in attentions(traced) for layer in attention.projections}
    try:
        with torch.enable_grad(), warnings.catch_warnings(), _in_one_step(traced):
            # It says so where its search of the graph would take hours.
            warnings.filterwarnings("error", "Maximum recursive depth", UserWarning)
            graph = dependency_graph().build_dependency(traced, inputs, forward_fn=_outputs, verbose=False)
            _correct_widths(graph)
            found = _search(graph)
    except Exception as error:  # the user's forward, or Torch-Pruning
        raise NotApplicable(
            f"Torch-Pruning must be able to follow the channels through the model, but {_why(error)}"
        ) from error
    groups = [_group(traced, graph, group) for group in found if not _gives_outputs(graph, group)]
    return [
        group
        for group in groups
        if group is not None and not any(member.name in heads and not member.into for member in group.members)
    ]


def _why(error: Exception) -> str:
    """In words: what Torch-Pruning says of itself is of no use to whoever has the model."""
    if isinstance(error, (_Endless, UserWarning)):
        return "its search for channels that depend on one another has no end"
    return "it does not understand what the model's forward does with them"


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All tensors that the model gives and that a gradient can come from, whatever holds them."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        if tensor.requires_grad:
            found.append(tensor)
        return tensor

    map_tensors(note, call(model, inputs))
    return found


@contextmanager
def _in_one_step(model: nn.Module) -> Iterator[None]:
    """Makes the graph go straight through recurrent layers, and from attention's projections to its output projection.

    What is in between (gates, heads, rotary positions) has other channels, and Torch-Pruning takes hours to see.
    """
    hooks = [
        module.register_forward_hook(_join_outputs) for module in model.modules() if isinstance(module, nn.RNNBase)
    ]
    for attention in attentions(model):
        given: dict[str, Tensor] = {}

        def note(module: nn.Module, args: Any, output: Tensor, given: dict[str, Tensor] = given) -> None:
            given[str(id(module))] = output

        def join(module: nn.Module, args: tuple[Tensor], given: dict[str, Tensor] = given) -> tuple[Tensor, ...]:
            return _joined([args[0]], list(given.values()))

        hooks += [model.get_submodule(name).register_forward_hook(note) for name in sorted(attention.projections)]
        hooks.append(model.get_submodule(attention.output).register_forward_pre_hook(join))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _join_outputs(module: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
    """A recurrent layer's outputs and states, as if each were made of its input at once."""
    source, tensors = args[0], _tensors(outputs)
    made = iter(_joined(tensors, [source.data if isinstance(source, PackedSequence) else source]))
    return _replaced(outputs, made)


def _replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same nest of tuples with other tensors."""
    if isinstance(value, PackedSequence):
        return value._replace(data=next(tensors))
    return tuple(_replaced(item, tensors) for item in value) if isinstance(value, tuple) else next(tensors)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, PackedSequence):
        return [value.data]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, tuple) else [value]


def _joined(values: Sequence[Tensor], sources: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The values, as if one step had made them of the sources."""
    made: tuple[Tensor, ...] = _Join.apply(len(values), *(value.detach() for value in values), *sources)
    return made


class _Join(torch.autograd.Function):
    """Gives its first `count` tensors, as if made of the others. The graph is only looked at: there is no gradient."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.clone() for tensor in tensors[:count])


def _correct_widths(graph: Any) -> None:
    """Tells Torch-Pruning the true widths of what is flattened and then concatenated, which it takes for channels."""
    flatten = tp.dependency.index_mapping._FlattenIndexMapping
    for node in graph.module2node.values():
        shapes = [_shape(source) for source in node.inputs]
        if node.type == tp.ops.OPTYPE.CONCAT and node.module.concat_sizes and all(len(shape) > 1 for shape in shapes):
            node.module.concat_sizes = [shape[1] for shape in shapes]
        shape = _shape(node)
        if node.type != tp.ops.OPTYPE.RESHAPE or len(shape) != 2 or len(shapes) != 1 or len(shapes[0]) < 3:
            continue
        stride = math.prod(shapes[0][2:])
        if shape[1] == shapes[0][1] * stride:
            source = node.inputs[0]
            node.type = tp.ops.OPTYPE.ELEMENTWISE  # or it would be guessed again before each search
            for dep in (dep for dep in source.dependencies if dep.target is node):
                dep.index_mapping[0] = flatten(stride=stride)
            for dep in (dep for dep in node.dependencies if dep.target is source):
                dep.index_mapping[0] = flatten(stride=stride, reverse=True)


def _shape(node: Any) -> tuple[int, ...]:
    """Of what a node gives; empty where autograd does not tell."""
    metadata = getattr(node.grad_fn, "_input_metadata", None)
    return tuple(metadata[0].shape) if metadata else ()


def _search(graph: Any) -> list[Any]:
    """Torch-Pruning's groups. The search for one takes time without end where many paths part and join: it is bounded.

    Raises _Endless where the bound is met.
    """
    steps = _Steps(_STEPS_A_NODE * len(graph.module2node))
    for node in graph.module2node.values():
        node.dependencies = _Counted(node.dependencies, steps)
    found = []
    for group in graph.get_all_groups(ignored_layers=[], root_module_types=(nn.modules.conv._ConvNd, *linear_types())):
        found.append(group)
        steps.taken = 0
    return found


class _Endless(Exception):  # noqa: N818  (as in EndlessLoop)
    """The search for a group comes to the same nodes again and again."""


class _Steps:
    """How many steps may be taken in the search that is under way."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0

    def take(self) -> None:
        self.taken += 1
        if self.taken > self.limit:
            raise _Endless


class _Counted(list[Any]):
    """A node's dependencies; each look at them is a step."""

    def __init__(self, items: list[Any], steps: _Steps) -> None:
        super().__init__(items)
        self.steps = steps

    def __iter__(self) -> Iterator[Any]:
        self.steps.take()
        return super().__iter__()


def _gives_outputs(graph: Any, group: Any) -> bool:
    """Whether the group's channels are the model's outputs': nothing comes after a member that loses them."""
    return any(graph.is_out_channel_pruning_fn(dep.handler) and not dep.target.outputs for dep, _ in group)


def _group(model: nn.Module, graph: Any, group: Any) -> Group | None:
    """A group by names; None where it has a recurrent layer's units, or its indices belong to no channel.

    Torch-Pruning counts below zero, or beyond the last one, where it does not understand how a model reshapes.
    """
    modules = {id(module): name for name, module in model.named_modules()}
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    members, blocks, kind = [], 1, []
    for item in group:
        dep, indices = item
        module, roots = dep.target.module, item.root_idxs
        into = not graph.is_out_channel_pruning_fn(dep.handler)
        kind.append(f"{type(module).__name__} {'in' if into else 'out'}")
        if any(root is None for root in roots) or (isinstance(module, nn.RNNBase) and not into):
            return None
        if min(indices) < 0 or max(indices) >= _width(graph, dep.target, into):
            return None
        if id(module) in parameters:
            members.append(Member(parameters[id(module)], into, indices, roots, dep.target.pruning_dim))
        elif id(module) in modules:
            members.append(Member(modules[id(module)], into, indices, roots))
        blocks = math.lcm(blocks, _blocks(module))
    size = len(group[0].idxs)
    if size % blocks:
        return None
    return Group(members[0].name, size, blocks, "; ".join(kind), tuple(members))


def _width(graph: Any, node: Any, into: bool) -> float:
    """How many channels a member has; operations of no layer have any number."""
    if isinstance(node.module, nn.Parameter):
        return float(node.module.shape[node.pruning_dim])
    width = graph.get_in_channels(node) if into else graph.get_out_channels(node)
    return math.inf if width is None else width


def _blocks(module: Any) -> int:
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups != module.out_channels:
        return module.groups
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    # Torch-Pruning keeps the number of heads, so each head must lose as many channels as the others.
    return module.num_heads if isinstance(module, nn.MultiheadAttention) else 1
