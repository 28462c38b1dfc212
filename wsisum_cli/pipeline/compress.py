"""One slide through every stage, in order. The file to read first."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.errors import NotASlideError, NoTissueError, SummaryError, TooFewBytesError
from wsisum_cli.features.embedding import Embedded, SlideModels, embed_tissue
from wsisum_cli.features.encode import encode_patches, find_features, read_features
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.pipeline.job import Clock, Job, Options, Stage, Tools
from wsisum_cli.pipeline.keeping import Chosen, Keeping, Tissue, pick_by
from wsisum_cli.quality.guarantee import guaranteed
from wsisum_cli.quality.measures import Quality
from wsisum_cli.quality.random_draws import BY_FEATURES, Draws, affordable, draw, unmeasured
from wsisum_cli.quality.verdict import read_thresholds
from wsisum_cli.selection.budget import GUESS, MAX_BYTES, TARGET, Limit, most_kept, most_within
from wsisum_cli.selection.candidates import Candidates
from wsisum_cli.selection.selectors import Selection, pick
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import plan_reading
from wsisum_cli.slides.slide import Overview, Slide, open_slide, read_overview
from wsisum_cli.slides.source import sha256_of
from wsisum_cli.summary.attributes import little_tissue
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.overview import blank_glass
from wsisum_cli.summary.pixels import describe_pixels
from wsisum_cli.summary.provenance import (
    describe_features,
    describe_models,
    describe_source,
    describe_standing,
    describe_versions,
    rounded,
)
from wsisum_cli.summary.writer import (
    DISCLAIMER,
    FORMAT_VERSION,
    Draft,
    Kept,
    TissueMap,
    reference_of,
    size_of,
    write_summary,
)
from wsisum_cli.tissue.artefacts import classify
from wsisum_cli.tissue.grid import Grid, lay_grid
from wsisum_cli.tissue.guard import Watch, part, part_picked
from wsisum_cli.tissue.mask import find_tissue, is_brightfield, read_mask
from wsisum_cli.verification.verify import verify_summary

__all__ = ["Clock", "Job", "Options", "Stage", "Tissue", "Tools", "Written", "compress_slide"]


@dataclass
class Written:
    """What became of a slide that was summarized."""

    bytes_in: int
    bytes_out: int
    patches: int
    tissue_patches: int
    pixels: str
    provider: str
    quality: Quality
    reconstruction: float | None  # None without a summarizer, or when all candidates are kept
    embedding_cosine: float | None  # None without a summarizer
    verdict: str  # PASS, REVIEW or FAIL
    bound: str  # what decided on the number of patches
    target_reached: bool | None  # None where no coverage was asked for
    broken_tiles: int
    artefacts: int = 0
    message: str = ""  # what should be looked at
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """A slide whose tissue is encoded."""

    slide: Slide
    job: Job
    options: Options
    tools: Tools
    models: SlideModels  # that serve its features
    clock: Clock
    damage: Damage
    overview: np.ndarray  # (H, W, 3) uint8, without what is not tissue
    overview_mpp: float
    tissue_share: float  # of the tissue found, that lies in patches; 1 where these were laid over it
    keeping: Keeping
    limit: Limit  # by number alone
    hashed: Any  # a future of the source's hash


def compress_slide(job: Job, options: Options, tools: Tools) -> Written:
    """Summarize one slide into `job.output`, which holds a verified summary afterwards or is left as it was.

    Raises SlideError or one of its children, ModelError when the encoder fails, SummaryError when the file
    written does not verify, OSError when the file system fails.
    """
    clock = Clock(tools.stage)
    with encoded(job, options, tools, clock) as scene:
        limit = scene.limit
        if options.target is not None:
            with clock("pixels"):
                fewest = scene.keeping.fewest(options.target)
            limit = limit if fewest is None else limit.cut(fewest, TARGET)
        draft = finished(scene, limit) if options.max_bytes is None else within_bytes(scene, limit, options.max_bytes)
    with clock("write"):
        write_verified(job.output, draft, tools.encoder, scene.models)
    return written(job, draft, clock.seconds)


@contextmanager
def encoded(job: Job, options: Options, tools: Tools, clock: Clock) -> Iterator[Scene]:
    """The slide with its tissue found and encoded, patches ready to be picked. Raises as `compress_slide`."""
    damage, encoder = Damage(), tools.encoder
    with ThreadPoolExecutor(1) as hashing, open_slide(job.source.path, job.mpp, job.name) as slide:
        with clock("tissue"):
            overview = read_overview(slide, damage, tools.threads)
            mask = tissue_mask(slide, overview, job.mask)
        with clock("features"):
            grid = choose_grid(slide, overview, mask, options, encoder) if job.features is None else None
            hashed = hashing.submit(lambda: job.source.sha256)  # beside the reading, which warms the disk's cache
            if grid is not None:
                tissue = encode_tissue(slide, grid, tools, damage, options.artefacts == "guard")
            else:
                tissue = given_tissue(slide, job, options, encoder)
        models = serving(tissue, tools)
        with clock("selection"):
            if tissue.given is not None:
                tissue = readable(slide, tissue, options, damage, tools.threads, models)
            limit = most_allowed(tissue, options)
            keeping = Keeping(slide, tissue, limit.keep, options, tools, models, damage)
            keeping.rows(min(limit.keep, GUESS))
        yield Scene(
            slide,
            job,
            options,
            tools,
            models,
            clock,
            damage,
            overview=blank_glass(overview.pixels, mask),
            overview_mpp=overview.mpp,
            tissue_share=tissue.given.tissue_share(mask, overview.downsample) if tissue.given is not None else 1.0,
            keeping=keeping,
            limit=limit,
            hashed=hashed,
        )


def finished(scene: Scene, limit: Limit) -> Draft:
    """The summary of so many patches: their pixels, figures, and what these come to. Raises as `compress_slide`."""
    clock, options = scene.clock, scene.options
    with clock("pixels"):
        chosen = scene.keeping.choose(limit.keep)
    embedded = embed_slide(scene, chosen)
    with clock("draws"):
        cluster = scene.keeping.candidates.cluster
        count = affordable(limit.keep, options.draws)
        draws = draw(chosen.tissue.tokens, cluster, limit.keep, embedded, options.seed, count)
    with clock("hash"):
        scene.hashed.result()
    return draft_of(scene, chosen, embedded, draws, limit)


def within_bytes(scene: Scene, limit: Limit, most: int) -> Draft:
    """The summary of as many patches as fit into `most` bytes. Raises TooFewBytesError, and as `compress_slide`."""
    drafts: dict[int, Draft] = {}
    provisional: dict[int, int] = {}
    embedded = embed_slide(scene, scene.keeping.choose(1))

    def size(keep: int) -> int:
        drafts[keep] = finished(scene, limit.cut(keep, MAX_BYTES))
        return size_of(drafts[keep])

    def estimate(keep: int) -> int:
        """Without embeddings and draws, which take long, of just these patches."""
        if keep not in provisional:
            with scene.clock("pixels"):
                chosen = scene.keeping.choose(keep)
                figures = tuple(name for name, value in embedded.figures().items() if value is not None)
                count = affordable(keep, scene.options.draws)
                draws = unmeasured(keep, figures, count, scene.options.seed)
                provisional[keep] = size_of(draft_of(scene, chosen, embedded, draws, limit.cut(keep, MAX_BYTES)))
        return provisional[keep]

    keep = most_within(most, limit.keep, estimate, size)
    if not keep:
        least = size_of(drafts[1])
        least += len(str(least)) - len(str(most))  # which the file records
        raise TooFewBytesError(
            f"{scene.slide.name}: expected a summary of at most {most} bytes, found that one of a single patch takes "
            f"{least}; allow as many with --max-bytes"
        )
    return drafts[keep]


def draft_of(scene: Scene, chosen: Chosen, embedded: Embedded, draws: Draws, limit: Limit) -> Draft:
    """All that the summary holds of the patches chosen."""
    slide, options, candidates, tissue = scene.slide, scene.options, scene.keeping.candidates, chosen.tissue
    measured = rounded(asdict(chosen.quality) | embedded.figures())
    made = describe(scene, tissue) | describe_models(embedded.models)
    made |= describe_standing(measured, draws, limit.keep, read_thresholds(options.thresholds))
    made |= {"guarantee": represented(tissue, chosen.selection, slide.mpp), "trimmed_from": None}
    reached = None if options.target is None else chosen.quality.coverage >= options.target
    made |= {"patches": limit.keep, "bound": limit.bound, "target_reached": reached}
    stored = {**describe_pixels(chosen.pixels, options.quality), **chosen.loss}
    return Draft(
        attributes={**made, "pixels": stored, "quality": measured},
        overview=scene.overview,
        overview_mpp=scene.overview_mpp,
        kept=kept_patches(tissue, candidates, chosen.selection),
        pixels=chosen.pixels,
        tissue=tissue_map(tissue, candidates, chosen.selection),
        reference=replace(reference_of(tissue.features), **embedded.arrays(), **draws.arrays()),
        icc_profile=slide.pyramid.icc_profile,
        artefacts=tissue.artefacts,
    )


def tissue_mask(slide: Slide, overview: Overview, given: Path | None) -> np.ndarray:
    """(H, W) bool in the overview's frame. Raises NotASlideError, MaskError."""
    if given is not None:
        return read_mask(given, overview.pixels.shape[:2], overview.downsample)
    if not is_brightfield(overview.pixels):
        raise NotASlideError(
            f"{slide.name}: the image is mostly dark, as fluorescence is; only brightfield slides can be summarized",
            "not brightfield RGB",
        )
    return find_tissue(overview.pixels, overview.mpp)


