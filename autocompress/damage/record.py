"""What compression did to a model's answers, as it is kept with a trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autocompress.damage.answers import AnswerChange
from autocompress.damage.classification import ClassChange, Classification
from autocompress.damage.ranking import Ranking
from autocompress.damage.regression import Regression
from autocompress.damage.retention import Retention, worst
from autocompress.damage.statistics import Difference, Verdict
from autocompress.damage.tokens import Tokens
from autocompress.damage.words import HeadDamage, head_lines, retention_line

_KINDS: dict[str, type[HeadDamage]] = {kind.kind: kind for kind in (Classification, Tokens, Ranking, Regression)}


@dataclass(frozen=True)
class Damage:
    """Both models' outputs on one split, compared: by head, and by metric of the task."""

    heads: tuple[HeadDamage, ...]
    retentions: tuple[Retention, ...]
    not_judged: dict[str, str]
    """Outputs that no figure is about, by their place, with the reason."""

    @property
    def worst_metric(self) -> Retention | None:
        """The metric of which least is left."""
        return worst(self.retentions)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        heads = [{"kind": head.kind, **asdict(head)} for head in self.heads]
        data = {"heads": heads, "retentions": list(map(asdict, self.retentions)), "not_judged": self.not_judged}
        plain: dict[str, Any] = json.loads(json.dumps(data))
        return plain

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Damage:
        """The record that `plain` gave."""
        heads = tuple(_head(item) for item in data["heads"])
        return cls(heads, tuple(Retention(**item) for item in data["retentions"]), dict(data["not_judged"]))

    def lines(self) -> list[str]:
        """A few sentences for a person."""
        lines = []
        for head in self.heads:
            name = f"{head.head}: " if len(self.heads) > 1 else ""
            lines += [name + line for line in head_lines(head)]
        if self.retentions:
            lines.append(retention_line(self.retentions))
        if len(self.retentions) > 1 and self.worst_metric:
            lines.append(f"Least is left of {self.worst_metric.metric}.")
        return lines + [f"Not judged: {place or 'the outputs'}, {why}." for place, why in self.not_judged.items()]


def _head(data: Mapping[str, Any]) -> HeadDamage:
    """Each field back in its own type."""
    fields = {name: _field(name, value) for name, value in data.items() if name != "kind"}
    return _KINDS[data["kind"]](**fields)


def _field(name: str, value: Any) -> Any:
    if name == "classes":
        return tuple(ClassChange(**item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = {"answers": AnswerChange, "verdict": Verdict}.get(name, Difference)
    return kind(**{key: _field(key, item) for key, item in value.items()})
