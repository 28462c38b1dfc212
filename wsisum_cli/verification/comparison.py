"""Compare a summary with its source slide: file, pixels and quality."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from wsisum_cli.errors import ModelError, SlideError
from wsisum_cli.features.embedding import Tokens, cosine, encode_slide, reconstruct_slide
from wsisum_cli.features.encode import encode_patches
from wsisum_cli.features.similarity import nearest
from wsisum_cli.features.vectors import as_half, checked
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.quality.likeness import Likeness, measure_likeness
from wsisum_cli.quality.measures import WeightedPatches, measure_kept
from wsisum_cli.quality.random_draws import draw
from wsisum_cli.quality.represented import share_of
from wsisum_cli.slides.colour_profile import colour_tables
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import Reading, read_patches
from wsisum_cli.slides.pixels import MAX_PSNR, likeness
from wsisum_cli.slides.pyramid import EncodedTile, Level, describe_error
from wsisum_cli.slides.slide import FROM_MANIFEST, GIVEN, Overview, Slide, open_slide, read_overview
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.reader import SourcePatches, Summary
from wsisum_cli.summary.writer import ICC_PROFILE, PIXELS, ROOT, TILES
from wsisum_cli.tissue.coverage import measure_left_out
from wsisum_cli.tissue.mask import find_tissue, is_brightfield
from wsisum_cli.verification.additions import compare_packed
from wsisum_cli.verification.appraisal import (
    EMBEDDING_TOLERANCE,
    QUALITY_TOLERANCE,
    ModelFinders,
    comparable,
    compare_quality,
    slide_models,
)
from wsisum_cli.verification.content import ContentCheck
from wsisum_cli.verification.finding import Finding
from wsisum_cli.verification.left_out import report_left_out
from wsisum_cli.verification.overview import compare_with_slide
from wsisum_cli.verification.unread import compare_broken_tiles, tiles_painted

#: How far the contrast of the yardstick may differ.
CONTRAST_TOLERANCE = 0.02
#: Share of the tissue by which represented tissue may differ: other processors round cosines near the limit otherwise.
SHARE_TOLERANCE = 0.02
#: Of figures of a trimmed summary: patches that were cut off count with features of pixels that are no longer stored.
TRIMMED_TOLERANCE = 0.02
#: Figures of random draws that the verdict rests on.
COMPARED = ("coverage", "represented")
MIN_PSNR, MIN_SSIM = 30.0, 0.90  # dB and 0..1: one JPEG generation at quality 90, with a margin


def compare_with_source(
    content: ContentCheck, path: Path | None, models: ModelFinders, threads: int, measured: dict[str, float]
) -> Iterator[Finding]:
    """The same file, the same pixels, the same quality over all tissue."""
    source = content.attributes.source
    if path is None:
        missing = f"{source.name}: no slide of {source.bytes} bytes and this content there; give another --source"
        yield Finding("source-missing", missing, None, source.sha256)
        return
    try:
        found = find_source(path)
        if found.sha256 != source.sha256:
            yield Finding("source-differs", f"{path.name} is another file", None, source.sha256, found.sha256)
            return
        given = source.mpp if source.mpp_source in (GIVEN, FROM_MANIFEST) else None
        wins = source.mpp_source == FROM_MANIFEST
        with open_slide(found.path, given, mpp_wins=wins, image=source.image, files=found.files) as slide:
            wrong = yield from compare_geometry(content, slide)
            if wrong:
                return
            yield from compare_pixels(content, slide, measured)
            yield from compare_looks(content, slide, threads, measured)
            encoder = models.encoder(content.attributes.encoder)
            if encoder is not None and not content.attributes.features_are_given:
                yield from compare_measures(content, slide, encoder, models, threads, measured)
    except (SlideError, OSError) as error:
        yield Finding("source-missing", f"{path.name}: {describe_error(error, path)}")


def compare_geometry(content: ContentCheck, slide: Slide) -> Generator[Finding, None, bool]:
    """Whether size, pixel size and reading are not those of the slide."""
    source, reading = content.attributes.source, content.reading
    wrong = []
    if (source.width, source.height) != slide.size or abs(source.mpp / slide.mpp - 1) > 1e-6:
        wrong.append("source.width, height or mpp")
    level = slide.levels[reading.level] if reading.level < len(slide.levels) else None
    if level is None or not reads_alike(reading, level):
        wrong.append("patch.reading")
    for name in wrong:
        yield Finding("attributes", f"{name} does not match the slide", ROOT)
    return bool(wrong)


def reads_alike(reading: Reading, level: Level) -> bool:
    """Whether `reading` fits `level`."""
    sizes = (level.tile_width, level.tile_height, level.width, level.height)
    shrunk = tuple(size // reading.shrink for size in sizes)
    same = shrunk == (reading.tile_width, reading.tile_height, reading.width, reading.height)
    return same and abs(reading.scale / (level.downsample * reading.shrink) - 1) < 1e-6


def compare_pixels(content: ContentCheck, slide: Slide, measured: dict[str, float]) -> Iterator[Finding]:
    """Compare copied tiles byte for byte, and re-encoded pixels by PSNR and SSIM."""
    summary, reading = content.summary, content.reading
    if isinstance(summary.patches, SourcePatches):
        yield from compare_tiles(summary, summary.patches, slide, reading.level)
        measured["tiles_compared"] = len(summary.patches.shard)
        return
    worst_psnr, worst_ssim = MAX_PSNR, 1.0
    for rows, patches in read_patches(slide.pyramid, summary.coords, reading, Damage()):
        for row, original in zip(rows.tolist(), patches, strict=True):
            psnr, ssim = likeness(original, summary.patches[row])
            worst_psnr, worst_ssim = min(worst_psnr, psnr), min(worst_ssim, ssim)
            if psnr < MIN_PSNR or ssim < MIN_SSIM:
                wanted, found = f"{MIN_PSNR:g} dB, SSIM {MIN_SSIM:g}", f"{psnr:.1f} dB, SSIM {ssim:.3f}"
                yield Finding("pixels-lossy", f"patch {row} differs from the slide", PIXELS, wanted, found)
    measured["psnr_min"], measured["ssim_min"] = float(worst_psnr), float(worst_ssim)


def compare_looks(content: ContentCheck, slide: Slide, threads: int, measured: dict[str, float]) -> Iterator[Finding]:
    """The overview, the tissue and the colour profile."""
    damage = Damage()
    overview = read_overview(slide, damage, threads)
    shape = (overview.pixels.shape[0], overview.pixels.shape[1])
    broken = tiles_painted(slide, damage.everywhere, overview.downsample, shape)
    yield from compare_with_slide(content.summary, slide, overview, broken)
    yield from compare_broken_tiles(content.attributes, slide)
    yield from compare_left_out(content, slide, overview, measured)
    stored, original = content.summary.icc_profile, slide.pyramid.icc_profile
    if stored != original and stored != colour_tables(original):
        yield Finding("icc-differs", "the colour profile is not that of the slide", ICC_PROFILE)


def compare_left_out(
    content: ContentCheck, slide: Slide, overview: Overview, measured: dict[str, float]
) -> Iterator[Finding]:
    """How much tissue of the slide a mask or given features leave out; the verdict is reached again by that."""
    record, summary = content.attributes, content.summary
    if not (record.has_mask or record.features_are_given) or not is_brightfield(overview.pixels):
        return
    found, size = find_tissue(overview.pixels, overview.mpp), record.patch.patch_size_level0
    places = np.concatenate([summary.tissue.coords, summary.artefacts.coords])
    seen = measure_left_out(found, places, size, overview.downsample, slide.mpp)
    measured["source_left_out"] = seen.share
    yield from report_left_out(record, seen)
    yield from content.judge_left_out(seen)


def compare_tiles(summary: Summary, stored: SourcePatches, slide: Slide, level: int) -> Iterator[Finding]:
    spliced = summary.array("patches/tile_spliced").tolist()
    for index, (column, row) in enumerate(stored.positions.tolist()):
        original = encoded_tile(slide, level, column, row)
        if original is None or (original.stream, original.spliced) != (stored.shard.stream(index), spliced[index]):
            where = f"tile at column {column}, row {row} of level {level}"
            yield Finding("pixels-differ", f"the stored {where} differs from the slide's", TILES)


def encoded_tile(slide: Slide, level: int, column: int, row: int) -> EncodedTile | None:
    """The slide's tile; None if it has no such JPEG tile."""
    grid = slide.levels[level]
    inside = 0 <= column < grid.columns and 0 <= row < grid.rows
    return slide.pyramid.encoded_tile(level, column, row) if inside and slide.pyramid.copies_jpeg(level) else None


