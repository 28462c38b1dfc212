"""A summary cut down to the patches that were picked first, without the slide."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.features.embedding import Tokens
from wsisum_cli.quality.guarantee import guaranteed
from wsisum_cli.quality.measures import WeightedPatches, measure
from wsisum_cli.quality.random_draws import Draws
from wsisum_cli.quality.verdict import stored_thresholds
from wsisum_cli.selection.prefixes import Prefixes
from wsisum_cli.selection.weights import fit_weights
from wsisum_cli.summary.attributes import minor_version, wrong_attributes
from wsisum_cli.summary.container import write_container, writing_aside
from wsisum_cli.summary.provenance import describe_standing, rounded
from wsisum_cli.summary.reader import SourcePatches, Summary, open_summary, parse_json
from wsisum_cli.summary.writer import (
    ROOT,
    PatchArrays,
    SourceTiles,
    encode_draws,
    encode_kept,
    encode_tissue,
    list_members,
)
from wsisum_cli.verification.appraisal import ModelFinders, embedding_figures, slide_models
from wsisum_cli.verification.verify import verify_summary


@dataclass(frozen=True)
class TrimResult:
    """What became of a summary that was cut down."""

    name: str
    patches: int
    trimmed_from: int | None  # patches of the first one; None where nothing had to be cut
    bytes_in: int
    bytes_out: int
    coverage: float
    verdict: str  # PASS, REVIEW or FAIL


def trim_summary(
    path: Path, output: Path, keep: int, models: ModelFinders | None = None, force: bool = False
) -> TrimResult:
    """Write the first `keep` patches of the summary at `path` to `output`; one that has no more is copied.

    Figures of models that are not at hand are null. Raises SummaryError when the summary cannot be cut, or the
    trimmed one does not verify; UsageError when there is an `output` already, unless by `force`; ModelError; OSError.
    """
    if output.exists() and not force:
        raise UsageError(f"{output}: is there already; --force replaces it")
    models, before = models or ModelFinders(), path.stat().st_size
    with open_summary(path) as summary:
        check_trimmable(path, summary)
        whole = summary.attributes["patches"] <= keep
        files = {} if whole else cut_files(summary, keep, models)
    output.parent.mkdir(parents=True, exist_ok=True)
    with writing_aside(output) as aside:
        if whole:
            shutil.copyfile(path, aside)
        else:
            write_container(aside, files)
        found = verify_summary(aside, models.encoder, "full", None, 1, models.summarizer, models.slide_encoder)
        bad = [finding for finding in found.findings if finding.severity == "error"]
        if bad:
            raise SummaryError(f"{output.name}: the summary just trimmed does not verify: {bad[0].message}")
    with open_summary(output) as summary:
        return read_standing(summary, None if whole else summary.attributes["trimmed_from"], before, output)


def check_trimmable(path: Path, summary: Summary) -> None:
    """Raises SummaryError for what cannot be cut."""
    wrong = next(wrong_attributes(summary.attributes), None)
    if wrong is not None:
        raise SummaryError(f"{summary.name}: {wrong}; run wsisum verify on it")
    if minor_version(summary.attributes) < 2:
        version = summary.attributes["format_version"]
        raise SummaryError(
            f"{summary.name}: expected format 1.2 or later, found {version}, which does not say who stands for whom "
            "among fewer patches; compress the slide again"
        )
    found = verify_summary(path).findings
    bad = [finding for finding in found if finding.severity == "error"]
    if bad:
        raise SummaryError(f"{summary.name}: it is damaged, and is not cut: {bad[0].message}; run wsisum verify on it")


def read_standing(summary: Summary, trimmed_from: int | None, bytes_in: int, output: Path) -> TrimResult:
    about = summary.attributes
    figures = (about["quality"]["coverage"], about["verdict"]["verdict"])
    return TrimResult(summary.name, about["patches"], trimmed_from, bytes_in, output.stat().st_size, *figures)


def cut_files(summary: Summary, keep: int, models: ModelFinders) -> dict[str, bytes]:
    """Every member of the trimmed summary; what does not depend on how many patches are kept stays as it is."""
    before, tissue = summary.prefixes, summary.tissue
    draws = summary.draws
    if before is None or draws is None:
        raise SummaryError(f"{summary.name}: tissue/earlier_count or reference/draws is missing; compress it again")
    kept, cut = cut_patches(summary, before, keep), before.cut(keep)
    draws = draws.cut(keep)
    pixels = cut_pixels(summary, keep)
    representative, similarity = before.of(keep)
    side = summary.attributes["patch"]["patch_size"]
    files = {name: summary.read(name) for name in summary.members if stays_unchanged(name)}
    files |= encode_kept(kept, pixels, side)
    files |= encode_tissue(replace(tissue, representative=representative, similarity=similarity, prefixes=cut))
    files |= encode_draws(draws)
    about = describe_cut(summary, kept, similarity, draws, models)
    if isinstance(pixels, SourceTiles):
        about["pixels"] = {**summary.attributes["pixels"], "tiles": len(pixels.streams)}
    root = parse_json(summary.read(ROOT))
    root["attributes"]["wsisum"] = {**summary.attributes, **about, "members": list_members(files)}
    return {**files, ROOT: json.dumps(root, separators=(",", ":"), allow_nan=False).encode()}


def stays_unchanged(member: str) -> bool:
    """Whether a member does not depend on how many patches are kept."""
    groups = ("patches/zarr.json", "tissue/zarr.json")
    changing = ("patches/", "tissue/", "reference/draws/", "reference/model_draws/")
    return member in groups or not (member == ROOT or member.startswith(changing))


def cut_patches(summary: Summary, before: Prefixes, keep: int) -> PatchArrays:
    """The first `keep`, with weights and counts of their own."""
    counts = np.bincount(before.of(keep)[0], minlength=keep)
    features = summary.features[:keep]
    weights = fit_weights(features.astype(np.float32), summary.embedding, counts)
    return PatchArrays(summary.coords[:keep], features, weights, counts, summary.cluster[:keep])


def cut_pixels(summary: Summary, keep: int) -> SourceTiles | list[bytes]:
    """The streams of the first `keep` patches, or the tiles that they touch, byte for byte."""
    patches = summary.patches
    if not isinstance(patches, SourcePatches):
        return [patches.shard.stream(row) for row in range(keep)]
    touched = {tile for x, y in summary.coords[:keep].tolist() for tile in patches.reading.tiles(x, y)}
    rows = [row for row, at in enumerate(patches.positions.tolist()) if tuple(at) in touched]
    streams = [patches.shard.stream(row) for row in rows]
    return SourceTiles(
        patches.positions[rows], summary.array("patches/tile_spliced")[rows], streams, patches.shard.side
    )


def describe_cut(
    summary: Summary, kept: PatchArrays, similarity: np.ndarray, draws: Draws, models: ModelFinders
) -> dict[str, Any]:
    """The attributes that are others than before."""
    about, tissue, keep = summary.attributes, summary.tissue, len(kept.coords)
    features = kept.features.astype(np.float32)
    quality = measure(
        WeightedPatches(features, kept.weights, kept.counts, kept.cluster),
        similarity,
        summary.embedding,
        tissue.cluster,
    )
    size, mpp = about["patch"]["patch_size_level0"], about["source"]["mpp"]
    at_hand = slide_models(about, models)
    unknown = {"reconstruction": None, "embedding_cosine": None, "slide_cosine": None}
    embedded = embedding_figures(at_hand, Tokens(features, kept.coords, size), summary.reference)
    measured = rounded({**asdict(quality), **unknown, **embedded})
    target = about["options"].get("target") if about["target_reached"] is not None else None
    return {
        "patches": keep,
        "trimmed_from": about["trimmed_from"] or about["patches"],
        "quality": measured,
        "target_reached": None if target is None else quality.coverage >= target,
        "guarantee": guaranteed(tissue.coords, size, mpp, similarity),
        **describe_standing(measured, draws, keep, stored_thresholds(about["verdict"]["thresholds"])),
    }


def outputs_of(summaries: Mapping[Path, Path], output: Path) -> dict[Path, Path]:
    """Where each of the summaries goes, given what they are called within a folder of outputs.

    A single one goes to `output` itself where that is named as a summary. Raises UsageError when two share a place.
    """
    if len(summaries) == 1 and output.suffix == ".ozx" and not output.is_dir():
        return dict.fromkeys(summaries, output)
    if output.suffix == ".ozx" and not output.is_dir():
        raise UsageError(f"{output}: expected a folder for {len(summaries)} summaries, found the name of one; give one")
    found = {path: output / relative for path, relative in summaries.items()}
    for path, place in found.items():
        others = [other for other, at in found.items() if at == place and other != path]
        if others:
            raise UsageError(f"{path} and {others[0]} would share one output; trim them apart")
    return found
