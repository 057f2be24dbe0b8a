"""Embedding tables as products of a narrow table and a linear layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from autocompress import Plan
from autocompress_factorization.factorization import Factorization
from autocompress_factorization.low_rank import Factors, energies, linear, owners, parameter, replace, split
from autocompress_factorization.ranks import Ranks


class SvdEmbedding(Factorization):
    """Splits embedding tables (rows, width) into a table (rows, rank) and a linear layer (rank, width).

    For language models and recommenders, whose tables are most of their bytes. It does not make them faster: a lookup
    becomes a lookup and a multiplication. A linear head tied to the table stays tied to its factors and does gain
    operations. Lan et al. 2020, "ALBERT", trained from a truncated SVD of the table.
    """

    name = "svd_embedding"
    kind = "embedding tables"

    def layers(self, model: nn.Module) -> Mapping[str, str]:
        shared = owners(model)
        return {
            name: _obstacle(model, name, module, shared)
            for name, module in model.named_modules()
            if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        }

    def spectra(self, layer: nn.Module) -> list[Tensor]:
        assert isinstance(layer, nn.Embedding)
        return [energies(layer.weight)]

    def shapes(self, layer: nn.Module, ranks: Ranks) -> list[tuple[int, ...]]:
        assert isinstance(layer, nn.Embedding) and isinstance(ranks, int)
        return [(sum(layer.weight.shape), ranks)]

    def split(self, layer: nn.Module, ranks: Ranks) -> LowRankEmbedding:
        assert isinstance(layer, nn.Embedding) and isinstance(ranks, int)
        return LowRankEmbedding(layer, ranks)

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        shared = owners(model)
        new: dict[nn.Module, nn.Module] = {}
        for name, rank in plan["ranks"].items():
            table = model.get_submodule(name)
            new[table] = factors = self.split(table, rank)
            for other in map(model.get_submodule, shared[id(table.weight)]):
                if isinstance(other, nn.Linear):
                    new[other] = TiedHead(factors, other.bias)
        return replace(model, new)


class LowRankEmbedding(Factors):
    """Indices (...) to vectors (..., width) by way of vectors (..., rank)."""

    def __init__(self, layer: nn.Embedding, rank: int) -> None:
        codes, basis = split(layer.weight, rank)  # (rows, rank), (rank, width)
        narrow = nn.Embedding(
            layer.num_embeddings,
            rank,
            layer.padding_idx,
            scale_grad_by_freq=layer.scale_grad_by_freq,
            sparse=layer.sparse,
            _weight=parameter(codes, layer.weight),
        )
        narrow.weight.requires_grad_(layer.weight.requires_grad)
        super().__init__(narrow, linear(basis.T, None, layer.weight))

    @property
    def weight(self) -> Tensor:
        """The table (rows, width)."""
        table: Tensor = self[1](self[0].weight)
        return table


class TiedHead(nn.Module):
    """A linear layer (..., width) to (..., rows) whose weight is the table of a low-rank embedding, factors and all."""

    def __init__(self, embedding: LowRankEmbedding, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.codes, self.basis = embedding[0].weight, embedding[1].weight  # (rows, rank), (width, rank)
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """(rows, width)."""
        return functional.linear(self.codes, self.basis)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden @ self.basis, self.codes, self.bias)  # type: ignore[arg-type, operator]


def _obstacle(model: nn.Module, name: str, table: nn.Module, shared: Mapping[int, list[str]]) -> str:
    if not isinstance(table, nn.Embedding) or type(table).forward is not nn.Embedding.forward:
        return f"{type(table).__name__} has a forward of its own"
    if table._parameters.get("weight") is None:
        return "its weight is computed from other parameters"
    if table.max_norm is not None:
        return "its rows are rescaled to `max_norm` in place"
    others = [other for other in shared[id(table.weight)] if other != name]
    foreign = [other for other in others if type(model.get_submodule(other)) is not nn.Linear]
    return f"its weight is shared by {' and '.join(foreign)}" if foreign else ""
