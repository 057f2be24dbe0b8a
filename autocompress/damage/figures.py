"""Damage as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.damage.classification import Classification

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_CLASSES = 40
"""More bars than that cannot be read."""


def class_bars(damage: Classification) -> go.Figure:
    """Accuracy of each class before and after, the one that lost most first; of many classes those that lost most."""
    import plotly.graph_objects as go

    classes = sorted(damage.classes, key=lambda item: item.change)[:MOST_CLASSES]
    labels = [str(item.label) for item in classes]
    hover = [f"{100 * item.change:+.1f} points of {item.samples} samples, p = {item.p_holm:.3g}" for item in classes]
    figure = go.Figure()
    for name, shares in (
        ("baseline", [item.before for item in classes]),
        ("compressed", [item.after for item in classes]),
    ):
        figure.add_bar(name=name, x=labels, y=shares, hovertext=hover)
    left = len(damage.classes) - len(classes)
    figure.update_layout(
        barmode="group",
        title="Accuracy by class" + (f", without the {left} classes that lost least" if left else ""),
        xaxis={"title": "class", "type": "category"},
        yaxis={"title": "accuracy", "range": [0, 1], "tickformat": ".0%"},
    )
    return figure