def given_tissue(slide: Slide, job: Job, options: Options, encoder: Encoder) -> Tissue:
    """The patches and features that somebody else's file holds. Raises FeaturesError."""
    assert job.features is not None
    given = read_features(find_features(job.features, job.source.path), slide, options.patch_size_level0)
    size, card = given.patch_size_level0, encoder.card
    reading = plan_reading(slide.levels, size, card.patch_size, card.mpp_tolerance)
    return Tissue(Grid(given.coords, size, reading, aligned=False), given.features, given)


def encode_tissue(slide: Slide, grid: Grid, tools: Tools, damage: Damage, guarded: bool = False) -> Tissue:
    """The patches of the grid that can be read; where `guarded`, without artefacts. Raises BrokenSlideError."""
    watch = Watch(slide, grid) if guarded else None
    features, rows = encode_patches(
        slide.pyramid, grid.coords, grid.reading, tools.encoder, damage, tools.threads, tools.progress, watch
    )
    tissue = Tissue(replace(grid, coords=grid.coords[rows]), features, None)
    return tissue if watch is None else tissue.rows(*part(tissue.grid.coords, classify(watch.statistics[rows])))


def choose_grid(slide: Slide, overview: Overview, mask: np.ndarray, options: Options, encoder: Encoder) -> Grid:
    """Aligned to the tiles where those may be copied. Raises NoTissueError, NotASlideError, MppError."""

    def lay(align: bool) -> Grid:
        return lay_grid(slide.levels, slide.mpp, mask, overview.downsample, encoder.card, align, slide.name)

    free = lay(align=False)
    copied = options.pixels != "jpeg" and slide.pyramid.copies_jpeg(free.reading.level)
    grid = lay(align=True) if copied else free
    if not len(grid.coords):
        raise NoTissueError(
            f"{slide.name}: no patch of tissue found; where there is some, mark it in a mask (polygons in level-0 px)"
        )
    return grid


