"""What the command line does, for other Python programs: nothing is printed, and errors are raised."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from wsisum_cli.archive.formats import is_summary, no_slide_words
from wsisum_cli.archive.lookup import model_finders
from wsisum_cli.errors import UsageError
from wsisum_cli.models.choice import AUTO, NO_MODELS, SlideModels, choose_models
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.models.places import find_model, user_folder
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.describe import CompressResult
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.quality.verdict import Thresholds, read_thresholds
from wsisum_cli.selection.budget import check_target
from wsisum_cli.selection.selectors import NESTED, SELECTORS
from wsisum_cli.slides.slide import PLAUSIBLE_MPP
from wsisum_cli.slides.source import Source, find_source, output_stem
from wsisum_cli.summary.container import SUFFIX
from wsisum_cli.summary.extras.tissue_features import LEAST, MOST
from wsisum_cli.summary.stored.jpeg_xl import JXL
from wsisum_cli.verification.finding import Verification
from wsisum_cli.verification.verify import verify_summary

DEFAULT_ENCODER = "encoder"
#: Values of options, as the command line takes them.
CHOICES = {
    "selector": tuple(SELECTORS),
    "pixels": ("auto", "source", "jpeg"),
    "artefacts": ("guard", "keep"),
}
RANGES = {
    "keep": (1, 2**31 - 1),
    "max_keep": (1, 2**31 - 1),
    "max_bytes": (1, 2**53),
    "rare": (0, 0.5),
    "seed": (0, 2**32 - 1),
    "draws": (100, 2**31 - 1),
    "patch_size_level0": (1, 2**31 - 1),
    "tissue_features": (LEAST, MOST),
}


def compress(
    slide: str | Path,
    output: str | Path = "summaries",
    *,
    mpp: float | None = None,
    encoder: str | Path = DEFAULT_ENCODER,
    summarizer: str = AUTO,
    slide_encoder: str = AUTO,
    features: str | Path | None = None,
    patch_size_level0: int | None = None,
    keep: int | None = None,
    max_keep: int | None = None,
    max_bytes: int | None = None,
    target: float | None = None,
    selector: str = "wsisum",
    rare: float | None = None,
    seed: int = 0,
    draws: int = 1_000,
    threshold: Sequence[str] = (),
    pixels: str = "auto",
    artefacts: str = "guard",
    tissue_features: int | None = None,
    recompress: str | None = None,
    device: str = AUTO,
    mask: str | Path | None = None,
    image: int | None = None,
    threads: int | None = None,
    force: bool = False,
) -> CompressResult:
    """Write the summary of one slide, in this process. Options have the names and defaults of `wsisum compress`.

    `output` is a folder, or a path that ends in .ozx. `keep` None stands for auto, `max_bytes` is a number of bytes,
    `mask` a tissue mask, `image` one of several slides in the file, from 1, `threads` None: one for each core.

    Raises UsageError for options that do not go together, and where the output exists and `force` is not set;
    SlideError or a subclass where the slide cannot be summarized, ModelError, DeviceError, SummaryError, OSError.
    """
    source = slide_source(Path(slide))
    path = output_of(source, Path(output), image)
    if path.exists() and not force:
        raise UsageError(f"{path}: already exists; pass force=True to replace it, or choose another output")
    options = Options(
        keep=keep,
        max_bytes=max_bytes,
        target=target,
        max_keep=max_keep,
        selector=selector,
        rare=rare,
        seed=seed,
        pixels=pixels,
        artefacts=artefacts,
        patch_size_level0=patch_size_level0,
        draws=draws,
        thresholds=tuple(threshold),
        tissue_features=tissue_features,
        recompress=recompress,
    )
    check_options(options, features is not None)
    if mpp is not None and not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
        raise UsageError(f"mpp: expected {PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g} µm, found {mpp!r}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads: expected at least 1, found {threads!r}")
    model = find_model(encoder, [user_folder()])
    models = loaded_models(summarizer, slide_encoder, model, features is not None, keep, device)
    tools = Tools(loaded_encoder(model, device), threads or os.cpu_count() or 1, models=models)
    job = Job(
        source,
        path,
        source.path.name,
        mpp,
        None if mask is None else Path(mask),
        None if features is None else Path(features),
        image,
    )
    return compress_slide(job, options, tools)


def check_options(options: Options, given: bool) -> None:
    """Raise UsageError for values that cannot be, and for options that do not go together.

    `given`: whether there are existing features.
    """
    for name, known in CHOICES.items():
        if (value := getattr(options, name)) not in known:
            raise UsageError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
    for name, (least, most) in RANGES.items():
        if (value := getattr(options, name)) is not None and not least <= value <= most:
            raise UsageError(f"{name}: expected {least:g} to {most:g}, found {value!r}")
    for name in ("keep", "max_keep", "seed", "draws", "tissue_features", "max_bytes", "patch_size_level0"):
        if (value := getattr(options, name)) is not None and type(value) is not int:
            raise UsageError(f"{name}: expected a whole number, found {value!r}")
    if options.recompress not in (None, JXL):
        raise UsageError(f"recompress: expected None or {JXL}, found {options.recompress!r}")
    if options.max_keep is not None and options.keep is not None:
        raise UsageError("max_keep limits keep=None; leave one of them out")
    if options.selector != "wsisum" and options.rare is not None:
        raise UsageError(f"rare: expected the selector wsisum, found {options.selector}; leave one out")
    if options.patch_size_level0 is not None and not given:
        raise UsageError("patch_size_level0 is of given features; give features, or leave it out")
    if given and options.keep is None and options.selector not in NESTED:
        raise UsageError(f"selector {options.selector} with features: expected a number as keep; give one")
    check_target(options.target)
    read_thresholds(options.thresholds)


def slide_source(slide: Path) -> Source:
    """The files of a slide. Raises UsageError for a folder, a summary, and what is not there."""
    if is_summary(slide):
        raise UsageError(no_slide_words(slide))
    if not slide.is_file():
        found = "a folder" if slide.is_dir() else "nothing"
        raise UsageError(f"{slide.name}: expected one slide, found {found}; wsisum compress takes folders")
    return find_source(slide)


def output_of(source: Source, output: Path, image: int | None) -> Path:
    """Where the summary goes: the path itself, or within the folder under the slide's name."""
    if output.suffix == SUFFIX and not output.is_dir():
        return output
    stem = output_stem(Path(source.path.name)).name
    return output / f"{stem}{'' if image is None else f'.{image}'}{SUFFIX}"


