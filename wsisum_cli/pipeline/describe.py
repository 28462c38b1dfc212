"""The attributes of a summary: provenance and figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wsisum_cli.features.embedding import SlideEmbeddings
from wsisum_cli.pipeline.job import Written
from wsisum_cli.pipeline.patch_selector import SelectedPatches, Tissue
from wsisum_cli.pipeline.scene import Scene
from wsisum_cli.quality.guarantee import guaranteed
from wsisum_cli.quality.random_draws import Draws
from wsisum_cli.quality.represented import WANTED, describe_represented, fewest_for, share_curve
from wsisum_cli.quality.verdict import LeftOut, read_thresholds
from wsisum_cli.selection.budget import MAX_KEEP, Limit
from wsisum_cli.selection.candidates import Candidates
from wsisum_cli.selection.selectors import Selection
from wsisum_cli.slides.colour_profile import colour_tables
from wsisum_cli.slides.source import sha256_of
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.pixels import count_bytes, describe_pixels
from wsisum_cli.summary.provenance import (
    describe_features,
    describe_models,
    describe_source,
    describe_versions,
    rounded,
)
from wsisum_cli.summary.standing import describe_standing
from wsisum_cli.summary.writer import DISCLAIMER, FORMAT_VERSION, PatchArrays, SummaryContents, TissueMap, reference_of
from wsisum_cli.tissue.artefacts import count_kinds


@dataclass(frozen=True)
class CompressResult:
    """One summarized slide: the file of its summary and what it says, the sizes of both, and seconds per stage."""

    output: Path
    bytes_in: int
    bytes_out: int
    modified_out: int  # ns since 1970
    attributes: Attributes
    seconds: dict[str, float]


def assemble_contents(
    scene: Scene, selected: SelectedPatches, embedded: SlideEmbeddings, draws: Draws, limit: Limit
) -> SummaryContents:
    """Assemble all attributes and arrays of the summary."""
    slide, options, candidates, tissue = scene.slide, scene.options, scene.patch_selector.candidates, selected.tissue
    measured = rounded(asdict(selected.quality) | embedded.figures())
    attributes = describe(scene, tissue) | describe_models(embedded.models)
    represented = describe_representation(scene, selected)
    share = attributes["features"].get("tissue_share")
    thresholds, prefixes = read_thresholds(options.thresholds), selected.selection.prefixes
    left_out = judged_left_out(scene)
    attributes |= {} if scene.left_out is None else {"left_out": scene.left_out.as_dict()}
    attributes |= describe_standing(represented, measured, prefixes, draws, limit.keep, thresholds, share, left_out)
    attributes |= {"represented": represented, "trimmed_from": None}
    attributes |= {"guarantee": describe_guarantee(tissue, selected.selection, slide.mpp)}
    reached = None if options.share is None else represented["share"] >= options.share
    attributes |= {"patches": limit.keep, "bound": limit.bound, "target_reached": reached}
    stored: dict[str, Any] = {**describe_pixels(selected.pixels, options.quality), **selected.loss}
    pixels, jpeg_bytes = selected.pixels, None
    if options.recompress is not None and (found := scene.patch_selector.recompressed(pixels)) is not None:
        (pixels, jpeg_bytes), stored["recompressed"] = found, options.recompress
    packed = scene.patch_selector.packed(options.tissue_features)
    if packed is not None:
        attributes |= {"tissue_features": packed[1]}
    overview, overview_mpp = scene.overview.within(count_bytes(selected.pixels))
    return SummaryContents(
        attributes=Attributes.model_validate({**attributes, "pixels": stored, "quality": measured}),
        overview=overview,
        overview_mpp=overview_mpp,
        kept=patch_arrays(tissue, candidates, selected.selection),
        pixels=pixels,
        tissue=tissue_map(tissue, candidates, selected.selection),
        reference=replace(reference_of(tissue.features), **embedded.arrays(), **draws.arrays()),
        icc_profile=colour_tables(slide.pyramid.icc_profile),
        artefacts=tissue.artefacts,
        tissue_features=None if packed is None else packed[0],
        jpeg_bytes=jpeg_bytes,
    )


def describe_representation(scene: Scene, selected: SelectedPatches) -> dict[str, Any]:
    """How much of the tissue the kept patches represent, and how many would represent most of it."""
    patch_selector, selection, keep = scene.patch_selector, selected.selection, len(selected.selection.rows)
    places, likeness = selected.tissue.places(scene.slide.mpp), patch_selector.likeness
    needed = fewest_for(share_curve(selection.prefixes, keep, likeness.cosine, places.unread), WANTED)
    if needed is None and (found := patch_selector.needed(WANTED, MAX_KEEP)) is not None:
        needed = max(found, keep + 1)  # by the slide's features, which may say that these were enough
    return describe_represented(places, likeness, selection.representative, selection.similarity, needed)


def judged_left_out(scene: Scene) -> LeftOut | None:
    """What a mask or given features leave out, as the verdict sees it; None without these."""
    masked, found = scene.job.mask is not None, scene.left_out
    if not masked and scene.job.features is None:
        return None
    return LeftOut(None, masked=masked) if found is None else LeftOut(found.share, found.largest_mm2, masked)


def patch_arrays(tissue: Tissue, candidates: Candidates, selection: Selection) -> PatchArrays:
    rows = selection.rows
    coords, features = tissue.grid.coords[rows], tissue.features[rows]
    return PatchArrays(coords, features, selection.weights, selection.counts, candidates.cluster[rows])


def tissue_map(tissue: Tissue, candidates: Candidates, selection: Selection) -> TissueMap:
    stands = (selection.representative, selection.similarity, candidates.cluster, selection.prefixes)
    return TissueMap(tissue.grid.coords, *stands, suspect=tissue.suspect)


def describe_suspects(tissue: Tissue) -> dict[str, Any]:
    """How many tissue patches are suspect, and of which kinds."""
    kinds = {} if tissue.suspect is None else count_kinds(tissue.suspect)
    return {"count": sum(kinds.values()), "kinds": kinds}


def describe_guarantee(tissue: Tissue, selection: Selection, mpp: float) -> dict[str, Any]:
    return guaranteed(tissue.grid.coords, tissue.grid.patch_size_level0, mpp, selection.similarity)


def compress_result(
    output: Path, contents: SummaryContents, written: Written, seconds: dict[str, float]
) -> CompressResult:
    attributes = contents.attributes
    source = attributes.source
    return CompressResult(output, source.bytes, written.bytes, written.modified, attributes, seconds)


def describe(scene: Scene, tissue: Tissue) -> dict[str, Any]:
    """Provenance: everything needed to reproduce the summary, and nothing that names a patient or a path."""
    given, grid = tissue.given, tissue.grid
    slide, job, options, encoder, damage = scene.slide, scene.job, scene.options, scene.tools.encoder, scene.damage
    return {
        "format_version": FORMAT_VERSION,
        "disclaimer": DISCLAIMER,
        "source": describe_source(slide, job.source),
        "tissue_patches": len(tissue.features),
        "patch": {
            "patch_size": grid.reading.patch_size,
            "patch_size_level0": grid.patch_size_level0,
            "mpp": slide.mpp * grid.patch_size_level0 / grid.reading.patch_size,
            "aligned": grid.aligned,
            "reading": grid.reading.as_dict(),
        },
        "encoder": encoder.card.as_dict() if given is None else {"name": given.encoder},
        "provider": encoder.provider if given is None else "none",
        "features": describe_features(given, encoder, scene.tissue_share),
        "options": {**options.as_dict(), "mask_sha256": sha256_of(job.mask) if job.mask else None},
        "broken_tiles": {"count": damage.count, "positions": [list(at) for at in damage.positions]},
        "artefacts": tissue.artefacts.as_dict(),
        "suspect": describe_suspects(tissue),
        "versions": describe_versions(),
    }
