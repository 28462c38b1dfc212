"""Plots of the arms' figures with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wsisum_cli.evaluation.folds import AUC, BALANCED_ACCURACY
from wsisum_cli.figures.plot import as_png, new_figure

TITLES = {AUC: "AUC", BALANCED_ACCURACY: "balanced accuracy"}


def draw_figures(arms: Sequence[Mapping[str, Any]], metric: str) -> bytes:
    """Plot the report's `arms` as a PNG: per classifier, the metric and its difference from all patches."""
    classifiers = list(arms[0]["figures"])
    figure = new_figure(9, (0.26 * len(arms) + 1.1) * len(classifiers))
    for number, classifier in enumerate(classifiers):
        for place, name in enumerate((metric, f"{metric}_difference")):
            axes = figure.add_subplot(len(classifiers), 2, 2 * number + place + 1)
            draw_panel(axes, arms, [arm["figures"][classifier][name] for arm in arms], place == 0)
            axes.set_title(f"{classifier}: {TITLES[metric]}" + ("" if place == 0 else ", less that of all patches"))
    return as_png(figure)


def draw_panel(axes: Any, arms: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, float]], named: bool) -> None:
    """Draw a point with its interval for each arm, top to bottom; `all` as a line."""
    rows = [-number for number in range(len(arms))]
    values = [figure["value"] for figure in found]
    ends = [[f["value"] - f["low"] for f in found], [f["high"] - f["value"] for f in found]]
    # Rounding may put a percentile on the other side of the value.
    axes.errorbar(values, rows, xerr=[[max(0.0, end) for end in side] for side in ends], fmt="o", markersize=4)
    axes.axvline(values[0], color="0.7", linewidth=1, zorder=0)
    axes.set_yticks(rows, [arm["arm"] for arm in arms] if named else [""] * len(arms))
    axes.margins(y=0.08)
