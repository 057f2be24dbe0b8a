"""Limits: what they read as, when they hold, and what is said when they do not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from autocompress import Metric
from autocompress.errors import InvalidInput
from autocompress.limits import check_against_baseline, parse_limit, parse_limits, show_bytes
from autocompress.metric import ACCURACY

TARGETS = ("cpu@1", "cpu@8", "cuda:0@32")
METRICS = (ACCURACY, Metric("perplexity", min, higher_is_better=False))
BASELINE = {"accuracy": 0.9, "perplexity": 20.0, "size_bytes": 1e6, "latency_ms": 10.0, "speedup": 1.0}
SCORES = {"accuracy": 0.88, "perplexity": 23.0, "size_bytes": 250e3, "latency_ms": 6.0, "speedup": 2.0}
"""Timed while the machine was slower than for the baseline: a relative latency goes by the speedup."""


@pytest.mark.parametrize(
    ("text", "subject", "upper", "bound", "relative", "target"),
    [
        ("size <= 345 B", "size", True, 345, False, None),
        ("size <= 4 kB", "size", True, 4e3, False, None),
        ("size <= 4 KB", "size", True, 4e3, False, None),
        ("size<=4.5MB", "size", True, 4.5e6, False, None),
        ("  size <= 1e-3 GB ", "size", True, 1e6, False, None),
        ("size <= 2 KiB", "size", True, 2048, False, None),
        ("size <= 2 MiB", "size", True, 2 * 2**20, False, None),
        ("size <= 2 GiB", "size", True, 2 * 2**30, False, None),
        ("size >= 10 % of baseline", "size", False, 0.1, True, None),
        ("latency <= 250 us", "latency", True, 0.25, False, None),
        ("latency <= 5 ms", "latency", True, 5, False, None),
        ("latency <= 2 s", "latency", True, 2000, False, None),
        ("latency <= 50% OF BASELINE", "latency", True, 0.5, True, None),
        ("latency[cuda:0@32] <= 5 ms", "latency", True, 5, False, "cuda:0@32"),
        ("speedup[cpu] >= 2x", "speedup", False, 2, False, "cpu"),
        ("accuracy >= 97% of baseline", "accuracy", False, 0.97, True, None),
        ("speedup >= 2x", "speedup", False, 2, False, None),
        ("accuracy >= 0.9", "accuracy", False, 0.9, False, None),
        ("accuracy >= 90%", "accuracy", False, 0.9, False, None),
        ("accuracy_drop <= 1%", "accuracy_drop", True, 0.01, False, None),
        ("accuracy_drop <= 1 point", "accuracy_drop", True, 0.01, False, None),
        ("accuracy_drop <= 0.5 points", "accuracy_drop", True, 0.005, False, None),
        ("perplexity <= 25", "perplexity", True, 25, False, None),
        ("perplexity_drop <= 2.5", "perplexity_drop", True, 2.5, False, None),
    ],
)
def test_a_limit_in_words(
    text: str, subject: str, upper: bool, bound: float, relative: bool, target: str | None
) -> None:
    limit = parse_limit(text, METRICS, TARGETS)
    assert (limit.text, limit.subject, limit.upper) == (text, subject, upper)
    assert limit.bound == pytest.approx(bound)
    assert (limit.relative, limit.target) == (relative, target)


FORM = "must read SUBJECT <= NUMBER UNIT, like 'size <= 4 MB', 'latency <= 50% of baseline' or 'accuracy_drop <= 1%'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", FORM),
        ("small", FORM),
        ("size < 4 MB", FORM),
        ("size <= MB", FORM),
        ("size <= -4 MB", FORM),
        ("4 MB >= size", FORM),
        ("size <= 4 MB and more", FORM),
        ("sise <= 4 MB", "bounds the unknown 'sise'; did you mean 'size'?"),
        ("acuracy_drop <= 1%", "bounds the unknown 'acuracy_drop'; did you mean 'accuracy_drop'?"),
        ("bogus <= 1", "'bogus'; known: accuracy, accuracy_drop, latency, perplexity, perplexity_drop, size, speedup"),
        ("size <= 4", "has no unit: write 'size <= 4 MB' or 'size <= 25% of baseline'"),
        ("latency <= 5", "has no unit: write 'latency <= 5 ms' or 'latency <= 25% of baseline'"),
        ("speedup >= 2", "has no unit: write 'speedup >= 2x'"),
        ("size <= 40%", ": a share of what? write 'size <= 4 MB' or 'size <= 25% of baseline'"),
        ("size <= 4 Mb", "has the unknown unit 'Mb'; known: B, GB, GiB, KB, KiB, MB, MiB, kB"),
        ("latency <= 5 hours", "has the unknown unit 'hours'; known: ms, s, us"),
        ("accuracy_drop <= 1 poin", "has the unknown unit 'poin'; did you mean 'point'?"),
        ("size[cpu] <= 4 MB", ": only a time has a target in brackets, but got 'cpu'"),
        ("size <= 4 MB of baseline", ": a share of the baseline is in percent, like 'size <= 97% of baseline'"),
        ("speedup >= 200% of baseline", "but speedup compares with it already: leave out 'of baseline'"),
        ("accuracy_drop <= 1% of baseline", "but accuracy_drop compares with it already: leave out 'of baseline'"),
        ("accuracy_drop <= 1", "has no unit: write 'accuracy_drop <= 1%'"),
        ("accuracy >= 90", ": accuracy lies in 0-1, but the bound is 90; write '90%' or '0.9'"),
        ("perplexity_drop <= 5%", ": perplexity is no share, so its limits are plain numbers without '%'"),
    ],
)
def test_a_limit_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_limit(text, METRICS)
    assert str(caught.value).startswith(f"limit {text!r}")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ("size <= 200 kB", 0.25),
        ("size <= 500 kB", -0.5),
        ("size >= 500 kB", 0.5),
        ("size <= 20% of baseline", 0.25),
        ("latency <= 5 ms", 0.2),
        ("latency <= 50% of baseline", 0.0),
        ("latency <= 40% of baseline", 0.25),
        ("speedup >= 4x", 0.5),
        ("speedup >= 1x", -1.0),
        ("accuracy >= 80%", -0.1),
        ("accuracy_drop <= 1%", 1.0),
        ("accuracy_drop <= 4%", -0.5),
        ("accuracy_drop <= 0%", 2.0),
        ("perplexity <= 20", 0.15),
        ("perplexity >= 46", 0.5),
        ("perplexity_drop <= 2", 0.5),
        ("perplexity_drop <= 6", -0.5),
        ("perplexity <= 110% of baseline", (23 / 20 - 1.1) / 1.1),
        ("accuracy >= 100% of baseline", 0.02 / 0.9),
    ],
)
def test_a_violation_is_a_share_of_the_bound_and_positive_beyond_it(text: str, violation: float) -> None:
    assert parse_limit(text, METRICS).violation(SCORES, BASELINE) == pytest.approx(violation, abs=1e-9)


@pytest.mark.parametrize("of_1000", range(100, 1000, 7))
def test_a_drop_of_exactly_the_limit_holds(of_1000: int) -> None:
    drop, accuracies = parse_limit("accuracy_drop <= 1%", METRICS), torch.tensor([of_1000, of_1000 - 10]) / 1000
    for before, after in (accuracies.tolist(), [of_1000 / 1000, (of_1000 - 10) / 1000]):
        assert drop.violation({"accuracy": after}, {"accuracy": before}) == 0
        assert drop.violation({"accuracy": after - 0.0001}, {"accuracy": before}) > 0


@pytest.mark.parametrize("name", ["accuracy", "perplexity"])
def test_a_drop_is_how_much_worse_whichever_way_is_better(name: str) -> None:
    limit = parse_limit(f"{name}_drop <= {'0%' if name == 'accuracy' else '0'}", METRICS)
    assert limit.value(SCORES, BASELINE) > 0 > limit.value(BASELINE, SCORES)
    assert limit.value(BASELINE, BASELINE) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("accuracy_drop <= 1%", "accuracy_drop is 2.00%, 1.00% beyond 'accuracy_drop <= 1%'"),
        ("perplexity_drop <= 2", "perplexity_drop is 3, 1 beyond 'perplexity_drop <= 2'"),
        ("size <= 200 kB", "size is 250 kB, 50 kB beyond 'size <= 200 kB'"),
        ("size <= 20% of baseline", "size is 25.0% of baseline, 5.0% beyond 'size <= 20% of baseline'"),
        ("latency <= 4 ms", "latency is 6 ms, 2 ms beyond 'latency <= 4 ms'"),
        ("speedup >= 5x", "speedup is 2.00x, 3.00x beyond 'speedup >= 5x'"),
    ],
)
def test_a_miss_in_words(text: str, words: str) -> None:
    assert parse_limit(text, METRICS).miss(SCORES, BASELINE) == words


@pytest.mark.parametrize(
    "texts",
    [
        ("size <= 4 MB", "size >= 5 MB"),
        ("size >= 5 MB", "accuracy >= 90%", "size <= 4000 kB"),
        ("size <= 20% of baseline", "size >= 30% of baseline"),
        ("accuracy >= 0.9", "accuracy <= 80%"),
        ("latency[cpu@1] <= 1 ms", "latency[cpu@1] >= 2 ms"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(texts: Sequence[str]) -> None:
    with pytest.raises(InvalidInput, match="limits contradict each other: '.* >= .*' and '.* <= .*'; leave one out"):
        parse_limits(texts, METRICS, TARGETS)


@pytest.mark.parametrize(
    "texts",
    [
        (),
        ("size <= 5 MB", "size >= 4 MB"),
        ("size <= 4 MB", "size >= 4 MB"),
        ("size <= 4 MB", "size <= 5 MB"),
        ("size <= 4 MB", "latency >= 5 ms"),
        ("latency[cpu@1] <= 1 ms", "latency[cpu@8] >= 2 ms"),
    ],
)
def test_limits_that_hold_together(texts: Sequence[str]) -> None:
    limits = parse_limits(texts, METRICS, TARGETS)
    assert [limit.text for limit in limits] == list(texts)


@pytest.mark.parametrize(
    ("texts", "contradict"),
    [
        (("size <= 20% of baseline", "size >= 500 kB"), True),
        (("size <= 60% of baseline", "size >= 500 kB"), False),
        (("size <= 500 kB", "size >= 60% of baseline"), True),
        (("latency <= 40% of baseline", "latency >= 5 ms"), True),
        (("latency <= 60% of baseline", "latency >= 5 ms"), False),
        (("accuracy_drop <= 1%", "accuracy >= 95%"), False),
    ],
)
def test_a_contradiction_that_shows_with_the_baseline(texts: Sequence[str], contradict: bool) -> None:
    limits = parse_limits(texts, METRICS)
    if not contradict:
        check_against_baseline(limits, BASELINE)
        return
    with pytest.raises(InvalidInput, match="for this baseline: '.* >= .*' and '.* <= .*'; leave one out"):
        check_against_baseline(limits, BASELINE)


def test_a_share_of_nothing_is_refused_when_the_baseline_is_known() -> None:
    limits = parse_limits(["perplexity <= 110% of baseline"], METRICS)
    check_against_baseline(limits, BASELINE)
    message = "baseline's perplexity, which is 0: write a plain bound, like 'perplexity <= 0.5'"
    with pytest.raises(InvalidInput, match=message):
        check_against_baseline(limits, BASELINE | {"perplexity": 0.0})


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (345, "345 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (12_345, "12.3 kB"),
        (999_400, "999 kB"),
        (999_700, "1 MB"),
        (4_560_000, "4.56 MB"),
        (7e9, "7 GB"),
        (-12_345, "-12.3 kB"),
    ],
)
def test_bytes_in_words(size_bytes: float, text: str) -> None:
    assert show_bytes(size_bytes) == text


FAST_AND_SLOW = {"latency_ms": 2.0, "speedup": 4.0, "latency_ms[cpu@8]": 12.0, "speedup[cpu@8]": 2.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("latency <= 5 ms", 12.0),
        ("latency[cpu] <= 5 ms", 12.0),
        ("latency[cpu@1] <= 5 ms", 2.0),
        ("latency[cpu@8] <= 5 ms", 12.0),
        ("latency[cpu@1] <= 30% of baseline", 0.25),
        ("latency <= 30% of baseline", 0.5),
        ("speedup >= 3x", 2.0),
        ("speedup[cpu@1] >= 3x", 4.0),
    ],
)
def test_a_limit_on_time_bounds_the_targets_it_names_and_all_when_it_names_none(text: str, value: float) -> None:
    assert parse_limit(text, METRICS, TARGETS[:2]).value(FAST_AND_SLOW, FAST_AND_SLOW) == value


def test_a_limit_on_a_target_that_is_not_measured_is_refused() -> None:
    message = r"limit 'latency\[cuda:0\] <= 5 ms' is about 'cuda:0', but latency is measured on cpu@1, cpu@8$"
    with pytest.raises(InvalidInput, match=message):
        parse_limit("latency[cuda:0] <= 5 ms", METRICS, TARGETS[:2])


def test_a_miss_names_the_target() -> None:
    limit = parse_limit("latency[cpu@8] <= 5 ms", METRICS, TARGETS[:2])
    assert limit.miss(FAST_AND_SLOW, {}) == "latency[cpu@8] is 12 ms, 7 ms beyond 'latency[cpu@8] <= 5 ms'"
