"""What a search found out before its first trial: which methods can help this model on these targets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autocompress.errors import RunError, first_line
from autocompress.limits import Scores, target_suffix, verdict_of
from autocompress.measure.statistics import Verdict

PROBE_FILE = "probe.json"
SMALLER = 0.02
"""From what share of the size on a method makes a model smaller; below lie the names and plans in its files."""
FASTER = 1.05
"""What is no measurable gain rules a method out only where a larger speedup than this is ruled out."""


@dataclass(frozen=True)
class Look:
    """One method alone on the trained model, without training, at one setting of its parameters."""

    params: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    """Size, and latency and speedup on each target, named as a trial's scores; empty if there are none."""
    no_effect: bool = False
    """Whether there are none since it changed nothing."""
    impossible: str = ""
    """Why there are none, where it cannot act for this task, as without data."""
    failure: str = ""
    """Why there are none otherwise."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Prospect:
    """What each method does alone, what the model is bound by, and what data there are."""

    targets: tuple[str, ...]
    baseline_bytes: int
    looks: dict[str, tuple[Look, ...]]
    """By method: at its defaults and, where that was no gain, at the ends of its parameters until one was."""
    unknown: dict[str, str]
    """Methods that were not looked at to the end, and so are kept, with the reason."""
    kept: tuple[str, ...]
    """Methods that are kept whatever they do, since the user gave recipes with them."""
    bounds: dict[str, dict[str, Any]]
    """By target: cost and bounds of the untouched model, as finalists have them, or why they are not known."""
    samples: dict[str, int]
    """Samples of each split that the task has."""
    seconds: float
    least_bytes: dict[str, float] = field(default_factory=dict)
    """By method that makes the model smaller: its size where one parameter at a time is at an end of its range, at the
    end where that is least. Without methods whose sizes are not all known."""
    smallest: dict[str, Look] = field(default_factory=dict)
    """By method: how fast the model is there, as far as there was time to measure it."""

    @property
    def data(self) -> str:
        """What there is to compress with: `none`, `calibration only` or `labels`."""
        if "train" in self.samples:
            return "labels"
        return "calibration only" if "calibration" in self.samples else "none"

    @property
    def left_out(self) -> dict[str, str]:
        """Methods that cannot help alone, each with what was measured."""
        known = {name: looks for name, looks in self.looks.items() if looks and name not in (*self.unknown, *self.kept)}
        return {name: self._reason(looks) for name, looks in known.items() if not any(map(self.helps, looks))}

    def helps(self, look: Look) -> bool:
        """Whether it makes the model smaller, or faster on a target, or may do so for all that the measurement says."""
        if not look.scores:
            return False
        smaller = look.scores["size_bytes"] <= (1 - SMALLER) * self.baseline_bytes
        return smaller or any(may_be_faster(look.scores, end) for end in self._ends)

    def gain(self, look: Look) -> float:
        """Times smaller times faster: the geometric mean of the targets' speedups."""
        speedups = [look.scores[f"speedup{end}"] for end in self._ends]
        return self.baseline_bytes / look.scores["size_bytes"] * math.prod(speedups) ** (1 / len(speedups))

    def best(self, method: str) -> Look | None:
        """The look with the largest gain, if one helps."""
        helping = [look for look in self.looks.get(method, ()) if self.helps(look)]
        return max(helping, key=self.gain, default=None)

    @property
    def smaller(self) -> list[str]:
        """Methods that make the model smaller, those with the largest gain first."""
        best = {name: look for name in self.looks if (look := self.best(name))}
        found = [
            name for name, look in best.items() if look.scores["size_bytes"] <= (1 - SMALLER) * self.baseline_bytes
        ]
        return sorted(found, key=lambda name: self.gain(best[name]), reverse=True)

    def at_most(self, method: str) -> str:
        """How small a method can make the model, if that is known, and how fast it is there.

        Like `at most 9.10x smaller, there 2.05x faster on cpu@1`.
        """
        best, least = self.best(method), self.least_bytes.get(method)
        if best is None or least is None:
            return ""
        is_more = least <= (1 - SMALLER) * best.scores["size_bytes"]
        if not is_more:
            return "at most that small"
        there = self.smallest.get(method)
        speeds = "" if there is None else f", there {self._speeds(there)}"
        return f"at most {self.baseline_bytes / least:.2f}x smaller{speeds}"

    def words(self, look: Look) -> str:
        """Like `2.10x faster on cpu@1 and 3.90x smaller`."""
        if not look.scores:
            return "without effect" if look.no_effect else look.impossible or f"not measured: {look.failure}"
        return f"{self._speeds(look)} and {_size(look.scores['size_bytes'] / self.baseline_bytes)}"

    def _speeds(self, look: Look) -> str:
        return ", ".join(f"{_speed(look.scores, end)} on {target}" for target, end in self._named)

    def gains(self, look: Look) -> str:
        """Only what is a gain: `3.90x smaller`."""
        faster = [
            f"{_speed(look.scores, end)} on {target}"
            for target, end in self._named
            if verdict_of(look.scores, end) is Verdict.FASTER
        ]
        share = look.scores["size_bytes"] / self.baseline_bytes
        gains = [", ".join(faster), _size(share) if share <= 1 - SMALLER else ""]
        return " and ".join(gain for gain in gains if gain) or "perhaps a little faster"

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"left_out": self.left_out}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Prospect:
        looks = {name: tuple(Look(**look) for look in found) for name, found in data["looks"].items()}
        own = {name: data[name] for name in ("baseline_bytes", "unknown", "bounds", "samples", "seconds")}
        later = {
            "least_bytes": data.get("least_bytes", {}),  # neither is in probes of earlier versions
            "smallest": {name: Look(**look) for name, look in data.get("smallest", {}).items()},
        }
        return cls(targets=tuple(data["targets"]), kept=tuple(data["kept"]), looks=looks, **later, **own)

    def _reason(self, looks: Sequence[Look]) -> str:
        """Of its defaults, which come first."""
        if looks[0].impossible:
            return looks[0].impossible
        did = "changed nothing of this model" if looks[0].no_effect else f"made this model {self.words(looks[0])}"
        others = f" at its defaults, and did no better at {len(looks) - 1} other settings" if looks[1:] else ""
        return f"probed alone, it {did}{others}"

    @property
    def _named(self) -> list[tuple[str, str]]:
        """Each target, with how its scores end."""
        return list(zip(self.targets, self._ends, strict=True))

    @property
    def _ends(self) -> list[str]:
        """How the scores of each target end."""
        return [target_suffix(target, self.targets) for target in self.targets]


def may_be_faster(scores: Scores, end: str) -> bool:
    """On a target: faster by the verdict, or not known well enough to say that it is not."""
    hoped = scores[f"speedup_high{end}"] * (1 + scores[f"resolution{end}"])
    return verdict_of(scores, end) is Verdict.FASTER or hoped > FASTER


def read_prospect(run: Path) -> Prospect | None:
    """What a run's search found out before its first trial; None if it did not look. Raises RunError if damaged."""
    file = run / PROBE_FILE
    if not file.is_file():
        return None
    try:
        return Prospect.from_plain(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file} is not readable: {first_line(error)}; a run goes on with the methods that it began with: restore"
            " the file, or choose another --name"
        ) from None


def _speed(scores: Scores, end: str) -> str:
    speedup = scores[f"speedup{end}"]
    match verdict_of(scores, end):
        case Verdict.FASTER:
            return f"{speedup:.2f}x faster"
        case Verdict.SLOWER:
            return f"{1 / speedup:.2f}x slower"
    return "not measurably faster"


def _size(share: float) -> str:
    if share <= 1 - SMALLER:
        return f"{1 / share:.2f}x smaller"
    return f"{share:.2f}x larger" if share >= 1 + SMALLER else "no smaller"
