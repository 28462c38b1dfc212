"""Extract the features of all tissue patches of a slide into an h5 file that MIL tools read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from wsisum_cli.errors import FeaturesError
from wsisum_cli.features import layouts
from wsisum_cli.features.h5 import FeatureFileContents, is_whole, write_feature_file
from wsisum_cli.features.layouts import TRIDENT, FeatureTable
from wsisum_cli.models.card import Card, SummarizerCard
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.pipeline.job import Clock, Job, Options, Tools, Written
from wsisum_cli.pipeline.patch_selector import Tissue
from wsisum_cli.pipeline.scene import check_all, choose_grid, encode_tissue, find_tissue_mask
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.slide import Slide, open_slide, read_overview
from wsisum_cli.slides.source import as_text, sha256_of, watch
from wsisum_cli.summary.attributes import BrokenTiles, ComputedFeatures, EncoderCard, Reading, Source
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.provenance import describe_source, installed_version

FEATURES_VERSION = "1.0"
SUFFIX = ".h5"
#: No tiles are copied, so patches need not align with tiles.
NOTHING_COPIED = Options(pixels="jpeg")
#: Libraries whose version can change the features.
VERSIONED = ("wsisum", "numpy", "opencv-python-headless", "simplejpeg", "imagecodecs")


class PatchGeometry(BaseModel):
    """Sizes of a patch, and how it was read."""

    patch_size: int  # px, as the encoder sees it
    patch_size_level0: int  # level-0 px
    mpp: float  # µm per px of a patch
    reading: Reading


class FeatureChoices(BaseModel):
    """`FeatureOptions`, and the sha256 of the user's tissue mask."""

    layout: str
    precision: str
    mask_sha256: str | None


@dataclass(frozen=True)
class FeatureOptions:
    """User options. All of them affect the bytes of the feature file, and are recorded in it."""

    layout: str = TRIDENT  # or STAMP: other array names, coordinates in µm
    precision: str = "float32"  # or float16, half the size

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class FeatureProvenance(BaseModel):
    """How a file of features was made, under the names that a summary's attributes have."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    format_version: str
    source: Source
    patches: int
    patch: PatchGeometry
    encoder: EncoderCard
    provider: str
    features: ComputedFeatures
    options: FeatureChoices
    broken_tiles: BrokenTiles
    versions: dict[str, str]

    # What a summary has and features do not.
    trimmed_from: ClassVar[None] = None
    used_models: ClassVar[Mapping[str, SummarizerCard]] = {}

    @property
    def features_encoder(self) -> str | None:
        """The sha256 of the encoder that made the features."""
        return self.encoder.sha256


@dataclass
class ExtractResult:
    """Figures of one slide whose features were computed."""

    bytes_in: int
    bytes_out: int
    modified_out: int  # ns since 1970
    patches: int
    provider: str
    broken_tiles: int
    message: str = ""  # what the user should check
    seconds: dict[str, float] = field(default_factory=dict)


def extract_slide(job: Job, options: FeatureOptions, tools: Tools) -> ExtractResult:
    """Write the features of one slide to `job.output`. On any failure the output is left as it was.

    The grid is not aligned with tiles because no pixels are copied. Raises SlideError or a subclass, ModelError when
    the encoder fails, OSError when the file system fails.
    """
    clock, damage, encoder = Clock(tools.stage), Damage(), tools.encoder
    with (
        job.source.unchanged(job.name) as check_unchanged,
        ThreadPoolExecutor(1) as hashing,
        open_slide(job.source.path, job.mpp, job.name, job.mpp_wins, job.image, job.source.files) as slide,
    ):
        checks = [check_unchanged, *([watch(job.mask)] if job.mask else [])]
        with clock("tissue"):
            overview = read_overview(slide, damage, tools.threads)
            mask, notes = find_tissue_mask(slide, overview, job.mask)
            slide = replace(slide, notes=(*slide.notes, *notes))
        with clock("features"):
            grid = choose_grid(slide, overview, mask, NOTHING_COPIED, encoder)
            digest = hashing.submit(lambda: job.source.sha256)  # hash while reading: the file is then in the disk cache
            tissue = encode_tissue(slide, grid, tools, damage)
        with clock("hash"):
            digest.result()
            check_all(checks)
        provenance = describe(slide, job, options, tissue, damage, encoder)
        contents = lay_out(slide, job, options, tissue, encoder.card, provenance)
    with clock("write"):
        written = write_verified(job.output, contents, partial(check_all, checks))
    return ExtractResult(
        bytes_in=job.source.bytes,
        bytes_out=written.bytes,
        modified_out=written.modified,
        patches=len(tissue.features),
        provider=encoder.provider,
        broken_tiles=damage.count,
        message="; ".join(slide.all_notes),
        seconds=clock.seconds,
    )


def describe(
    slide: Slide, job: Job, options: FeatureOptions, tissue: Tissue, damage: Damage, encoder: Encoder
) -> dict[str, Any]:
    """Provenance, with the same keys as a summary's. It names no patient, path or time."""
    grid = tissue.grid
    return {
        "format_version": FEATURES_VERSION,
        "source": describe_source(slide, job.source),
        "patches": len(tissue.features),
        "patch": {
            "patch_size": grid.reading.patch_size,
            "patch_size_level0": grid.patch_size_level0,
            "mpp": slide.mpp * grid.patch_size_level0 / grid.reading.patch_size,
            "reading": grid.reading.as_dict(),
        },
        "encoder": encoder.card.as_dict(),
        "provider": encoder.provider,
        "features": {"origin": "computed"},
        "options": {**options.as_dict(), "mask_sha256": sha256_of(job.mask) if job.mask else None},
        "broken_tiles": {"count": damage.count, "positions": [list(at) for at in damage.positions]},
        "versions": {name: installed_version(name) for name in VERSIONED},
    }


def lay_out(
    slide: Slide, job: Job, options: FeatureOptions, tissue: Tissue, card: Card, provenance: Mapping[str, Any]
) -> FeatureFileContents:
    """Arrays and attributes under the names that readers of the layout expect. Raises FeaturesError on overflow."""
    with np.errstate(over="ignore"):
        features = tissue.features.astype(options.precision)
    if not np.isfinite(features).all():
        raise FeaturesError(f"{slide.name}: features overflow {options.precision}; use --precision float32")
    grid = tissue.grid
    table = FeatureTable(
        name=as_text(job.output.name.removesuffix(SUFFIX)),  # may not be UTF-8
        features=features,
        coords=grid.coords,
        patch_size=grid.reading.patch_size,
        patch_size_level0=grid.patch_size_level0,
        slide_size=slide.size,
        slide_mpp=slide.mpp,
        encoder=card.name,
        encoder_mpp=card.mpp,
        encoder_sha256=card.sha256,
    )
    return layouts.lay_out(table, options.layout, provenance)


def write_verified(path: Path, contents: FeatureFileContents, check_unchanged: Callable[[], None]) -> Written:
    """Write to a temporary file, read it back, compare, rename. Returns the size and time of the file.

    Raises FeaturesError when the file differs, ChangedSlideError when the slide has changed since it was opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_aside(path) as aside:
        write_feature_file(aside, contents)
        if not is_whole(aside):
            raise FeaturesError(f"{path.name}: the file differs from what was written; check the disk")
        check_unchanged()
        return Written.of(aside)  # later it may be the file of another run
