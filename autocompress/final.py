"""Finalists: the baseline and the front, judged once more when the search is over."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
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
    names = [field.name for field in fields(Final)]
    files = sorted((run / FINALS_FOLDER).glob("[0-9]*.json"))
    return {int(file.stem): Final(**_read(file, names)) for file in files}


def read_surroundings(run: Path) -> dict[str, Any]:
    """What the hardware can do and the baseline with free acceleration, by target; empty where it was not looked at."""
    file = run / SURROUNDINGS_FILE
    if not file.is_file():
        return {}
    found: dict[str, Any] = _read(file)
    if not all({"limits", "baseline", "free"} <= set(of) for of in found.values()):
        raise _unreadable(file, "it holds something else")
    return found


def final_file(run: Path, number: int) -> Path:
    return run / FINALS_FOLDER / f"{number:05d}.json"


def _read(file: Path, names: Sequence[str] | None = None) -> Any:
    """Raises RunError unless it is an object, with exactly these names."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(file, first_line(error)) from None
    if not isinstance(data, dict) or (names is not None and set(data) != set(names)):
        raise _unreadable(file, "it holds something else")
    return data


def _unreadable(file: Path, reason: str) -> RunError:
    return RunError(f"{file} is not readable: {reason}; delete it, and the same search judges it again")
