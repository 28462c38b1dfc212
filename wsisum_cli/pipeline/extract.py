"""One slide -> the features of all its patches of tissue, as an h5 file that programs for MIL read."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.errors import FeaturesError
from wsisum_cli.features.h5 import FeatureFileContents, is_whole, write_feature_file
from wsisum_cli.models.card import Card
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.pipeline.job import Clock, Job, Options, Tools
from wsisum_cli.pipeline.patch_selector import Tissue
from wsisum_cli.pipeline.scene import choose_grid, encode_tissue, find_tissue_mask
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.slide import Slide, open_slide, read_overview
from wsisum_cli.slides.source import sha256_of
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.provenance import describe_source, installed_version

FEATURES_VERSION = "1.0"
SUFFIX = ".h5"
TRIDENT, STAMP = "trident", "stamp"
#: A scanner's "40x" is about 0.25 µm, which TRIDENT and its like take for granted.
MPP_OF_1X = 10.0
#: No tiles are, so patches need not end where those do.
NOTHING_COPIED = Options(pixels="jpeg")
#: Libraries whose versions can change features.
VERSIONED = ("wsisum", "numpy", "opencv-python-headless", "simplejpeg", "imagecodecs")


@dataclass(frozen=True)
class FeatureOptions:
    """What the user asked for. All of it decides the bytes of a file of features, and is recorded there."""

    layout: str = TRIDENT  # or STAMP, whose readers want other names and µm
    precision: str = "float32"  # or float16: half the bytes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class ExtractResult:
    """What became of a slide whose features were computed."""

    bytes_in: int
    bytes_out: int
    patches: int
    provider: str
    broken_tiles: int
    seconds: dict[str, float] = field(default_factory=dict)


def extract_slide(job: Job, options: FeatureOptions, tools: Tools) -> ExtractResult:
    """Write the features of one slide to `job.output`, which is whole afterwards or left as it was.

    Patches are laid as an encoder asks for, not as tiles end: no pixels are copied. Raises SlideError or one of its
    children, ModelError when the encoder fails, OSError when the file system fails.
    """
    clock, damage, encoder = Clock(tools.stage), Damage(), tools.encoder
    with ThreadPoolExecutor(1) as hashing, open_slide(job.source.path, job.mpp, job.name, job.mpp_wins) as slide:
        with clock("tissue"):
            overview = read_overview(slide, damage, tools.threads)
            mask = find_tissue_mask(slide, overview, job.mask)
        with clock("features"):
            grid = choose_grid(slide, overview, mask, NOTHING_COPIED, encoder)
            digest = hashing.submit(lambda: job.source.sha256)  # beside the reading, which warms the disk's cache
            tissue = encode_tissue(slide, grid, tools, damage)
        with clock("hash"):
            digest.result()
        made = describe(slide, job, options, tissue, damage, encoder)
        contents = lay_out(slide, job, options, tissue, encoder.card, made)
    with clock("write"):
        write_verified(job.output, contents)
    return ExtractResult(
        bytes_in=job.source.bytes,
        bytes_out=job.output.stat().st_size,
        patches=len(tissue.features),
        provider=encoder.provider,
        broken_tiles=damage.count,
        seconds=clock.seconds,
    )


def describe(
    slide: Slide, job: Job, options: FeatureOptions, tissue: Tissue, damage: Damage, encoder: Encoder
) -> dict[str, Any]:
    """Provenance, under the names that a summary's has: nothing that names a patient, a path or a time."""
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
    """The arrays and attributes by the names that the readers of a layout look for."""
    with np.errstate(over="ignore"):
        features = tissue.features.astype(options.precision)
    if not np.isfinite(features).all():
        raise FeaturesError(f"{slide.name}: features that {options.precision} cannot hold; use --precision float32")
    if options.layout == STAMP:
        return as_stamp(slide, tissue, features, card, provenance)
    name = job.output.name.removesuffix(SUFFIX).encode(errors="backslashreplace").decode()  # names need not be text
    about = {"name": name, "encoder": card.name}
    coords = tissue.grid.coords.astype(np.int64)
    return FeatureFileContents(
        {"features": (features, about), "coords": (coords, about_coords(slide, tissue, card, name))},
        {"encoder_sha256": card.sha256},
        provenance,
    )


def about_coords(slide: Slide, tissue: Tissue, card: Card, name: str) -> dict[str, Any]:
    """TRIDENT's attributes, without the folder that it was made in; and mpp, of level 0."""
    size, size_level0 = tissue.grid.reading.patch_size, tissue.grid.patch_size_level0
    target = MPP_OF_1X / card.mpp
    width, height = slide.size
    return {
        "patch_size": size,
        "patch_size_level0": size_level0,
        "level0_magnification": int_if_whole(target * size_level0 / size),  # their quotient is that of the patch sizes
        "target_magnification": int_if_whole(target),
        "overlap": 0,
        "name": name,
        "level0_width": width,
        "level0_height": height,
        "mpp": slide.mpp,
    }


def int_if_whole(number: float) -> float:
    """An int where it is one, for readers that print or compare it as such."""
    return int(number) if number.is_integer() else number


def as_stamp(
    slide: Slide, tissue: Tissue, features: np.ndarray, card: Card, provenance: Mapping[str, Any]
) -> FeatureFileContents:
    """STAMP 2: `feats`, and coords in µm."""
    about = {
        "extractor": card.name,
        "unit": "um",
        "tile_size_um": tissue.grid.patch_size_level0 * slide.mpp,
        "tile_size_px": tissue.grid.reading.patch_size,
        "feat_type": "tile",
        "encoder_sha256": card.sha256,
    }
    coords = tissue.grid.coords * slide.mpp
    return FeatureFileContents({"feats": (features, {}), "coords": (coords, {})}, about, provenance)


def write_verified(path: Path, contents: FeatureFileContents) -> None:
    """Write aside, read back, compare, rename. Raises FeaturesError when the disk gives back something else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_aside(path) as aside:
        write_feature_file(aside, contents)
        if not is_whole(aside):
            raise FeaturesError(f"{path.name}: what was written reads back otherwise; look at the disk")
