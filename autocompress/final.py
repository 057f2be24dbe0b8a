"""Finalists: the baseline and the front, judged once more when the search is over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autocompress.errors import RunError, first_line

FINALS_FOLDER, SURROUNDINGS_FILE = "finals", "surroundings.json"


@dataclass(frozen=True)
class Final:
    """A finalist, measured again in a fresh process and scored on the test split, which no trial has seen.

    A search picks its front by noisy figures, so those of the front flatter it (the winner's curse); these do not.
    """

    test_scores: dict[str, float]
    """The metrics on the test split."""
    scores: dict[str, float]
    """Latency and speedup on each target, by the names that a trial's scores have."""
    latency: dict[str, Any]
    """The measurements behind them, raw samples included, by target."""
    size: dict[str, Any]
    """Bytes on disk by file, layer and type (`autocompress.measure.size.Breakdown`), on the first target's device."""
    costs: dict[str, Any]
    """By target, parameters, FLOPs, bytes and the hardware's bounds of this model, or why they are not known."""
    damage: dict[str, Any] | None = None
    """What became of the baseline's answers on the test split (`autocompress.damage.Damage`); None of the baseline."""
    explanations: dict[str, Any] | None = None
    """How alike gradient x input is to the baseline's (`autocompress.damage.ExplanationSimilarity`)."""
    representations: dict[str, Any] | None = None
    """How alike each block's features are to the baseline's (`autocompress.damage.RepresentationSimilarity`)."""

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def read_finals(run: Path) -> dict[int, Final]:
    """The finalists of a run, by trial. Raises RunError, naming the file, when one is damaged."""
    return {
        int(file.stem): Final(**_read(file, "test_scores")) for file in sorted((run / FINALS_FOLDER).glob("*.json"))
    }


def read_surroundings(run: Path) -> dict[str, Any]:
    """What the hardware can do and the baseline with free acceleration, by target; empty where it was not looked at."""
    file = run / SURROUNDINGS_FILE
    return _read(file) if file.is_file() else {}


def final_file(run: Path, number: int) -> Path:
    return run / FINALS_FOLDER / f"{number:05d}.json"


def _read(file: Path, *keys: str) -> Any:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(data, Mapping) or not data.keys() >= set(keys):
            raise ValueError("it holds something else")
        return data
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file} is not readable: {first_line(error)}; delete it, and the same search judges it again"
        ) from None