def most_allowed(tissue: Tissue, options: Options) -> Limit:
    """How many patches `keep` allows, before bytes and coverage are looked at."""
    free = options.max_bytes is not None or options.target is not None
    return most_kept(len(tissue.features), options.keep, free)


def readable(
    slide: Slide, tissue: Tissue, options: Options, damage: Damage, threads: int, models: SlideModels
) -> Tissue:
    """Given features without those that would be kept and cannot be, or are artefacts. Raises BrokenSlideError."""

    def picked(rows: np.ndarray) -> np.ndarray:
        some = tissue.rows(rows)
        return pick(pick_by(some, options, models), most_allowed(some, options).keep, options.selector)

    guarded = options.artefacts == "guard"
    return tissue.rows(*part_picked(slide, tissue.grid, picked, damage, threads, guarded))


def kept_patches(tissue: Tissue, candidates: Candidates, selection: Selection) -> Kept:
    rows = selection.rows
    coords, features = tissue.grid.coords[rows], tissue.features[rows]
    return Kept(coords, features, selection.weights, selection.counts, candidates.cluster[rows])


def tissue_map(tissue: Tissue, candidates: Candidates, selection: Selection) -> TissueMap:
    told = (selection.representative, selection.similarity, candidates.cluster, selection.prefixes)
    return TissueMap(tissue.grid.coords, *told)


