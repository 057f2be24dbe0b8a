"""Figures show what the records say."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from autocompress.measure.cost import Cost
from autocompress.measure.probe import DeviceLimits
from autocompress.measure.size import HEADER, Breakdown, Part
from autocompress.report.figures import LAYER_GROUPS, front_figure, roofline_figure, size_figure

BASELINE = Breakdown(tuple(Part("w", f"block.{i}.weight", f"block.{i}", "float32", 400) for i in range(30)))
COMPRESSED = Breakdown(
    (*(Part("w", f"block.{i}.weight", f"block.{i}", "int8", 100) for i in range(30)), Part("w", "", HEADER, HEADER, 7))
)


def test_sizes_of_two_models_side_by_side() -> None:
    figure = size_figure({"baseline": BASELINE, "trial 3": COMPRESSED})
    bars = {bar.name: (list(map(list, bar.x)), list(bar.y)) for bar in figure.data}
    assert bars["float32"] == ([["block"], ["baseline"]], [30 * 400])
    assert bars["int8"] == ([["block"], ["trial 3"]], [30 * 100])
    assert bars[HEADER] == ([[HEADER], ["trial 3"]], [7])
    assert figure.layout.barmode == "stack"


def test_few_layers_are_shown_one_by_one() -> None:
    few = Breakdown(tuple(Part("w", f"block.{i}.weight", f"block.{i}", "float32", 400) for i in range(LAYER_GROUPS)))
    (bar,) = size_figure({"baseline": few}).data
    assert list(bar.x[0]) == [f"block.{i}" for i in range(LAYER_GROUPS)]


def test_the_front_among_all_trials() -> None:
    trials = pd.DataFrame(
        {
            "accuracy": [0.9, 0.85, 0.8, None], "size_bytes": [1000, 400, 500, None], "speedup": [1.0, 2.0, 1.5, None],
            "recipe": ["baseline", "prune", "int8", "broken"],
        },
        index=pd.Index([0, 1, 2, 3], name="trial"),
    )  # fmt: skip
    figure = front_figure(trials, [0, 1], 0, "accuracy")
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["trials"].y) == [0.9, 0.85, 0.8]
    assert list(traces["trials"].text) == ["trial 0: baseline", "trial 1: prune", "trial 2: int8"]
    assert list(traces["trials"].marker.color) == [1.0, 2.0, 1.5]
    assert (list(traces["front"].x), list(traces["front"].y)) == ([400, 1000], [0.85, 0.9])
    assert (list(traces["baseline"].x), list(traces["baseline"].y)) == ([1000], [0.9])
    assert "plotly" in figure.to_html(include_plotlyjs=False)


def test_models_under_the_roof() -> None:
    limits = DeviceLimits("a device", "cuda:0", 1, {"float32": 1e12}, {"float32": 8192}, {}, 1e11, 5.0, 1.5, 3.0)
    known = Cost(0, 10**9, 10**6, 0, 0, (), ())
    figure = roofline_figure(
        {"net": known, "elsewhere": replace(known, flops=None)}, {"net": 4.0, "elsewhere": 1.0}, limits, "float32"
    )
    roof, net = figure.data
    assert (list(net.x), list(net.y)) == ([1000.0], [pytest.approx(2.5e11)])
    assert list(zip(roof.x, roof.y, strict=True)) == [(1.0, 1e11), (10.0, 1e12), (1000.0, 1e12)]
