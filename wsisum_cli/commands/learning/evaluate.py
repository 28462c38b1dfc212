"""`wsisum evaluate`: classify slides from all patches and from summaries."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from wsisum_cli.commands.learning.train import (
    DeviceOption,
    FeaturesOption,
    SeedOption,
    interruptible,
    need_torch,
    show_reading,
)
from wsisum_cli.commands.options import Device

if TYPE_CHECKING:
    from wsisum_cli.evaluation.arms import Arm
    from wsisum_cli.evaluation.cross_validation import Plan

# Heavy modules are imported where they are used: --help must answer at once.


class Classifier(StrEnum):
    mean = "mean"
    abmil = "abmil"


def evaluate(
    labels: Annotated[
        Path,
        typer.Option(help="CSV with the columns slide, label and optionally patient.", exists=True, dir_okay=False),
    ],
    features: FeaturesOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report.")] = Path("evaluation"),
    summaries: Annotated[
        Path | None, typer.Option(help="Folder with summaries of these slides.", exists=True, file_okay=False)
    ] = None,
    label: Annotated[str, typer.Option(help="The column to predict.")] = "label",
    selector: Annotated[
        list[str] | None, typer.Option(help="How patches are picked; repeatable. [default: wsisum, facility, random]")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Patches to keep: 64, 5% or auto; repeatable. [default: 16, 64]")
    ] = None,
    classifier: Annotated[list[Classifier] | None, typer.Option(help="Classifier; repeatable. [default: both]")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of cross-validation, by patient.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of cross-validation.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the attention network.")] = 30,
    pool: Annotated[
        int, typer.Option(min=8, help="Maximum number of patches of a slide for the attention network.")
    ] = 4096,
    device: DeviceOption = Device.auto,
    seed: SeedOption = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Classify slides from all patches and from the kept ones.

    Patches are picked from the features; --summaries adds the patches of existing summaries. Writes report.md,
    report.json, predictions.csv and plots.
    """
    need_torch("evaluating")
    from wsisum_cli.evaluation.abmil import Settings
    from wsisum_cli.evaluation.arms import arms_of, parse_keep
    from wsisum_cli.evaluation.cross_validation import Plan
    from wsisum_cli.evaluation.report import JSON_NAME, MARKDOWN_NAME

    keeps = [parse_keep(text) for text in keep or ("16", "64")]
    arms = arms_of(selector or ("wsisum", "facility", "random"), keeps, summaries is not None)
    chosen = tuple(dict.fromkeys(choice.value for choice in classifier or list(Classifier)))
    plan = Plan(folds, repeats, chosen, Settings(epochs=epochs), device.value, seed)
    with interruptible():
        run_evaluation(Sources(labels, label, features, summaries), arms, plan, output, pool)
    typer.echo((output / (JSON_NAME if as_json else MARKDOWN_NAME)).read_text(encoding="utf-8"), nl=False)
    typer.echo(f"report: {output / MARKDOWN_NAME}", err=True)


class Sources(NamedTuple):
    """What is classified, and from what."""

    labels: Path
    label: str
    features: list[Path]
    summaries: Path | None


def run_evaluation(sources: Sources, arms: list[Arm], plan: Plan, output: Path, pool: int) -> None:
    """Read, classify, and write the report."""
    from wsisum_cli.evaluation.arms import find_slides, find_summaries, read_bags
    from wsisum_cli.evaluation.cohort import read_labels
    from wsisum_cli.evaluation.cross_validation import cross_validate
    from wsisum_cli.evaluation.folds import deal_folds
    from wsisum_cli.evaluation.report import as_report, write_evaluation
    from wsisum_cli.training.data import Cases

    files = find_slides(sources.features)
    cohort = read_labels(sources.labels, files, sources.label, Cases())
    deal_folds(cohort, plan.folds, plan.seed)  # too few patients: said before features are read
    summaries = find_summaries(sources.summaries, cohort.slides)
    losses: list[float] = []
    cache = output / "selections"
    bags = read_bags(cohort.slides, files, arms, summaries, cache, plan.seed, pool, show_reading, losses)
    found = cross_validate(bags, cohort, plan, show_folds)
    about: dict[str, Any] = {"label": sources.label, "labels": sources.labels.name}
    if losses:  # what packing cost
        about["unpacked"] = {"slides": len(losses), "cosine_mean": round(sum(losses) / len(losses), 6)}
        typer.echo(f"features unpacked from summaries: {unpacked_words(about['unpacked'])}", err=True)
    report = as_report(cohort, arms, bags, found, plan, about)
    write_evaluation(output, report, cohort, found)


def unpacked_words(unpacked: dict[str, Any]) -> str:
    return f"mean cosine to the true ones {unpacked['cosine_mean']:.4f}, of {unpacked['slides']} slides"


def show_folds(done: int, total: int) -> None:
    typer.echo(f"judged {done} of {total} folds", err=True)