def compare_measures(
    content: ContentCheck,
    slide: Slide,
    encoder: Encoder,
    models: ModelFinders,
    threads: int,
    measured: dict[str, float],
) -> Iterator[Finding]:
    """Encode all tissue again and measure the kept patches against it."""
    summary = content.summary
    coords = summary.tissue.coords
    features, rows = encode_patches(slide.pyramid, coords, content.reading, encoder, Damage(), threads)
    row_of = {tuple(at): row for row, at in enumerate(coords[rows].tolist())}
    kept = np.array([row_of[tuple(at)] for at in summary.coords.tolist()])
    yardstick = measure_likeness(
        as_half(features).astype(np.float32), coords[rows], content.attributes.patch.patch_size_level0
    )
    yield from compare_packed(summary, as_half(features).astype(np.float32), rows, measured)
    features[kept] = summary.features  # as stored: re-encoded pixels change features slightly
    stored = WeightedPatches(summary.features.astype(np.float32), summary.weights, summary.counts, summary.cluster)
    now = asdict(measure_kept(features, stored, summary.tissue.cluster[rows]))
    similarity = nearest(checked(features), checked(stored.features))[1]
    if content.attributes.revision < 2:
        del now["composition"]
    measured |= {f"source_{name}": value for name, value in now.items()}
    tolerance = QUALITY_TOLERANCE if content.attributes.trimmed_from is None else TRIMMED_TOLERANCE
    yield from compare_quality(content.attributes.quality, now, "the slide's tissue", tolerance)
    yield from compare_represented(content, yardstick, similarity, len(coords) - len(rows), measured)
    if len(rows) == len(coords):
        yield from compare_draws(content, as_half(features).astype(np.float32), threads)
        tissue = Tokens(features, coords, content.attributes.patch.patch_size_level0)
        yield from compare_embeddings(content, tissue, kept, models, measured)


