"""Ray's and Optuna's own messages, led into a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def log_records_to(path: Path, *names: str) -> Iterator[None]:
    """The records of these loggers and their children go to a file and no further."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()


@contextmanager
def ray_messages_to(path: Path) -> Iterator[None]:
    """Ray's records, and what it prints of dead workers, which no option of its own keeps from standard output."""
    from ray._private import worker

    def write(data: dict[str, Any], ignore_prefix: bool) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in data["lines"])

    printing = worker.print_to_stdstream
    worker.print_to_stdstream = write
    try:
        with log_records_to(path, "ray"):
            yield
    finally:
        worker.print_to_stdstream = printing
