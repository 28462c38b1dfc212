"""The attributes of a summary: provenance and figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from wsisum_cli.features.embedding import SlideEmbeddings
from wsisum_cli.pipeline.job import Job
from wsisum_cli.pipeline.patch_selector import SelectedPatches, Tissue
from wsisum_cli.pipeline.scene import Scene
from wsisum_cli.quality.guarantee import guaranteed
from wsisum_cli.quality.measures import Quality
from wsisum_cli.quality.random_draws import BY_FEATURES, Draws
from wsisum_cli.quality.verdict import read_thresholds
from wsisum_cli.selection.budget import Limit
from wsisum_cli.selection.candidates import Candidates
from wsisum_cli.selection.selectors import Selection
from wsisum_cli.slides.colour_profile import colour_tables
from wsisum_cli.slides.source import sha256_of
from wsisum_cli.summary.attributes import Attributes, remarks
from wsisum_cli.summary.pixels import describe_pixels
from wsisum_cli.summary.provenance import (
    describe_features,
    describe_models,
    describe_source,
    describe_standing,
    describe_versions,
    rounded,
)
from wsisum_cli.summary.writer import DISCLAIMER, FORMAT_VERSION, PatchArrays, SummaryContents, TissueMap, reference_of
from wsisum_cli.tissue.artefacts import count_kinds


@dataclass
class CompressResult:
    """Figures of one summarized slide."""

    bytes_in: int
    bytes_out: int
    patches: int
    tissue_patches: int
    pixels: str
    provider: str
    quality: Quality
    reconstruction: float | None  # None without a summarizer or when all candidates are kept
    embedding_cosine: float | None  # None without a summarizer
    verdict: str  # PASS, REVIEW or FAIL
    bound: str  # which limit set the number of patches
    target_reached: bool | None  # None when no target coverage was given
    broken_tiles: int
    artefacts: int = 0  # patches removed, because they show nothing
    suspect: int = 0  # tissue patches that may be pen, folds or out of focus
    message: str = ""  # what the user should check
    seconds: dict[str, float] = field(default_factory=dict)


def assemble_contents(
    scene: Scene, selected: SelectedPatches, embedded: SlideEmbeddings, draws: Draws, limit: Limit
) -> SummaryContents:
    """Assemble all attributes and arrays of the summary."""
    slide, options, candidates, tissue = scene.slide, scene.options, scene.patch_selector.candidates, selected.tissue
    measured = rounded(asdict(selected.quality) | embedded.figures())
    attributes = describe(scene, tissue) | describe_models(embedded.models)
    attributes |= describe_standing(measured, draws, limit.keep, read_thresholds(options.thresholds))
    attributes |= {"guarantee": describe_guarantee(tissue, selected.selection, slide.mpp), "trimmed_from": None}
    reached = None if options.target is None else selected.quality.coverage >= options.target
    attributes |= {"patches": limit.keep, "bound": limit.bound, "target_reached": reached}
    stored = {**describe_pixels(selected.pixels, options.quality), **selected.loss}
    return SummaryContents(
        attributes=Attributes.model_validate({**attributes, "pixels": stored, "quality": measured}),
        overview=scene.overview,
        overview_mpp=scene.overview_mpp,
        kept=patch_arrays(tissue, candidates, selected.selection),
        pixels=selected.pixels,
        tissue=tissue_map(tissue, candidates, selected.selection),
        reference=replace(reference_of(tissue.features), **embedded.arrays(), **draws.arrays()),
        icc_profile=colour_tables(slide.pyramid.icc_profile),
        artefacts=tissue.artefacts,
    )


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


def compress_result(job: Job, contents: SummaryContents, seconds: dict[str, float]) -> CompressResult:
    attributes = contents.attributes
    return CompressResult(
        bytes_in=attributes.source.bytes,
        bytes_out=job.output.stat().st_size,
        patches=attributes.patches,
        tissue_patches=attributes.tissue_patches,
        pixels=attributes.pixels.mode,
        provider=attributes.provider,
        quality=Quality(**attributes.quality.model_dump(include=set(BY_FEATURES))),
        reconstruction=attributes.quality.reconstruction,
        embedding_cosine=attributes.quality.embedding_cosine,
        verdict=attributes.verdict.verdict if attributes.verdict else "",
        bound=attributes.bound or "",
        target_reached=attributes.target_reached,
        broken_tiles=attributes.broken_tiles.count,
        artefacts=attributes.artefact_count,
        suspect=attributes.suspect_count,
        message=remarks(attributes),
        seconds=seconds,
    )


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