def compare_represented(
    content: ContentCheck,
    yardstick: Likeness,
    similarity: np.ndarray,
    lost: int,
    measured: dict[str, float],
) -> Iterator[Finding]:
    """The yardstick and the represented tissue. A file before format 1.4 gets its verdict here.

    `similarity` (R,) is that of the patches that could be read; `lost` more could not, though they once could.
    """
    attributes, stated = content.attributes, content.attributes.represented
    unread = lost + (stated.unread if stated is not None else 0)
    share = share_of(similarity, yardstick.cosine, unread)
    measured |= {"source_represented": round(share, 6), "source_alike": yardstick.cosine}
    if stated is None:
        if attributes.revision >= 2:
            content.judge_by(yardstick, unread)
    elif (
        abs(stated.cosine - yardstick.cosine) > QUALITY_TOLERANCE
        or abs(stated.share - share) > SHARE_TOLERANCE
        or abs(stated.contrast - yardstick.contrast) > CONTRAST_TOLERANCE
    ):
        wanted = f"{stated.share:.4f} at cosine {stated.cosine:.4f}"
        found = f"{share:.4f} at cosine {yardstick.cosine:.4f}"
        yield Finding("quality-differs", "represented tissue differs from the slide's", ROOT, wanted, found)


def compare_draws(content: ContentCheck, features: np.ndarray, threads: int) -> Iterator[Finding]:
    """The random draws, made once more from the features (N, D) of all tissue."""
    record, stored = content.attributes, content.summary.draws
    if stored is None or record.represented is None or record.revision < 4:
        return
    keep = record.trimmed_from or record.patches
    cosine, cluster = record.represented.cosine, content.summary.tissue.cluster
    now = draw(features, cluster, cosine, keep, stored.seed, stored.count, threads)
    tolerance = QUALITY_TOLERANCE if record.trimmed_from is None else TRIMMED_TOLERANCE
    for name in COMPARED:
        for number in (number for number in stored.keep if number in now.keep):
            apart = float(np.median(np.abs(stored.exactly(name, number) - now.exactly(name, number))))
            if apart > tolerance:
                message = f"{name} of random draws of {number} patches is not what the slide's tissue gives"
                found = f"{float(stored.median(name, number) or 0):.4f}"
                expected = f"{float(now.median(name, number) or 0):.4f}"
                yield Finding("draws-differ", message, "reference/draws", expected, found)
                return


def compare_embeddings(
    content: ContentCheck, tissue: Tokens, kept: np.ndarray, models: ModelFinders, measured: dict[str, float]
) -> Iterator[Finding]:
    """Compare the outputs of the summarizer and slide encoder for all tissue, if available."""
    reference = content.summary.reference
    try:
        available = slide_models(content.attributes, models)
        if available.summarizer is not None and reference.candidates is not None and reference.embedding is not None:
            reconstructed = reconstruct_slide(available.summarizer, tissue, reference.candidates, kept)
            now = reconstructed.figures()
            measured |= {f"source_{name}": value for name, value in now.items() if value is not None}
            stated = comparable(content.attributes, now)
            yield from compare_quality(content.attributes.quality, stated, "the slide's tissue")
            yield from compare_embedding("embedding", reconstructed.embedding, reference.embedding)
        if available.slide_encoder is not None and reference.slide_embedding is not None:
            embedding = encode_slide(available.slide_encoder, tissue).embedding
            yield from compare_embedding("slide_embedding", embedding, reference.slide_embedding)
    except ModelError as error:
        yield Finding("embedding-not-recomputed", str(error))


def compare_embedding(name: str, now: np.ndarray, stored: np.ndarray) -> Iterator[Finding]:
    found = cosine(now, stored)
    if found < 1 - EMBEDDING_TOLERANCE:
        message = f"reference/{name} does not match the slide's tissue"
        yield Finding("embedding-differs", message, f"reference/{name}", "cosine 1", f"{found:.4f}")
