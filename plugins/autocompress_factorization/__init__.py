"""Factorization: layers split into products of smaller ones."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return []
