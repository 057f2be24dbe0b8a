"""The family of a model: what kind of layers it is made of."""

from __future__ import annotations

from enum import StrEnum

from torch import nn
from torch.nn.modules.conv import _ConvNd


class Family(StrEnum):
    """Models of one family are compressed well by the same recipes."""

    CNN = "cnn"
    TRANSFORMER = "transformer"
    RNN = "rnn"
    RECOMMENDER = "recommender"

    @property
    def plural(self) -> str:
        """As in `known good for CNNs`."""
        return f"{self.upper() if self in (Family.CNN, Family.RNN) else self}s"


def family_of(model: nn.Module) -> Family | None:
    """A transformer has attention; others are of the family of the layers that hold the most parameters.

    Those are convolutions, recurrent layers or embeddings, which make a recommender; None if it has none of them.
    Attention is told by its class, `nn.MultiheadAttention` or a name like `BertSelfAttention`, and does not count where
    convolutions hold most of the parameters.
    """
    held = dict.fromkeys((Family.CNN, Family.RNN, Family.RECOMMENDER), 0)
    attention = False
    for module in model.modules():
        parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if isinstance(module, _ConvNd):
            held[Family.CNN] += parameters
        elif isinstance(module, nn.RNNBase):
            held[Family.RNN] += parameters
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
            held[Family.RECOMMENDER] += parameters
        attention |= "attention" in type(module).__name__.lower()
    if attention and 2 * held[Family.CNN] < sum(parameter.numel() for parameter in model.parameters()):
        return Family.TRANSFORMER
    return max(held, key=lambda family: held[family]) if any(held.values()) else None
