"""Features of the kept patches by another encoder, from their stored pixels. The slide is not needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.exports.about import About, describe
from wsisum_cli.exports.h5 import table_of, tissue_contents
from wsisum_cli.features import layouts
from wsisum_cli.features.h5 import is_whole, write_feature_file
from wsisum_cli.models.card import Card
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.pipeline.extract import SUFFIX, VERSIONED, FeatureOptions
from wsisum_cli.pipeline.migrate import current_attributes, current_members
from wsisum_cli.summary import container
from wsisum_cli.summary.attributes import MAX_REEMBEDDED, NamedEncoder, Reembedded
from wsisum_cli.summary.container import refuse_existing, write_container, writing_aside
from wsisum_cli.summary.extras.views import View, encode_view, plan_view
from wsisum_cli.summary.limits.metadata import parse_json
from wsisum_cli.summary.provenance import installed_version
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.summary.writer import REEMBEDDED, ROOT, encode_reembedded, list_members
from wsisum_cli.verification.appraisal import ModelFinders
from wsisum_cli.verification.verify import verify_summary


@dataclass(frozen=True)
class ReembedResult:
    """What became of one summary."""

    name: str
    output: str  # path of the file
    encoder: str
    patches: int
    added: bool  # False where the summary held these features, and was copied
    bytes_in: int
    bytes_out: int


class ReembeddedAbout(About):
    """What a file of features says of itself: how they were made, and what the weights beside them rest on."""

    reembedded: Reembedded
    weights_rest_on: str  # the encoder whose features of all tissue the weights were fitted to


def reembed_summary(
    path: Path,
    output: Path,
    encoder: Encoder,
    threads: int = 1,
    models: ModelFinders | None = None,
    force: bool = False,
) -> ReembedResult:
    """Write the summary at `path` to `output` with features by `encoder` beside those that it has.

    A summary that holds features by this encoder is copied. `output` may be `path` itself with `force`. Raises
    SummaryError when the summary is damaged, its pixels do not suit the encoder, or what was written does not verify;
    UsageError when `output` exists and `force` is not set, ModelError, OSError.
    """
    refuse_existing([output], force)
    models, before = with_encoder(models or ModelFinders(), encoder), path.stat().st_size
    refuse_damaged(path, path.name, ModelFinders())
    with open_summary(path) as summary:
        record = summary.record
        known = {record.features_encoder, *(entry.encoder.sha256 for entry in record.reembedded or ())}
        added = encoder.card.sha256 not in known
        files = reembedded_files(summary, encoder, threads) if added else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    with writing_aside(output) as aside:
        if added:
            write_container(aside, files)
        else:
            shutil.copyfile(path, aside)
        refuse_damaged(aside, f"{output.name} as written", models, threads)
    return ReembedResult(
        path.name, str(output), encoder.card.name, record.patches, added, before, output.stat().st_size
    )


def with_encoder(models: ModelFinders, encoder: Encoder) -> ModelFinders:
    """The finders, which know this encoder too."""

    def find(card: Card | NamedEncoder) -> Encoder | None:
        return encoder if getattr(card, "sha256", None) == encoder.card.sha256 else models.encoder(card)

    return replace(models, encoder=find)


def refuse_damaged(path: str | Path, name: str, models: ModelFinders, threads: int = 1) -> None:
    """Raise SummaryError unless the file at `path` verifies."""
    found = verify_summary(
        path, models.encoder, "full", None, threads, models.summarizer, models.slide_encoder
    ).findings
    bad = [finding for finding in found if finding.severity == "error"]
    if bad:
        raise SummaryError(f"{name}: damaged, cannot be embedded again: {bad[0].message}; run wsisum verify on it")


def reembedded_files(summary: Summary, encoder: Encoder, threads: int) -> dict[str, bytes]:
    """All members of the summary with features by `encoder`. Raises SummaryError, ModelError."""
    before = summary.record.reembedded or []
    if len(before) >= MAX_REEMBEDDED:
        raise SummaryError(
            f"{summary.name}: holds features by {len(before)} further encoders, expected fewer than {MAX_REEMBEDDED}; "
            "write those of one more with wsisum features"
        )
    view = plan_view(summary, encoder.card)
    features = finite(encode_view(summary, view, encoder, threads), summary, encoder)
    files = {name: data for name, data in current_members(summary).items() if not name.startswith(f"{REEMBEDDED}/")}
    files |= encode_reembedded([*summary.reembedded, features])
    entries = [*before, describe_view(view, encoder)]
    about = {REEMBEDDED: [entry.model_dump(mode="json") for entry in entries], "members": list_members(files)}
    root = parse_json(summary.read(ROOT))
    root["attributes"]["wsisum"] = {**current_attributes(summary), **about}
    return {**files, ROOT: json.dumps(root, separators=(",", ":"), allow_nan=False).encode()}


def finite(features: np.ndarray, summary: Summary, encoder: Encoder) -> np.ndarray:
    """The features. Raises SummaryError when some are not finite."""
    if not np.isfinite(features).all():
        raise SummaryError(f"{summary.name}: {encoder.card.name} gives features that are not finite; use another")
    return features


def describe_view(view: View, encoder: Encoder) -> Reembedded:
    """The provenance of features by `encoder`."""
    return Reembedded.model_validate(
        {
            "encoder": encoder.card.as_dict(),
            "provider": encoder.provider,
            "mpp": view.mpp,
            "reading": view.reading and view.reading.as_dict(),
            "versions": {name: installed_version(name) for name in VERSIONED},
        }
    )


def write_kept_features(
    path: str | Path, output: Path, encoder: Encoder, options: FeatureOptions, threads: int = 1, force: bool = False
) -> ReembedResult:
    """Write features by `encoder` of the kept patches of the summary at `path` to an h5 file, with their weights.

    Raises SummaryError when the summary is damaged or its pixels do not suit the encoder, UsageError when `output`
    exists and `force` is not set, ModelError, OSError.
    """
    return write_table(path, output, force, lambda summary: kept_features(summary, output, encoder, options, threads))


FeatureWriter = Callable[[Summary], tuple[Any, str]]


def write_table(path: str | Path, output: Path, force: bool, make: FeatureWriter) -> ReembedResult:
    """Write what `make` gives for a summary, the contents of an h5 file and the encoder's name, to `output`."""
    refuse_existing([output], force)
    refuse_damaged(path, container.name_of(path), ModelFinders())
    with open_summary(path) as summary:
        size = summary.size
        contents, encoder = make(summary)
        rows, name = len(next(iter(contents.datasets.values()))[0]), summary.name
    output.parent.mkdir(parents=True, exist_ok=True)
    with writing_aside(output) as aside:
        write_feature_file(aside, contents)
        if not is_whole(aside):
            raise SummaryError(f"{output.name}: the file differs from what was written; check the disk")
    return ReembedResult(name, str(output), encoder, rows, True, size, output.stat().st_size)


