"""Where a model computes attention, by the names that its projections have, and what each head owns of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress_pruning.dependency import linear_types, widths
from autocompress_pruning.replay import Removal, encode, replay

_NAMES = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_proj", "k_proj", "v_proj", "dense"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
    ("q", "k", "v", "o"),
    ("self.query", "self.key", "self.value", "output.dense"),
    ("c_attn", "c_attn", "c_attn", "c_proj"),
    ("qkv", "qkv", "qkv", "proj"),
)
"""Projections to queries, keys and values and back, as the models of Hugging Face and timm name them."""
HEAD_WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim")
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads")


@dataclass(frozen=True)
class Attention:
    """One attention with linear layers for its projections, all by name."""

    name: str
    queries: str
    keys: str
    values: str
    """The same name three times when one layer gives all three, one after the other."""
    output: str
    heads: int
    key_heads: int
    """Fewer than `heads` where several share keys and values (Ainslie et al. 2023, "GQA")."""
    head_width: int

    @property
    def together(self) -> bool:
        return self.queries == self.keys

    @property
    def projections(self) -> set[str]:
        return {self.queries, self.keys, self.values}

    def query_channels(self, head: int) -> list[int]:
        """What a head of keys and values owns of the queries, and of what the output projection takes."""
        width = self.head_width * (self.heads // self.key_heads)
        return list(range(head * width, (head + 1) * width))

    def key_channels(self, head: int) -> list[int]:
        """What it owns of the keys, and of the values."""
        return list(range(head * self.head_width, (head + 1) * self.head_width))


def attentions(model: nn.Module) -> Iterator[Attention]:
    """The attentions made of linear layers; `nn.MultiheadAttention`, which is one layer, is not among them."""
    for name, module in model.named_modules():
        found = (_attention(module, name, names) for names in _NAMES)
        yield from [attention for attention in found if attention is not None][:1]


def remove_heads(model: nn.Module, heads: Mapping[str, Sequence[int]]) -> nn.Module:
    """`model` without these heads of keys and values, and the heads of queries that use them, by attention's name."""
    for name in heads:
        module = model.get_submodule(name)
        if isinstance(module, nn.MultiheadAttention):
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, SplitAttention(module))
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # it would look for the weights of nn.MultiheadAttention
    chosen = [attention for attention in attentions(model) if attention.name in heads]
    removals = [removal for attention in chosen for removal in _removals(attention, heads[attention.name])]
    for attention in chosen:
        _tell_numbers(_owner(model, attention), attention, len(heads[attention.name]))
    return replay(model, removals)


def _removals(attention: Attention, heads: Sequence[int]) -> list[Removal]:
    queries = [channel for head in heads for channel in attention.query_channels(head)]
    keys = [channel for head in heads for channel in attention.key_channels(head)]
    back = Removal(removed=encode(queries), into=[attention.output])
    if attention.together:
        width = attention.heads * attention.head_width
        rows = [shift + channel for shift in (0, width, 2 * width) for channel in queries]
        return [Removal(removed=encode(rows), out=[attention.queries]), back]
    return [
        Removal(removed=encode(queries), out=[attention.queries]),
        Removal(removed=encode(keys), out=[attention.keys, attention.values]),
        back,
    ]


def _owner(model: nn.Module, attention: Attention) -> nn.Module:
    """The module that reshapes to heads, and may keep their number."""
    return model.get_submodule(attention.queries.rpartition(".")[0])


def _tell_numbers(owner: nn.Module, attention: Attention, removed: int) -> None:
    """The numbers of heads, and the widths of all together, that the module keeps."""
    left = attention.key_heads - removed
    for names, before in (
        (HEAD_COUNTS, attention.heads),
        (("num_key_value_heads",), attention.key_heads),
        (("split_size", "all_head_size", "inner_dim", "embed_dim"), attention.heads * attention.head_width),
    ):
        for name in names:
            if getattr(owner, name, None) == before:
                setattr(owner, name, before // attention.key_heads * left)


class SplitAttention(nn.Module):
    """`nn.MultiheadAttention` with a linear layer for each projection, so that it can have fewer heads than it had.

    Takes and gives the same, for batched inputs and masks (L, S) that all heads share.
    """

    in_proj_bias = None
    """What PyTorch's own encoder layers look at before they take a shortcut past `forward`."""

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_dim, self.dropout, self.batch_first = source.head_dim, source.dropout, source.batch_first
        together = source.in_proj_weight
        weights = (
            (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight)
            if together is None
            else together.chunk(3)
        )
        biases = (None, None, None) if source.in_proj_bias is None else source.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (
            _linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)
        )
        self.out_proj = source.out_proj
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            projection.requires_grad_(source.out_proj.weight.requires_grad)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`; `is_causal` is a hint there, and not needed here."""
        if not self.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        mask = _mask(query, key_padding_mask, attn_mask)
        q, k, v = (
            projection(tensor).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, heads, L, head_dim)
            for projection, tensor in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        weights = None
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            logits = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = (logits if mask is None else logits + mask).softmax(dim=-1)  # (B, heads, L, S)
            mixed = functional.dropout(weights, dropout) @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), weights


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone())  # type: ignore[assignment]
    return layer


def _mask(query: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
    """Both masks as one that is added, (B or 1, 1, L or 1, S); raises ValueError for one that differs by head."""
    if attn_mask is not None and attn_mask.dim() != 2:
        raise ValueError(f"attn_mask must be (L, S) after heads were removed, but has shape {tuple(attn_mask.shape)}")
    masks = [
        _added(mask, query)
        for mask in (
            None if attn_mask is None else attn_mask[None, None],
            None if key_padding_mask is None else key_padding_mask[:, None, None],
        )
        if mask is not None
    ]
    return sum(masks[1:], start=masks[0]) if masks else None


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """True where attention is not allowed becomes minus infinity."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def _attention(module: nn.Module, path: str, names: tuple[str, str, str, str]) -> Attention | None:
    """None where a layer is missing, or the widths of the layers do not make whole heads."""
    layers = [layer for layer in (_submodule(module, name) for name in names) if isinstance(layer, linear_types())]
    if len(layers) < len(names):
        return None
    queries, keys, _, output = layers
    inner = widths(output)[0]
    together = queries is keys
    key_width = inner if together else widths(keys)[1]
    owner = _submodule(module, names[0].rpartition(".")[0])
    head = _number(owner, HEAD_WIDTHS) or inner // (_number(owner, HEAD_COUNTS) or inner)
    if widths(queries)[1] != (3 * inner if together else inner) or inner % key_width or key_width % head:
        return None
    paths = [f"{path}.{layer}" if path else layer for layer in names]
    return Attention(path, paths[0], paths[1], paths[2], paths[3], inner // head, key_width // head, head)


def _submodule(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _number(module: nn.Module | None, names: tuple[str, ...]) -> int | None:
    found = (getattr(module, name, None) for name in names)
    return next((number for number in found if isinstance(number, int)), None)
