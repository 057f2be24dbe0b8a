"""What methods that compile or export share in the contract, where all of them do so with the same trained models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from autocompress_acceleration import onnx_export
from autocompress_acceleration.export import Traceable, quiet

from autocompress.task import weights_digest


@pytest.fixture(scope="session", autouse=True)
def exported_once() -> Iterator[None]:
    """What torch exports of a model takes seconds: once for its check, for the method and for the next method."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Traceable, "export", _once_a_model(Traceable.export))
        patch.setattr(onnx_export, "_dynamo", _once_a_model(onnx_export._dynamo))
        yield


def _once_a_model(export: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps what was exported of a model with those very weights, and gives copies."""
    made: dict[Any, Any] = {}

    def exported(traceable: Traceable, **options: Any) -> Any:
        key = weights_digest(traceable.flat), traceable.dynamic, *options.items()
        if key not in made:
            made[key] = export(traceable, **options)
        with quiet():  # torch 2.11 warns of what it makes the copy of
            return copy.deepcopy(made[key])

    return exported
