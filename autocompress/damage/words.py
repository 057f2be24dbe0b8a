"""Damage in plain sentences."""

from __future__ import annotations

from autocompress.damage.answers import AnswerChange
from autocompress.damage.classification import Classification
from autocompress.damage.ranking import Ranking
from autocompress.damage.regression import Regression
from autocompress.damage.retention import Retention
from autocompress.damage.statistics import Difference, Verdict
from autocompress.damage.tokens import Tokens

HeadDamage = Classification | Tokens | Ranking | Regression


def head_lines(damage: HeadDamage) -> list[str]:
    """The sentences of one head."""
    if isinstance(damage, Classification):
        return _classification(damage)
    if isinstance(damage, Tokens):
        return _tokens(damage)
    return _ranking(damage) if isinstance(damage, Ranking) else _regression(damage)


def retention_line(retentions: tuple[Retention, ...]) -> str:
    """What is left of each metric."""
    return "Left of the baseline's metrics: " + ", ".join(map(_left, retentions)) + "."


def _classification(damage: Classification) -> list[str]:
    worst = damage.worst
    tail = "no class lost accuracy"
    if worst:
        label, points = worst.label, 100 * worst.change
        tail = f"worst class {label}: {points:+.1f} points of {worst.samples} samples, {_p(worst.p_holm)} after Holm"
    return _answers(damage.answers, "answers", tail)


def _tokens(damage: Tokens) -> list[str]:
    bits = damage.bits
    ratio, low, high = damage.perplexity_ratio, damage.perplexity_ratio_low, damage.perplexity_ratio_high
    return [
        *_answers(damage.answers, f"answers in {damage.sequences} sequences", ""),
        f"Bits an answer {bits.before:.3f} -> {bits.after:.3f}: perplexity is {ratio:.4g} times the baseline's"
        f" (95 % interval {low:.4g} to {high:.4g}).",
    ]


def _answers(change: AnswerChange, what: str, tail: str) -> list[str]:
    return [
        f"{_percent(change.agreement)} of {change.answers} {what} agree with the baseline;"
        f" {_percent(change.negative_flips)} right became wrong, {_percent(change.positive_flips)} wrong became right"
        + (f" ({tail})." if tail else "."),
        _share("Accuracy", change.accuracy, change.verdict),
        f"Distance from the baseline's probabilities (KL): {change.kl_mean:.3g} nats in the mean, {change.kl_p99:.3g}"
        f" at the 99th percentile; calibration error (ECE) {_percent(change.ece_before)} -> "
        f"{_percent(change.ece_after)}, NLL {change.nll_before:.3g} -> {change.nll_after:.3g}.",
    ]


def _ranking(damage: Ranking) -> list[str]:
    return [
        f"{_percent(damage.overlap)} of the items on {damage.lists} lists of ten are on the baseline's;"
        f" {_percent(damage.same_first)} of the lists begin with the same item;"
        f" {_percent(damage.negative_flips)} lost the item that was wanted.",
        _share("HR@10", damage.hit_rate, damage.verdict),
        f"NDCG@10 {damage.ndcg.before:.4f} -> {damage.ndcg.after:.4f}"
        f" (95 % interval of the change {damage.ndcg.low:+.4f} to {damage.ndcg.high:+.4f}).",
        f"{_percent(damage.coverage_before)} -> {_percent(damage.coverage_after)} of all items are recommended to"
        f" someone; unevenness (Gini) {damage.gini_before:.2f} -> {damage.gini_after:.2f}.",
    ]


def _regression(damage: Regression) -> list[str]:
    error = damage.absolute_error
    correlation = "" if damage.correlation is None else f"; correlation with the baseline {damage.correlation:.4f}"
    explained = [
        f"R2 {before:.4f} -> {after:.4f}, "
        for before, after in [(damage.r2_before, damage.r2_after)]
        if before is not None and after is not None
    ]
    return [
        f"{damage.samples} outputs moved by {damage.change_mean:.3g} in the mean, {damage.change_p99:.3g} at the 99th"
        f" percentile{correlation}.",
        f"Mean absolute error {error.before:.4g} -> {error.after:.4g} (95 % interval of the change {error.low:+.3g} to"
        f" {error.high:+.3g}), RMSE {damage.rmse_before:.4g} -> {damage.rmse_after:.4g}, {''.join(explained)}"
        f"bias {damage.bias_before:+.3g} -> {damage.bias_after:+.3g}.",
    ]


def _share(name: str, change: Difference, verdict: Verdict | None) -> str:
    text = (
        f"{name} {_percent(change.before)} -> {_percent(change.after)}: {100 * change.change:+.1f} points"
        f" (95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f})"
    )
    if verdict is None:
        return f"{text}."
    points = f"{100 * verdict.margin:g} {'point' if verdict.margin == 0.01 else 'points'}"
    return f"{text}; not worse than {points}: {'shown' if verdict.shown else f'not shown, {verdict.reason}'}."


def _left(item: Retention) -> str:
    left = item.reason if item.retention is None else f"{100 * item.retention:.1f} %"
    return f"{item.metric} {left} ({item.before:.4g} -> {item.after:.4g})"


def _percent(share: float) -> str:
    """`98.2 %`; what is not all is never rounded to all, nor what is not nothing to nothing."""
    if share != 1 and f"{share:.1%}" == "100.0%":
        return "over 99.9 %"
    if share != 0 and f"{share:.1%}" == "0.0%":
        return "under 0.1 %"
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{100 * share:.1f} %"


def _p(value: float) -> str:
    return "p < .001" if value < 0.001 else f"p = {value:.3f}".replace("0.", ".", 1)
