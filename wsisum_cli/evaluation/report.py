"""Write an evaluation as report.json, report.md, predictions.csv and plots."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli import __version__
from wsisum_cli.evaluation.arms import ALL, Arm
from wsisum_cli.evaluation.charts import TITLES, draw_figures
from wsisum_cli.evaluation.cohort import Cohort
from wsisum_cli.evaluation.cross_validation import ABMIL, MEAN, Bags, Plan
from wsisum_cli.evaluation.folds import (
    AUC,
    BALANCED_ACCURACY,
    DIGITS,
    Estimate,
    Predictions,
    compare,
    draw_patients,
    measure_scores,
)
from wsisum_cli.training.curves import write

JSON_NAME, MARKDOWN_NAME, CSV_NAME = "report.json", "report.md", "predictions.csv"
DRAWS = 1_000

#: (arm, classifier) -> predictions.
Found = Mapping[tuple[str, str], Predictions]
HEADS = {MEAN: "Logistic regression on the weighted mean", ABMIL: "Attention over patches (ABMIL)"}


def as_report(
    cohort: Cohort,
    arms: Sequence[Arm],
    bags: Bags,
    found: Found,
    plan: Plan,
    about: Mapping[str, Any],
    draws: int = DRAWS,
) -> dict[str, Any]:
    """The report, JSON-able; `about` describes the input. The same input gives the same report."""
    times = draw_patients(cohort, draws, plan.seed)
    measured = {key: measure_scores(judged, cohort, times) for key, judged in found.items()}
    table = []
    for arm in arms:
        kept = [bag.kept for bag in bags[arm.name]]
        shares = [bag.kept / bag.patches for bag in bags[arm.name]]
        row: dict[str, Any] = {
            "arm": arm.name,
            "selector": arm.selector,
            "keep": str(arm.keep) if arm.selector else None,
        }
        row |= {"patches": round(float(np.mean(kept)), DIGITS), "share": round(float(np.mean(shares)), DIGITS)}
        figures = {
            classifier: as_json(compare(measured[arm.name, classifier], measured[ALL.name, classifier]))
            for classifier in plan.classifiers
        }
        table.append({**row, "figures": figures})
    network = asdict(plan.network)
    options = {"folds": plan.folds, "repeats": plan.repeats, "seed": plan.seed, "draws": draws, "abmil": network}
    return {"wsisum": __version__, **about, **describe(cohort), "options": options, "arms": table}


def as_json(figures: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    """Values and intervals by name."""
    return {name: figure.as_dict() for name, figure in figures.items()}


def describe(cohort: Cohort) -> dict[str, Any]:
    """Describe the cohort: classes, slides, patients."""
    classes = [
        {
            "class": name,
            "slides": int((cohort.labels == place).sum()),
            "patients": len({cohort.patients[row] for row in np.flatnonzero(cohort.labels == place)}),
        }
        for place, name in enumerate(cohort.classes)
    ]
    counts = {"slides": len(cohort.slides), "patients": len(set(cohort.patients)), "unlabelled": cohort.unlabelled}
    return {**counts, "classes": classes}


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: a table per classifier, and how to read it."""
    classes = ", ".join(f"{c['class']} ({c['slides']} of {c['patients']})" for c in report["classes"])
    options = report["options"]
    lines = [
        f"# {report['label']}: all patches against summaries",
        "",
        f"{report['slides']} slides of {report['patients']} patients. Slides (of patients) by class: {classes}.",
        f"{options['folds']} folds by patient, dealt {options['repeats']}x; intervals are 95 % of {options['draws']}",
        "draws of patients. Differences are paired: above 0 an arm does better than all patches. A summary does the",
        "work where the lower end of the difference is no lower than you can bear; wide intervals mean few patients.",
    ]
    if (unpacked := report.get("unpacked")) is not None:
        lines += [
            "",
            f"The features of {unpacked['slides']} slides were unpacked from summaries; their mean cosine to the true "
            f"ones is {unpacked['cosine_mean']:.4f}.",
        ]
    for classifier in report["arms"][0]["figures"]:
        lines += ["", f"## {HEADS[classifier]}", "", *table_of(report["arms"], classifier)]
    return "\n".join(lines) + "\n"


def table_of(arms: Sequence[Mapping[str, Any]], classifier: str) -> list[str]:
    """Table lines, one row per arm."""
    metrics = (AUC, BALANCED_ACCURACY)
    heads = [TITLES[metric] for metric in metrics] + [f"{TITLES[metric]}, difference" for metric in metrics]
    lines = ["| arm | " + " | ".join(heads) + " | patches | share |", "|---|" + "---:|" * (len(heads) + 2)]
    for arm in arms:
        found = arm["figures"][classifier]
        cells = [cell(found[metric], "") for metric in metrics]
        cells += [cell(found[f"{metric}_difference"], "+") if arm["arm"] != ALL.name else "" for metric in metrics]
        lines.append(f"| {arm['arm']} | " + " | ".join(cells) + f" | {arm['patches']:.1f} | {arm['share']:.3f} |")
    return lines


def cell(figure: Mapping[str, float], sign: str) -> str:
    value, low, high = (f"{figure[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def as_csv(cohort: Cohort, found: Found) -> str:
    """The class probabilities as CSV, a row per slide, arm, classifier and repeat."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["slide", "patient", "label", "arm", "classifier", "repeat", "fold", *cohort.classes])
    for (arm, classifier), judged in found.items():
        for (repeat, row), fold in np.ndenumerate(judged.fold):
            about = [cohort.slides[row], cohort.patients[row], cohort.classes[cohort.labels[row]], arm, classifier]
            chances = (f"{chance:.{DIGITS}f}" for chance in judged.scores[repeat, row])
            table.writerow([*about, repeat, fold, *chances])
    return text.getvalue()


def write_evaluation(folder: Path, report: Mapping[str, Any], cohort: Cohort, found: Found) -> None:
    """Write each file atomically, the report last."""
    folder.mkdir(parents=True, exist_ok=True)
    for metric in (AUC, BALANCED_ACCURACY):
        write(folder / f"{metric}.png", draw_figures(report["arms"], metric))
    write(folder / CSV_NAME, as_csv(cohort, found).encode())
    write(folder / MARKDOWN_NAME, as_markdown(report).encode())
    write(folder / JSON_NAME, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
