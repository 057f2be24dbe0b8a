"""The guard against steps that change nothing of what ships, or save less than they cost."""

from __future__ import annotations

import json
from collections import Counter

from torch import nn

from autocompress.effect import Change
from autocompress.method import Method, NoEffect, Plan, Technique

STEP_BYTES = 100
"""About what a step takes in the recipe's file, beside its plan and its name twice."""


class NoOpGuard:
    """What the steps of one recipe did so far."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self._effective: set[str] = set()
        self._saved: Counter[str] = Counter()

    def note(self, change: Change) -> bool:
        """Keep what a step did, if it did anything; whether it did."""
        if change.modules_changed:
            self._effective.add(change.method)
            self.changes.append(change)
            print(change)
        return bool(change.modules_changed)

    def trains(self, method: Method) -> None:
        """Its effect is a loss."""
        self._effective.add(method.name)

    def saves(self, method: Method, size: int) -> None:
        """So many bytes of tensors in the file."""
        self._saved[method.name] += size

    def check(self, method: Method, plan: Plan, model: nn.Module) -> None:
        """Raises NoEffect for a step that did nothing, or saved no bytes though it is there for them."""
        if method.name not in self._effective:
            skipped = method.skipped(model, plan)
            why = "".join(f"; {layer}: {reason}" for layer, reason in skipped.items())
            raise NoEffect(f"{method.name} changed nothing of the model{why}")
        saved = self._saved[method.name]
        cost = STEP_BYTES + 2 * len(method.name) + len(json.dumps(plan, separators=(",", ":")))
        if _is_for_bytes(method) and saved <= cost:
            raise NoEffect(
                f"{method.name} is there to save bytes, but saves {saved} of the weights and takes {cost} in the recipe"
            )


def _is_for_bytes(method: Method) -> bool:
    """Whether it has no effect without them; integer kernels, runtimes and fewer channels may be faster."""
    return method.overrides("pack") or method.technique is Technique.FACTORIZATION
