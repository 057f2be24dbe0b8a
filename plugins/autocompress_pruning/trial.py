"""Trying what was chosen before it becomes a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_TRIALS = 64


def largest_that_works(
    items: Sequence[str], works: Callable[[Sequence[str]], bool], enough: int | None = None
) -> list[str]:
    """Items that work all together: those that do not are found by halves, in no more than `_TRIALS` trials.

    `enough` of them end the search.

    `works` runs the user's model at widths that it may not have: what it raises means no.
    """
    found: list[str] = []
    trials = 0

    def add(part: Sequence[str]) -> None:
        nonlocal trials
        if not part or trials == _TRIALS or (enough is not None and len(found) >= enough):
            return
        trials += 1
        if _tried(works, [*found, *part]):
            found.extend(part)
        elif len(part) > 1:
            add(part[: len(part) // 2])
            add(part[len(part) // 2 :])

    add(items)
    return found


def _tried(works: Callable[[Sequence[str]], bool], items: Sequence[str]) -> bool:
    try:
        return works(items)
    except Exception:  # the user's forward, or Torch-Pruning
        return False
