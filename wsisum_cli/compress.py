"""One slide through every stage, in order. The file to read first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli import jpeg
from wsisum_cli.artefact import NO_ARTEFACTS, Artefacts, classify
from wsisum_cli.container import writing_aside
from wsisum_cli.damage import Damage
from wsisum_cli.draft import (
    DISCLAIMER,
    FORMAT_VERSION,
    Draft,
    Kept,
    SourceTiles,
    TissueMap,
    reference_of,
    write_summary,
)
from wsisum_cli.draws import DRAWS, draw
from wsisum_cli.embedding import NO_MODELS, Embedded, SlideModels, Tokens, embed_tissue
from wsisum_cli.errors import NotASlideError, NoTissueError, SummaryError
from wsisum_cli.features import GivenFeatures, Progress, encode_patches, find_features, read_features
from wsisum_cli.grid import Grid, lay_grid
from wsisum_cli.guarantee import guaranteed
from wsisum_cli.guard import Watch, part, part_picked
from wsisum_cli.inference import Encoder
from wsisum_cli.kept import Pixels, describe_pixels, kept_pixels
from wsisum_cli.overview import blank_glass
from wsisum_cli.patch import plan_reading
from wsisum_cli.population import Population
from wsisum_cli.provenance import (
    describe_features,
    describe_models,
    describe_source,
    describe_standing,
    describe_versions,
    rounded,
)
from wsisum_cli.quality import Quality, measure_selection
from wsisum_cli.sampling import Candidates, as_half, sample_candidates
from wsisum_cli.selection import Selection, keep_count, pick, weigh
from wsisum_cli.slide import Overview, Slide, open_slide, read_overview
from wsisum_cli.source import Source, sha256_of
from wsisum_cli.tissue import find_tissue, is_brightfield, read_mask
from wsisum_cli.verdict import read_thresholds
from wsisum_cli.verify import cosines, verify_summary


@dataclass(frozen=True)
class Options:
    """What the user asked for. All of it decides the bytes of a summary, and is recorded there."""

    keep: int | None = None  # None: one tissue patch in eight, 8 to 64
    selector: str = "wsisum"
    seed: int = 0
    candidates: int = 500
    clusters: int = 50
    pixels: str = "auto"  # auto, source or jpeg
    quality: int = jpeg.QUALITY
    artefacts: str = "guard"  # leave them out; or keep
    patch_size_level0: int | None = None  # of given features whose file does not say
    draws: int = DRAWS  # random ones that the figures are held against
    thresholds: tuple[str, ...] = ()  # of the verdict, where they are not the usual ones

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "thresholds": list(self.thresholds)}


@dataclass(frozen=True)
class Job:
    """One slide to summarize."""

    source: Source
    output: Path
    name: str  # what the summary calls the slide
    mpp: float | None = None  # where the file does not state it
    mask: Path | None = None
    features: Path | None = None  # folder of existing features


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
    broken_tiles: int
    artefacts: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


Stage = Callable[[str], None]


@dataclass(frozen=True)
class Tools:
    """What the stages work with."""

    encoder: Encoder
    threads: int = 1
    stage: Stage = lambda name: None  # hears the name of each stage as it begins
    progress: Progress = lambda done, total: None  # hears how many patches are encoded
    models: SlideModels = NO_MODELS  # that see a whole slide; by default none


@dataclass(frozen=True)
class Tissue:
    """All patches of tissue: where they lie, what the encoder makes of them."""

    grid: Grid
    features: np.ndarray  # (N, D) float32
    given: GivenFeatures | None  # None when they were computed here
    artefacts: Artefacts = NO_ARTEFACTS

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.features, self.grid.coords, self.grid.patch_size_level0)

    def rows(self, rows: np.ndarray, artefacts: Artefacts = NO_ARTEFACTS) -> Tissue:
        """Some of the patches alone."""
        coords = self.grid.coords[rows]
        return replace(self, grid=replace(self.grid, coords=coords), features=self.features[rows], artefacts=artefacts)


def compress_slide(job: Job, options: Options, tools: Tools) -> Written:
    """Summarize one slide into `job.output`, which holds a verified summary afterwards or is left as it was.

    Raises SlideError or one of its children, ModelError when the encoder fails, SummaryError when the file
    written does not verify, OSError when the file system fails.
    """
    clock, damage, encoder = Clock(tools.stage), Damage(), tools.encoder
    with ThreadPoolExecutor(1) as hashing, open_slide(job.source.path, job.mpp, job.name) as slide:
        with clock("tissue"):
            overview = read_overview(slide, damage, tools.threads)
            mask = tissue_mask(slide, overview, job.mask)
        with clock("features"):
            grid = choose_grid(slide, overview, mask, options, encoder) if job.features is None else None
            digest = hashing.submit(lambda: job.source.sha256)  # beside the reading, which warms the disk's cache
            if grid is not None:
                tissue = encode_tissue(slide, grid, tools, damage, options.artefacts == "guard")
            else:
                tissue = given_tissue(slide, job, options, encoder)
        models = serving(tissue, tools)
        with clock("selection"):
            if tissue.given is not None:
                tissue = readable(slide, tissue, options, damage, tools.threads, models)
            candidates, rows = pick_patches(tissue, options, models)
        with clock("pixels"):
            pixels = kept_pixels(slide, tissue.grid, rows, options.pixels, options.quality, damage, tools.threads)
            tissue, loss = as_stored(tissue, rows, pixels, encoder)
            selection = weigh(tissue.features, rows)
            quality = measure_selection(tissue.features, selection, candidates.cluster)
        embedded = embed_slide(tissue, candidates, rows, tools, clock)
        with clock("draws"):
            draws = draw(tissue.tokens, candidates.cluster, len(rows), embedded, options.seed, options.draws)
        with clock("hash"):
            digest.result()
        stored = {**describe_pixels(pixels, options.quality), **loss}
        measured = rounded(asdict(quality) | embedded.figures())
        made = describe(slide, job, options, tissue, damage, encoder) | describe_models(embedded.models)
        made |= describe_standing(measured, draws, len(rows), read_thresholds(options.thresholds))
        made |= {"guarantee": represented(tissue, selection, slide.mpp), "trimmed_from": None}
        draft = Draft(
            attributes={**made, "pixels": stored, "patches": len(rows), "quality": measured},
            overview=blank_glass(overview.pixels, mask),
            overview_mpp=overview.mpp,
            kept=kept_patches(tissue, candidates, selection),
            pixels=pixels,
            tissue=tissue_map(tissue, candidates, selection),
            reference=replace(reference_of(tissue.features), **embedded.arrays(), **draws.arrays()),
            icc_profile=slide.pyramid.icc_profile,
            artefacts=tissue.artefacts,
        )
    with clock("write"):
        write_verified(job.output, draft, encoder, embedded.models)
    return written(job, draft, quality, clock.seconds)


class Clock:
    """Seconds of each stage."""

    def __init__(self, stage: Stage) -> None:
        self.seconds: dict[str, float] = {}
        self._stage = stage

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._stage(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


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
        raise NoTissueError(f"{slide.name}: no patch of tissue found; where there is some, mark it in a mask")
    return grid


def pick_patches(tissue: Tissue, options: Options, models: SlideModels) -> tuple[Candidates, np.ndarray]:
    """The candidates, and the (K,) rows of the tissue that are kept."""
    keep = keep_count(len(tissue.features), options.keep)
    candidates = sample_candidates(tissue.features, max(options.candidates, keep), options.clusters, options.seed)
    population = Population(
        tissue.features, tissue.grid.coords, candidates, options.seed, tissue.grid.patch_size_level0, models
    )
    rows = pick(population, keep, options.selector)
    return candidates, rows


def readable(
    slide: Slide, tissue: Tissue, options: Options, damage: Damage, threads: int, models: SlideModels
) -> Tissue:
    """Given features without those that would be kept and cannot be, or are artefacts. Raises BrokenSlideError."""

    def picked(rows: np.ndarray) -> np.ndarray:
        return pick_patches(tissue.rows(rows), options, models)[1]

    guarded = options.artefacts == "guard"
    return tissue.rows(*part_picked(slide, tissue.grid, picked, damage, threads, guarded))


def as_stored(tissue: Tissue, rows: np.ndarray, pixels: Pixels, encoder: Encoder) -> tuple[Tissue, dict[str, float]]:
    """The kept patches' features as the stored pixels give them, so that the file agrees with itself.

    They are taken as precisely as they are stored, so that whoever reads the file measures the same. New JPEG streams
    change them too; by how much is returned for the record. Existing features stay.
    """
    features = tissue.features.copy()
    features[rows] = as_half(features[rows])
    if isinstance(pixels, SourceTiles) or tissue.given is not None:
        return replace(tissue, features=features), {}
    batches = (pixels[start : start + encoder.batch_size] for start in range(0, len(pixels), encoder.batch_size))
    stored = np.concatenate([encoder(np.stack([jpeg.decode(stream) for stream in batch])) for batch in batches])
    features[rows] = as_half(stored)
    cosine = cosines(tissue.features[rows], stored)
    loss = {
        "feature_cosine_mean": round(float(cosine.mean()), 6),
        "feature_cosine_min": round(float(cosine.min()), 6),
    }
    return replace(tissue, features=features), loss


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


def embed_slide(tissue: Tissue, candidates: Candidates, rows: np.ndarray, tools: Tools, clock: Clock) -> Embedded:
    """What those models that serve these features make of the slide. Raises ModelError."""
    models = serving(tissue, tools)
    if models.summarizer is None and models.slide_encoder is None:
        return Embedded()
    with clock("embedding"):
        return embed_tissue(models, tissue.tokens, candidates.rows, rows)


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


def written(job: Job, draft: Draft, quality: Quality, seconds: dict[str, float]) -> Written:
    attributes = draft.attributes
    return Written(
        bytes_in=attributes["source"]["bytes"],
        bytes_out=job.output.stat().st_size,
        patches=attributes["patches"],
        tissue_patches=attributes["tissue_patches"],
        pixels=attributes["pixels"]["mode"],
        provider=attributes["provider"],
        quality=quality,
        reconstruction=attributes["quality"]["reconstruction"],
        embedding_cosine=attributes["quality"]["embedding_cosine"],
        verdict=attributes["verdict"]["verdict"],
        broken_tiles=attributes["broken_tiles"]["count"],
        artefacts=attributes["artefacts"]["count"],
        seconds=seconds,
    )


def describe(
    slide: Slide, job: Job, options: Options, tissue: Tissue, damage: Damage, encoder: Encoder
) -> dict[str, Any]:
    """Provenance: all that is needed to make the summary again, and nothing that names a patient or a path."""
    given, grid = tissue.given, tissue.grid
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
        "features": describe_features(given, encoder),
        "options": {**options.as_dict(), "mask_sha256": sha256_of(job.mask) if job.mask else None},
        "broken_tiles": {"count": damage.count, "positions": [list(at) for at in damage.positions]},
        "artefacts": tissue.artefacts.as_dict(),
        "versions": describe_versions(),
    }
