"""Acceleration: the same model, run faster."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress import Method, hookimpl


@hookimpl
def autocompress_methods() -> Iterable[Method]:
    return []
