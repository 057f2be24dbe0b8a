"""Ranks of layers: by the share of energy that each keeps, or by a solver over what each costs the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from autocompress.allocation import Option, allocate, least_cost
from autocompress.sensitivity import Profile
from autocompress_factorization.low_rank import rank_for

Ranks = int | list[int]
"""Of one layer, as JSON."""

WORTHWHILE = 64
"""Weights that factors must save: one more tensor's name, shape and place take some 200 bytes of an artifact."""
LEVELS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
"""Shares of its energy that a layer keeps to see what it does; in between, errors go straight with the energy."""
_ENERGIES = tuple(step / 50 for step in range(5, 50))
"""That the solver chooses from, beside the whole layer."""


@dataclass(frozen=True)
class Ladder:
    """What one layer can become, from few ranks to many."""

    whole: int
    """Weights of the layer itself."""
    spectra: Sequence[Tensor]
    """Energies along the directions (directions,), the largest first, that each rank chooses among."""
    shapes: Callable[[Ranks], Iterable[tuple[int, ...]]]
    """Shapes of the factors, whose products add up to their weights."""

    def ranks(self, energy: float) -> Ranks | None:
        """The ranks that keep this share of the energy; None if the factors would not be clearly smaller."""
        ranks = self._ranks(energy)
        return ranks if self.whole - self._weights(ranks) >= WORTHWHILE else None

    def weights(self, energy: float) -> int:
        """How many weights the layer then has."""
        return self.whole if self.ranks(energy) is None else self._weights(self._ranks(energy))

    def _ranks(self, energy: float) -> Ranks:
        ranks = [rank_for(spectrum, energy) for spectrum in self.spectra]
        return ranks[0] if len(ranks) == 1 else ranks

    def _weights(self, ranks: Ranks) -> int:
        return sum(math.prod(shape) for shape in self.shapes(ranks))


def solved_ranks(ladders: Mapping[str, Ladder], energy: float, made: Profile) -> dict[str, Ranks | None]:
    """Ranks with which the layers have no more weights in all than with this share of energy in each.

    A multiple-choice knapsack over the measured errors of the outputs, as in Idelbayev and Carreira-Perpinan 2020,
    "Low-Rank Compression of Neural Nets: Learning the Rank of Each Layer", where the layers' choices are solved for
    together with the training.
    """
    energies = {name: [1.0, *(e for e in _ENERGIES if ladder.ranks(e) is not None)] for name, ladder in ladders.items()}
    table = {
        name: [Option(ladder.weights(e), _error(made, name, e)) if e < 1 else Option(ladder.whole, 0.0)
               for e in energies[name]]
        for name, ladder in ladders.items()
    }  # fmt: skip
    chosen = allocate(table, max(sum(ladder.weights(energy) for ladder in ladders.values()), least_cost(table)))
    found = {name: energies[name][index] for name, index in chosen.items()}
    return {name: ladders[name].ranks(kept) if kept < 1 else None for name, kept in found.items()}


def _error(made: Profile, name: str, energy: float) -> float:
    """Never less than with more energy."""
    errors = np.maximum.accumulate([0.0, *reversed(made.errors[name])])[::-1]
    return float(np.interp(energy, [*made.levels, 1.0], errors))