@lru_cache(maxsize=4)
def loaded_encoder(model: Path, device: str) -> Encoder:
    """An encoder, loaded once for many slides."""
    return load_encoder(model, device)


@lru_cache(maxsize=4)
def loaded_models(
    summarizer: str, slide_encoder: str, encoder: Path, given: bool, keep: int | None, device: str
) -> SlideModels:
    """The models that see the whole slide, loaded once for many slides."""
    choices = choose_models(summarizer, slide_encoder, encoder, given, keep, [user_folder()])
    return choices.load(device) if any(choices.named().values()) else NO_MODELS


def verify(
    summary: str | Path,
    source: str | Path | None = None,
    *,
    quick: bool = False,
    encoder: str | None = None,
    summarizer: str | None = None,
    slide_encoder: str | None = None,
    threshold: Sequence[str] = (),
    device: str = AUTO,
    threads: int | None = None,
) -> Verification:
    """Check a summary, as `wsisum verify` does; `source` is its slide, to compare with.

    What is wrong with the summary is in `findings` of the answer, whose `ok` and `verdict` sum it up: damage raises
    nothing. Raises UsageError for options that do not go together, ModelError and DeviceError.
    """
    if quick and (source is not None or threshold):
        raise UsageError("quick cannot be combined with source or threshold")
    slide = None if source is None else slide_source(Path(source)).path
    tier = "quick" if quick else "source" if slide is not None else "full"
    thresholds: Thresholds | None = read_thresholds(tuple(threshold)) if threshold else None
    finders = model_finders(encoder, summarizer, slide_encoder, device)
    return verify_summary(summary, finders[0], tier, slide, threads or os.cpu_count() or 1, *finders[1:], thresholds)
