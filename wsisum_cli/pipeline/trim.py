"""Trim a summary to the patches that were picked first. The slide is not needed."""

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
from wsisum_cli.pipeline.migrate import current_attributes, current_members
from wsisum_cli.quality.guarantee import guaranteed
from wsisum_cli.quality.measures import WeightedPatches, measure
from wsisum_cli.quality.random_draws import Draws
from wsisum_cli.quality.represented import WANTED, TissuePlaces, describe_represented
from wsisum_cli.selection.prefixes import Prefixes
from wsisum_cli.selection.weights import fit_weights
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.container import refuse_existing, write_container, writing_aside
from wsisum_cli.summary.limits.metadata import parse_json
from wsisum_cli.summary.provenance import rounded
from wsisum_cli.summary.reader import SourcePatches, Summary, open_summary
from wsisum_cli.summary.standing import (
    describe_standing,
    judge_again,
    left_out_of,
    likeness_of,
    recorded_thresholds,
    tissue_share,
)
from wsisum_cli.summary.writer import (
    REEMBEDDED,
    ROOT,
    PatchArrays,
    SourceTiles,
    encode_draws,
    encode_kept,
    encode_reembedded,
    encode_tissue,
    list_members,
)
from wsisum_cli.verification.appraisal import ModelFinders, embedding_figures, slide_models
from wsisum_cli.verification.verify import verify_summary


@dataclass(frozen=True)
class TrimResult:
    """Figures of one trimmed summary."""

    name: str
    patches: int
    trimmed_from: int | None  # patches before the first trim; None when copied unchanged
    bytes_in: int
    bytes_out: int
    coverage: float
    represented: float | None  # share of the tissue; None before format 1.4
    verdict: str  # PASS, REVIEW or FAIL


def trim_summary(
    path: Path, output: Path, keep: int, models: ModelFinders | None = None, force: bool = False
) -> TrimResult:
    """Write the first `keep` patches of the summary at `path` to `output`; a summary without more is copied.

    Figures of models that are not available are null. Raises SummaryError when the summary cannot be trimmed or the
    result does not verify, UsageError when `output` exists and `force` is not set, ModelError, OSError.
    """
    refuse_existing([output], force)
    models, before = models or ModelFinders(), path.stat().st_size
    with open_summary(path) as summary:
        check_trimmable(path, summary)
        whole = summary.record.patches <= keep
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
        return read_standing(summary, None if whole else summary.record.trimmed_from, before, output)


def check_trimmable(path: Path, summary: Summary) -> None:
    """Raises SummaryError for what cannot be cut."""
    if summary.record.revision < 2:
        version = summary.record.made_as
        raise SummaryError(
            f"{summary.name}: expected format 1.2 or later, found {version}, which does not record which patches "
            "represent the tissue when fewer are kept; compress the slide again"
        )
    found = verify_summary(path).findings
    bad = [finding for finding in found if finding.severity == "error"]
    if bad:
        raise SummaryError(f"{summary.name}: damaged, cannot be trimmed: {bad[0].message}; run wsisum verify on it")


def read_standing(summary: Summary, trimmed_from: int | None, bytes_in: int, output: Path) -> TrimResult:
    record = summary.record
    verdict, section = judge_again(record), record.represented
    share = None if section is None else section.share
    figures = (record.quality.coverage, share, verdict.verdict if verdict else "")
    return TrimResult(summary.name, record.patches, trimmed_from, bytes_in, output.stat().st_size, *figures)


def cut_files(summary: Summary, keep: int, models: ModelFinders) -> dict[str, bytes]:
    """All members of the trimmed summary. Members that do not depend on the number of patches are copied."""
    before, tissue = summary.prefixes, summary.tissue
    draws = summary.draws
    if before is None or draws is None:
        raise SummaryError(f"{summary.name}: tissue/earlier_count or reference/draws is missing; compress it again")
    kept, cut = cut_patches(summary, before, keep), before.cut(keep)
    draws = draws.cut(keep)
    pixels, jpeg_bytes = cut_pixels(summary, keep)
    representative, similarity = before.of(keep)
    files = {name: data for name, data in current_members(summary).items() if stays_unchanged(name)}
    files |= encode_kept(kept, pixels, jpeg_bytes)
    files |= encode_tissue(replace(tissue, representative=representative, similarity=similarity, prefixes=cut))
    files |= encode_draws(draws)
    files |= encode_reembedded([features[:keep] for features in summary.reembedded])
    about = describe_cut(summary, kept, cut, draws, models)
    if isinstance(pixels, SourceTiles):
        about["pixels"] = {**summary.attributes["pixels"], "tiles": len(pixels.streams)}
    root = parse_json(summary.read(ROOT))
    root["attributes"]["wsisum"] = {**current_attributes(summary), **about, "members": list_members(files)}
    return {**files, ROOT: json.dumps(root, separators=(",", ":"), allow_nan=False).encode()}