def write_unpacked_features(
    path: str | Path, output: Path, options: FeatureOptions, force: bool = False
) -> ReembedResult:
    """Write features of all tissue of the summary at `path`, unpacked, to an h5 file, which says what packing lost.

    Raises SummaryError when the summary is damaged or has none, UsageError when `output` exists and `force` is not set,
    OSError.
    """

    def make(summary: Summary) -> tuple[Any, str]:
        name, precision = output.name.removesuffix(SUFFIX), np.dtype(options.precision)
        return tissue_contents(summary, name, options.layout, precision), summary.record.encoder.name

    return write_table(path, output, force, make)


def kept_features(
    summary: Summary, output: Path, encoder: Encoder, options: FeatureOptions, threads: int
) -> tuple[Any, str]:
    """Contents of an h5 file of the kept patches, in order of picking, and the encoder's name."""
    card = encoder.card
    view = plan_view(summary, card)
    features = finite(encode_view(summary, view, encoder, threads), summary, encoder)
    table = replace(
        table_of(summary, output.name.removesuffix(SUFFIX)),
        features=as_precise(features, options, summary.name),
        patch_size=card.patch_size,
        encoder=card.name,
        encoder_mpp=card.mpp,
        encoder_sha256=card.sha256,
    )
    facts = {**describe(summary).model_dump(), "encoder": card.name}
    about = ReembeddedAbout(
        **facts, reembedded=describe_view(view, encoder), weights_rest_on=summary.record.encoder.name
    )
    return layouts.lay_out(table, options.layout, about.as_json()), card.name


def as_precise(features: np.ndarray, options: FeatureOptions, name: str) -> np.ndarray:
    """The features in the precision asked for. Raises SummaryError on overflow."""
    with np.errstate(over="ignore"):
        found = features.astype(options.precision)
    if not np.isfinite(found).all():
        raise SummaryError(f"{name}: features overflow {options.precision}; use --precision float32")
    return found
