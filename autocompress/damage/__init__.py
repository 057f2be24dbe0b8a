"""What compression did to a model's answers, beyond one figure of quality.

Two models with the same accuracy may be wrong about different people. `damage` compares the outputs of a whole split
with the baseline's; `explanation_similarity` and `representation_similarity` look inside, for finalists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autocompress.damage.classification import Classification, classification
from autocompress.damage.explanations import ExplanationSimilarity, explanation_similarity
from autocompress.damage.heads import Head, NotJudged, is_ranking, judge, pair, tensors_by_place
from autocompress.damage.ranking import Ranking, ranking
from autocompress.damage.record import Damage
from autocompress.damage.regression import Regression, regression
from autocompress.damage.representations import RepresentationSimilarity, representation_similarity
from autocompress.damage.retention import Retention, retention
from autocompress.damage.statistics import Difference, Verdict
from autocompress.damage.tokens import Tokens, tokens
from autocompress.damage.words import HeadDamage
from autocompress.errors import InvalidInput
from autocompress.metric import Metric

__all__ = [
    "Classification",
    "Damage",
    "Difference",
    "ExplanationSimilarity",
    "Ranking",
    "Regression",
    "RepresentationSimilarity",
    "Retention",
    "Tokens",
    "Verdict",
    "damage",
    "explanation_similarity",
    "representation_similarity",
]


def damage(
    baseline_outputs: Any,
    outputs: Any,
    targets: Any,
    metrics: Sequence[Metric],
    margin: float | None = None,
    *,
    ranking: bool | None = None,
    seed: int = 0,
) -> Damage:
    """Compares two models' outputs on a whole split, on the CPU, nested alike, samples along the first dimension.

    `heads.py` says which outputs are judged as what. `margin` is how much accuracy or HR@10 may drop, in 0-1, fixed
    before anybody saw the outputs. `ranking` says whether classes are items of lists; by default the metrics' names do.
    Raises InvalidInput for a margin outside 0-1.
    """
    if margin is not None and not 0 < margin < 1:
        raise InvalidInput(f"a margin must lie between 0 and 1 (0.01 is one point), but got {margin}")
    ranking = is_ranking(metrics) if ranking is None else ranking
    before, after = tensors_by_place(baseline_outputs), tensors_by_place(outputs)
    pairs, not_judged = pair(baseline_outputs, targets)
    heads: list[HeadDamage] = []
    for place, wanted in pairs.items():
        try:
            heads.append(_of_head(judge(place, before[place], after.get(place), wanted, ranking), margin, seed))
        except NotJudged as reason:
            not_judged[place] = str(reason)
    retentions = tuple(retention(metric, baseline_outputs, outputs, targets) for metric in metrics)
    return Damage(tuple(heads), retentions, not_judged)


def _of_head(head: Head, margin: float | None, seed: int) -> HeadDamage:
    if head.kind == "classification":
        return classification(head, margin, seed)
    if head.kind == "tokens":
        return tokens(head, margin, seed)
    return ranking(head, margin, seed) if head.kind == "ranking" else regression(head, seed)