def stays_unchanged(member: str) -> bool:
    """Whether a member does not depend on the number of patches."""
    groups = ("patches/zarr.json", "tissue/zarr.json")
    changing = ("patches/", "tissue/", "reference/draws/", "reference/model_draws/", f"{REEMBEDDED}/")
    return member in groups or not (member == ROOT or member.startswith(changing))


def cut_patches(summary: Summary, before: Prefixes, keep: int) -> PatchArrays:
    """The first `keep` patches, with new weights and counts."""
    counts = np.bincount(before.of(keep)[0], minlength=keep)
    features = summary.features[:keep]
    weights = fit_weights(features.astype(np.float32), summary.embedding, counts)
    return PatchArrays(summary.coords[:keep], features, weights, counts, summary.cluster[:keep])


def cut_pixels(summary: Summary, keep: int) -> tuple[SourceTiles | list[bytes], np.ndarray | None]:
    """The streams of the first `keep` patches, or the tiles they touch, as they are stored; then `jpeg_bytes`."""
    patches, sizes = summary.patches, summary.patches.shard.jpeg_bytes
    if not isinstance(patches, SourcePatches):
        return [patches.shard.stored(row) for row in range(keep)], None if sizes is None else sizes[:keep]
    touched = {tile for x, y in summary.coords[:keep].tolist() for tile in patches.reading.tiles(x, y)}
    rows = [row for row, at in enumerate(patches.positions.tolist()) if tuple(at) in touched]
    streams = [patches.shard.stored(row) for row in rows]
    tiles = SourceTiles(patches.positions[rows], summary.array("patches/tile_spliced")[rows], streams)
    return tiles, None if sizes is None else sizes[rows]


def describe_cut(
    summary: Summary,
    kept: PatchArrays,
    prefixes: Prefixes,
    draws: Draws,
    models: ModelFinders,
) -> dict[str, Any]:
    """The attributes that differ from those before."""
    record, tissue, keep = summary.record, summary.tissue, len(kept.coords)
    representative, similarity = prefixes.of(keep)
    assert record.verdict is not None  # of format 1.2 and later, which alone is trimmed
    features = kept.features.astype(np.float32)
    quality = measure(
        WeightedPatches(features, kept.weights, kept.counts, kept.cluster),
        similarity,
        summary.embedding,
        tissue.cluster,
    )
    size, mpp = record.patch.patch_size_level0, record.source.mpp
    available = slide_models(record, models)
    unknown = {"reconstruction": None, "embedding_cosine": None, "slide_cosine": None}
    embedded = embedding_figures(available, Tokens(features, kept.coords, size), summary.reference)
    measured = rounded({**asdict(quality), **unknown, **embedded})
    represented = describe_less(summary, similarity, representative)
    thresholds, shares = recorded_thresholds(record), (tissue_share(record), left_out_of(record))
    return {
        "patches": keep,
        "trimmed_from": record.trimmed_from or record.patches,
        "quality": measured,
        "target_reached": is_reached(record, represented, quality.coverage),
        "guarantee": guaranteed(tissue.coords, size, mpp, similarity, record.revision < 3),
        **({} if represented is None else {"represented": represented}),
        **describe_standing(represented, measured, prefixes, draws, keep, thresholds, *shares),
    }


def describe_less(summary: Summary, similarity: np.ndarray, representative: np.ndarray) -> dict[str, Any] | None:
    """The attribute `represented` of fewer patches; None before format 1.4."""
    before, patch = summary.record.represented, summary.record.patch
    if before is None:
        return None
    size, mpp, twice = patch.patch_size_level0, summary.record.source.mpp, summary.record.counts_overlap_twice
    places = TissuePlaces(summary.tissue.coords, size, mpp, before.unread, twice)
    likeness = likeness_of(before)
    return describe_represented(places, likeness, representative, similarity, before.needed)


def is_reached(record: Attributes, represented: Mapping[str, Any] | None, coverage: float) -> bool | None:
    """Whether the target is still reached; None if there was none. Before format 1.4 it is a coverage."""
    if record.target_reached is None:
        return None
    if represented is not None:
        return bool(represented["share"] >= (record.options.target or WANTED))
    return record.options.target is None or coverage >= record.options.target


def outputs_of(summaries: Mapping[Path, Path], output: Path) -> dict[Path, Path]:
    """Output path of each summary, given its path relative to the output folder.

    A single summary goes to `output` itself if that ends in .ozx. Raises UsageError when two share an output.
    """
    if len(summaries) == 1 and output.suffix == ".ozx" and not output.is_dir():
        return dict.fromkeys(summaries, output)
    if output.suffix == ".ozx" and not output.is_dir():
        raise UsageError(f"{output}: expected a folder for {len(summaries)} summaries, found the name of a single file")
    found = {path: output / relative for path, relative in summaries.items()}
    for path, place in found.items():
        others = [other for other, at in found.items() if at == place and other != path]
        if others:
            raise UsageError(f"{path} and {others[0]} would share one output; give them in separate runs")
    return found
