"""A recipe's methods as a sequence of choices: which are open after which others, and what each choice is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autocompress.method import Method, Technique
from autocompress.parameters import Choice

NO_STEP = "none"
"""The choice of no method, which every technique has."""
AFTER = " after "
"""Joins a choice and the steps before it that leave it fewer methods: options may not change under one name."""
BEFORE = " before "
"""Joins a technique and an earlier one, of the choice of a method that may come before that one's steps."""

Ask = Callable[[str, Choice], str]
"""Gives the method that is chosen, by the name of the choice."""
Opening = tuple[str, list[str], list[str]]
"""The name of a choice, the steps that leave it fewer methods, and those that it has."""


@dataclass(frozen=True)
class Openings:
    """The choices of methods, technique by technique."""

    methods: Mapping[Technique, tuple[str, ...]]
    conflicts: frozenset[tuple[str, str]] = frozenset()
    """Pairs of methods of which the second cannot follow the first."""
    most: Mapping[Technique, int] = field(default_factory=dict)
    """How many methods of a technique a recipe may have, where that is more than one."""
    early: Mapping[Technique, tuple[str, ...]] = field(default_factory=dict)
    """Methods of one later technique that may come before a technique's own."""
    _made: dict[tuple[Any, ...], tuple[str, Choice | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What was found, by what was asked: a proposal asks thousands of times for the same few."""

    def walk(self, ask: Ask) -> list[str]:
        """The methods of a recipe, in its order, by asking for one after the other."""
        steps: list[str] = []
        for technique in self.methods:
            first = len(steps)
            for _ in range(self.most.get(technique, 1)):
                name = self._ask(ask, False, technique, first, steps)
                if name == NO_STEP:
                    break
                steps.append(name)
            if len(steps) > first and technique in self.early:
                name = self._ask(ask, True, technique, first, steps)
                if name != NO_STEP:
                    steps.insert(first, name)
        return steps

    def choices(self, steps: Sequence[str]) -> dict[str, str]:
        """The methods by the choices that make a recipe of them, without what stands behind `AFTER`."""
        techniques = [next((t for t, names in self.methods.items() if step in names), None) for step in steps]
        given: dict[str, str] = {}
        count: Counter[Technique] = Counter()
        for position, (step, technique) in enumerate(zip(steps, techniques, strict=True)):
            if technique is None:
                continue
            passed = next((t for t in techniques[position + 1 :] if t and t.position < technique.position), None)
            if passed is not None:
                given[f"{technique}{BEFORE}{passed}"] = step
            else:
                given[_label(technique, count[technique])] = step
                count[technique] += 1
        return given

    def without(self, gone: Container[str]) -> Openings:
        """The same without some methods."""

        def rest(of: Mapping[Technique, tuple[str, ...]]) -> dict[Technique, tuple[str, ...]]:
            kept = {technique: tuple(name for name in own if name not in gone) for technique, own in of.items()}
            return {technique: own for technique, own in kept.items() if own}

        conflicts = frozenset(pair for pair in self.conflicts if not any(name in gone for name in pair))
        return Openings(rest(self.methods), conflicts, self.most, rest(self.early))

    def _ask(self, ask: Ask, early: bool, technique: Technique, first: int, steps: Sequence[str]) -> str:
        key = (early, technique, first, *steps)
        if key not in self._made:
            label, blockers, open_to = (self._earlier if early else self._next)(technique, first, steps)
            self._made[key] = AFTER.join([label, *blockers]), Choice((NO_STEP, *open_to), NO_STEP) if open_to else None
        label, choice = self._made[key]
        return NO_STEP if choice is None else ask(label, choice)

    def _next(self, technique: Technique, first: int, before: Sequence[str]) -> Opening:
        """The choice of a technique's next method after others, its own from `first` on."""
        names, own = self.methods[technique], before[first:]
        able = [name for name in names if name not in before and not self._conflicting(before, [name])]
        open_to = [name for name in able if self._ordered([*own, name], names) == [*own, name]]
        blockers = [done for done in before if done in names or self._conflicting([done], names)]
        return _label(technique, len(own)), blockers, open_to

    def _earlier(self, technique: Technique, first: int, steps: Sequence[str]) -> Opening:
        """The choice of a later technique's method that comes before this one's, which are there from `first` on."""
        names, before, after = self.early[technique], steps[:first], steps[first:]
        open_to = [n for n in names if not (self._conflicting(before, [n]) or self._conflicting([n], after))]
        blockers = [done for done in before if self._conflicting([done], names)]
        blockers += [done for done in after if self._conflicting(names, [done])]
        later = next(t for t, own in self.methods.items() if names[0] in own)
        return f"{later}{BEFORE}{technique}", blockers, open_to

    def why_not(self, steps: Sequence[str]) -> str:
        """Why no choices make these methods in this order, where it is for their number or order; empty if not."""
        early = {step for label, step in self.choices(steps).items() if BEFORE in label}
        for technique, names in self.methods.items():
            own, most = [step for step in steps if step in names and step not in early], self.most.get(technique, 1)
            if len(own) > most:
                return (
                    f"it has {len(own)} methods of {technique}, and the space allows {most}:"
                    f" `most: {{{technique}: {len(own)}}}` in the space allows more"
                )
            ordered = self._ordered(own, names)
            if ordered != own:
                return f"methods of one technique come in the order of the space: {', '.join(ordered)}"
        return ""

    def _ordered(self, steps: Sequence[str], listed: Sequence[str]) -> list[str]:
        """The one order of methods of a technique that a recipe may have them in: as they are listed, and where one
        cannot follow another, that one before it. Without those that fit nowhere.
        """
        left, ordered = sorted(steps, key=listed.index), list[str]()
        while left:
            free = (name for name in left if not self._conflicting([name], [other for other in left if other != name]))
            name = next(free, None)
            if name is None:
                break
            ordered.append(name)
            left.remove(name)
        return ordered

    def _conflicting(self, first: Iterable[str], then: Sequence[str]) -> bool:
        """Whether one of the second cannot follow one of the first."""
        return any((done, name) in self.conflicts for done in first for name in then)


def openings_of(methods: Sequence[Method], most: Mapping[Technique, int]) -> Openings:
    """The choices among methods, in the order in which they are given, from what each states of itself."""

    own = {t: tuple(method.name for method in methods if method.technique is t) for t in Technique}
    early = {t: tuple(method.name for method in methods if t in method.may_precede) for t in Technique}
    return Openings(
        {technique: names for technique, names in own.items() if names},
        frozenset((a.name, b.name) for a in methods for b in methods if b.conflict(a) is not None),
        most,
        {technique: names for technique, names in early.items() if names and own[technique]},
    )


def _label(technique: Technique, index: int) -> str:
    return f"{technique} {index + 1}" if index else str(technique)
