"""Write the metrics of a run as metrics.csv, metrics.json and curves.png."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsisum_cli.exports.tables import as_csv
from wsisum_cli.figures.plot import as_png, new_figure

Row = Mapping[str, float]

COLUMNS = 3  # panels per row


def write_metrics(folder: Path, metrics: Sequence[Row], best_epoch: int) -> None:
    """Write one row per epoch; columns in order of first appearance."""
    names = list(dict.fromkeys(name for row in metrics for name in row))
    rows = ([f"{row[name]:.6g}" if name in row else "" for name in names] for row in metrics)
    write(folder / "metrics.csv", as_csv([names, *rows]).encode())
    record = {"best_epoch": best_epoch, "epochs": [dict(row) for row in metrics]}
    write(folder / "metrics.json", (json.dumps(record, indent=1) + "\n").encode())
    write(folder / "curves.png", draw_curves(metrics, best_epoch))


def draw_curves(metrics: Sequence[Row], best_epoch: int) -> bytes:
    """A PNG with a panel per metric, showing its training and held-out curves together."""
    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for row in metrics for name in row if name != "epoch"):
        panels.setdefault(name.removeprefix("held_out_"), []).append(name)
    rows = -(-len(panels) // COLUMNS)
    figure = new_figure(4 * COLUMNS, 2.6 * rows + 0.4)
    for number, (title, names) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, COLUMNS, number + 1)
        for name in names:
            points = [(row["epoch"], row[name]) for row in metrics if name in row]
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, label="held out" if name.startswith("held_out_") else "training")
        axes.axvline(best_epoch, color="0.7", linewidth=1, zorder=0)
        axes.set(title=title.replace("_", " "), xlabel="epoch")
        axes.legend(fontsize="small", frameon=False)
    return as_png(figure)


def write(path: Path, data: bytes) -> None:
    waiting = path.with_name(path.name + ".part")
    waiting.write_bytes(data)
    os.replace(waiting, path)