def represented(tissue: Tissue, selection: Selection, mpp: float) -> dict[str, Any]:
    return guaranteed(tissue.grid.coords, tissue.grid.patch_size_level0, mpp, selection.similarity)


def serving(tissue: Tissue, tools: Tools) -> SlideModels:
    """Those of the models that are for features such as these."""
    given = tissue.given
    return tools.models.serving(tools.encoder.card.sha256 if given is None else given.encoder_sha256)


def embed_slide(scene: Scene, chosen: Chosen) -> Embedded:
    """What those models that serve these features make of the slide. Raises ModelError."""
    models, rows = scene.models, chosen.selection.rows
    if models.summarizer is None and models.slide_encoder is None:
        return Embedded()
    with scene.clock("embedding"):
        return embed_tissue(models, chosen.tissue.tokens, scene.keeping.seen(len(rows)), rows)


def write_verified(path: Path, draft: Draft, encoder: Encoder, models: SlideModels) -> None:
    """Write aside, read back, verify, rename. Raises SummaryError when the file does not verify."""

    def find_encoder(card: dict[str, Any]) -> Encoder | None:
        return encoder if card.get("sha256") == encoder.card.sha256 else None  # given features are another's

    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_aside(path) as aside:
        write_summary(aside, draft)
        result = verify_summary(
            aside,
            find_encoder,
            find_summarizer=lambda card: models.summarizer,
            find_slide_encoder=lambda card: models.slide_encoder,
        )
        bad = [finding for finding in result.findings if finding.severity == "error"]
        if bad:
            raise SummaryError(f"{path.name}: the summary just written does not verify: {bad[0].message}")


def written(job: Job, draft: Draft, seconds: dict[str, float]) -> Written:
    attributes = draft.attributes
    return Written(
        bytes_in=attributes["source"]["bytes"],
        bytes_out=job.output.stat().st_size,
        patches=attributes["patches"],
        tissue_patches=attributes["tissue_patches"],
        pixels=attributes["pixels"]["mode"],
        provider=attributes["provider"],
        quality=Quality(**{name: attributes["quality"][name] for name in BY_FEATURES}),
        reconstruction=attributes["quality"]["reconstruction"],
        embedding_cosine=attributes["quality"]["embedding_cosine"],
        verdict=attributes["verdict"]["verdict"],
        bound=attributes["bound"],
        target_reached=attributes["target_reached"],
        broken_tiles=attributes["broken_tiles"]["count"],
        artefacts=attributes["artefacts"]["count"],
        message=little_tissue(attributes),
        seconds=seconds,
    )


def describe(scene: Scene, tissue: Tissue) -> dict[str, Any]:
    """Provenance: all that is needed to make the summary again, and nothing that names a patient or a path."""
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
        "versions": describe_versions(),
    }
