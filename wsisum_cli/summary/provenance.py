"""What a summary says of where it comes from, and what its figures come to: all needed to make it again, and no more.

Nothing here names a patient or a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wsisum_cli.features.encode import GivenFeatures
from wsisum_cli.models.choice import SlideModels
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.quality.random_draws import Draws
from wsisum_cli.quality.verdict import Thresholds, judge
from wsisum_cli.slides.slide import Slide
from wsisum_cli.slides.source import Source

#: Libraries whose versions can change a summary's bytes.
VERSIONED = (
    "wsisum",
    "numpy",
    "scikit-learn",
    "scipy",
    "opencv-python-headless",
    "simplejpeg",
    "imagecodecs",
    "zarr",
    "numcodecs",
)


def describe_source(slide: Slide, source: Source) -> dict[str, Any]:
    width, height = slide.size
    return {
        "name": slide.name,
        "bytes": source.bytes,
        "files": len(source.files),
        "sha256": source.sha256,
        "vendor": slide.pyramid.vendor,
        "scanner": slide.pyramid.scanner,
        "reader": slide.pyramid.reader,
        "width": width,
        "height": height,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        **({"mpp_stated": slide.mpp_stated} if slide.mpp_stated is not None else {}),
        **({"notes": notes} if (notes := slide.all_notes) else {}),
    }


def describe_features(given: GivenFeatures | None, encoder: Encoder, tissue_share: float) -> dict[str, Any]:
    """A given file is known by its content alone: its name is the slide's, which a manifest may hide.

    `tissue_share` is how much of the tissue its patches cover.
    """
    if given is None:
        return {"origin": "computed"}
    return {
        "origin": "given",
        "encoder": given.encoder,
        "sha256": given.sha256,
        "left_out": given.left_out,
        "tissue_share": round(tissue_share, 4),
        **({"encoder_sha256": given.encoder_sha256} if given.encoder_sha256 is not None else {}),
        "patch_encoder_sha256": encoder.card.sha256,  # whose patch size the stored patches have
    }


def describe_versions() -> dict[str, str]:
    return {name: installed_version(name) for name in VERSIONED}


def installed_version(package: str) -> str:
    """What pip knows; a library may have come under another name, as conda's OpenCV does."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def describe_models(models: SlideModels) -> dict[str, Any]:
    """Cards of the models that saw the whole slide and what ran them; null where none was used."""
    found = {"summarizer": models.summarizer, "slide_encoder": models.slide_encoder}
    return {
        name: None if model is None else {**model.card.as_dict(), "provider": model.provider}
        for name, model in found.items()
    }


def rounded(quality: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(float(value), 6) for name, value in quality.items()}


def describe_standing(
    quality: Mapping[str, float | None], draws: Draws, keep: int, thresholds: Thresholds
) -> dict[str, Any]:
    """The draws that figures are held against, and the verdict on those of `keep` patches."""
    made = {"keep": list(draws.keep), "models": list(draws.models), "count": draws.count}
    verdict = judge(quality, draws, keep, thresholds)
    return {
        "draws": {**made, "model_count": draws.model_count, "seed": draws.seed},
        "verdict": {**verdict.as_dict(), "thresholds": thresholds.as_dict()},
    }
