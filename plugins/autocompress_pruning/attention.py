"""Where a model computes attention, by the names that its projections have, and what each head owns of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from autocompress_pruning.dependency import linear_types, widths

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


def head_owner(model: nn.Module, attention: Attention) -> nn.Module:
    """The module that reshapes to heads, and may keep their number."""
    return model.get_submodule(attention.queries.rpartition(".")[0])


def _attention(module: nn.Module, name: str, names: tuple[str, str, str, str]) -> Attention | None:
    """None where a layer is missing, or the widths of the layers do not make whole heads."""
    layers = [_submodule(module, layer) for layer in names]
    if not all(isinstance(layer, linear_types()) for layer in layers):
        return None
    queries, keys, _, output = layers
    inner = widths(output)[0]
    together = queries is keys
    key_width = inner if together else widths(keys)[1]
    owner = _submodule(module, names[0].rpartition(".")[0])
    head = _number(owner, HEAD_WIDTHS) or inner // (_number(owner, HEAD_COUNTS) or inner)
    if widths(queries)[1] != (3 * inner if together else inner) or inner % key_width or key_width % head:
        return None
    prefix = f"{name}." if name else ""
    return Attention(name, *(prefix + layer for layer in names), inner // head, key_width // head, head)


def _submodule(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _number(module: nn.Module | None, names: tuple[str, ...]) -> int | None:
    found = (getattr(module, name, None) for name in names)
    return next((number for number in found if isinstance(number, int)), None)
