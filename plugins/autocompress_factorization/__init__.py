"""Factorization: layers split into products of smaller ones."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl
from autocompress_factorization.spatial_svd_conv import SpatialSvdConv
from autocompress_factorization.svd_embedding import SvdEmbedding
from autocompress_factorization.svd_linear import SvdLinear
from autocompress_factorization.tucker2_conv import Tucker2Conv

__all__ = ["SpatialSvdConv", "SvdEmbedding", "SvdLinear", "Tucker2Conv"]


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return [SvdLinear(), SvdEmbedding(), Tucker2Conv(), SpatialSvdConv()]
