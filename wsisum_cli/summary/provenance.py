"""The provenance attributes: everything needed to reproduce a summary, and no more.

They name no patient and no path.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wsisum_cli.features.encode import GivenFeatures
from wsisum_cli.models.choice import SlideModels
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.slides.slide import Slide
from wsisum_cli.slides.source import Source, as_text

#: Libraries whose version can change the bytes of a summary.
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
        "name": as_text(slide.name),
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
        **describe_image(slide),
    }


def describe_image(slide: Slide) -> dict[str, int]:
    """Which image of the file was read, and which focal plane of it; empty where there is one of each.

    Numbers alone: images are often called after the patient.
    """
    image, focal = slide.pyramid.image, slide.pyramid.focal_plane
    chosen = {} if image is None else {"image": image}
    return chosen if focal is None else {**chosen, "focal_plane": focal[0], "focal_planes": focal[1]}


def describe_features(given: GivenFeatures | None, encoder: Encoder, tissue_share: float) -> dict[str, Any]:
    """The attribute `features`. A feature file is identified by content: its name is the slide's, which may be hidden.

    `tissue_share` is the fraction of the tissue that its patches cover.
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
        "patch_encoder_sha256": encoder.card.sha256,  # the stored patches have this encoder's patch size
    }


def describe_versions() -> dict[str, str]:
    return {name: installed_version(name) for name in VERSIONED}


def installed_version(package: str) -> str:
    """The installed version; "unknown" if the package has another name, like conda's OpenCV."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def describe_models(models: SlideModels) -> dict[str, Any]:
    """Cards and providers of the whole-slide models; null where none was used."""
    used = {"summarizer": models.summarizer, "slide_encoder": models.slide_encoder}
    return {
        name: None if model is None else {**model.card.as_dict(), "provider": model.provider}
        for name, model in used.items()
    }


def rounded(quality: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(float(value), 6) for name, value in quality.items()}
