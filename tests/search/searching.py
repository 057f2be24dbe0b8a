"""The searches of these tests as a task file for the command line."""

from __future__ import annotations

from autocompress import Task
from tests.conftest import tiny_data, tiny_model


def task() -> Task:
    return Task(
        model=tiny_model, train=tiny_data(64, 1), validation=tiny_data(32, 2), test=tiny_data(32, 3), name="tiny"
    )
