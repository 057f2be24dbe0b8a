"""Figures of a run, by plotly: interactive in a notebook or a report, and files by `Figure.write_html`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from autocompress.measure.size import Breakdown

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from autocompress.measure.cost import Cost
    from autocompress.measure.probe import DeviceLimits

LAYER_GROUPS = 12
"""Layers are put together by the beginnings of their names until there are no more groups than that."""


def size_figure(breakdowns: Mapping[str, Breakdown]) -> Figure:
    """Bytes on disk by layer group, stacked by type; models (a baseline, what became of it) side by side, by name."""
    import plotly.graph_objects as go

    layers = list(dict.fromkeys(part.layer for breakdown in breakdowns.values() for part in breakdown.parts))
    groups = _groups(layers)
    rows = pd.DataFrame(
        [
            (groups[part.layer], model, part.dtype, part.size_bytes)
            for model, breakdown in breakdowns.items()
            for part in breakdown.parts
        ],
        columns=["layer", "model", "dtype", "size_bytes"],
    )
    sums = rows.groupby(["dtype", "layer", "model"], sort=False, as_index=False)["size_bytes"].sum()
    figure = go.Figure()
    for dtype, own in sums.groupby("dtype", sort=False):
        place = [own["layer"].tolist(), own["model"].tolist()]
        figure.add_bar(name=str(dtype), x=place, y=own["size_bytes"].tolist())
    order = list(dict.fromkeys(groups.values()))
    figure.update_xaxes(categoryorder="array", categoryarray=order)
    return figure.update_layout(barmode="stack", yaxis_title="bytes on disk", legend_title="stored as")


def front_figure(trials: pd.DataFrame, front: Iterable[Hashable], baseline: Hashable, objective_name: str) -> Figure:
    """Quality against size, coloured by speed-up; the front is a line, the baseline a star, recipes are told on hover.

    `trials` is `Run.trials`; `front` holds numbers of its rows (`Run.front.index`) and `baseline` is one. Trials that
    were not scored are left out.
    """
    import plotly.graph_objects as go

    scored = trials.dropna(subset=[objective_name, "size_bytes", "speedup"])
    best = scored.loc[[number for number in front if number in scored.index]].sort_values("size_bytes")
    figure = go.Figure()
    figure.add_scatter(
        name="trials", mode="markers", x=scored["size_bytes"], y=scored[objective_name],
        text=[f"trial {number}: {recipe}" for number, recipe in scored["recipe"].items()],
        customdata=scored["speedup"],
        hovertemplate="%{text}<br>%{y:.4f}, %{x:.3s}B, speedup %{customdata:.2f}x<extra></extra>",
        marker={"color": scored["speedup"], "colorscale": "Viridis", "size": 10, "showscale": True,
                "colorbar": {"title": {"text": "speedup"}}},
    )  # fmt: skip
    figure.add_scatter(
        name="front", mode="lines", x=best["size_bytes"], y=best[objective_name], line={"shape": "hv"}, hoverinfo="skip"
    )
    if baseline in scored.index:
        own = scored.loc[[baseline]]
        figure.add_scatter(
            name="baseline", mode="markers", x=own["size_bytes"], y=own[objective_name], hoverinfo="skip",
            marker={"symbol": "star-open", "size": 18, "color": "black"},
        )  # fmt: skip
    return figure.update_layout(
        xaxis={"title": "bytes on disk", "type": "log"}, yaxis_title=objective_name, legend={"orientation": "h"}
    )


def roofline_figure(
    costs: Mapping[str, Cost], latencies_ms: Mapping[str, float], limits: DeviceLimits, dtype: str
) -> Figure:
    """Measured FLOPs a second against FLOPs a byte (weights, inputs, outputs once), under the device's roof.

    Williams, Waterman & Patterson 2009, "Roofline". Models whose FLOPs are not known are left out.
    """
    import plotly.graph_objects as go

    known = {name: (cost, cost.flops) for name, cost in costs.items() if cost.flops and name in latencies_ms}
    peak, bandwidth = limits.matmul_flops_per_s[dtype], limits.bandwidth_bytes_per_s
    ridge = peak / bandwidth
    intensity = {name: flops / cost.compulsory_bytes for name, (cost, flops) in known.items()}
    ends = [min([ridge / 10, *intensity.values()]), ridge, max([ridge * 10, *intensity.values()])]
    figure = go.Figure()
    figure.add_scatter(name=f"roof, {dtype}", mode="lines", x=ends, y=[min(peak, bandwidth * x) for x in ends])
    for name, (_, flops) in known.items():
        rate = flops / (latencies_ms[name] / 1e3)
        figure.add_scatter(name=name, mode="markers", x=[intensity[name]], y=[rate], marker={"size": 10})
    return figure.update_layout(
        title=f"{limits.hardware}, {limits.threads} threads" if limits.device == "cpu" else limits.hardware,
        xaxis={"title": "FLOPs a byte", "type": "log"}, yaxis={"title": "FLOPs a second", "type": "log"},
    )  # fmt: skip


def _groups(layers: list[str]) -> dict[str, str]:
    """The group of each layer: its name cut to as many components as give no more than `LAYER_GROUPS` groups."""
    groups = dict.fromkeys(layers, "all")
    for depth in range(1, 1 + max((layer.count(".") + 1 for layer in layers), default=0)):
        finer = {layer: ".".join(layer.split(".")[:depth]) for layer in layers}
        if len(set(finer.values())) > LAYER_GROUPS and depth > 1:
            break
        groups = finer
    return groups
