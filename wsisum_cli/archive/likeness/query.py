"""A slide without a summary -> a small one, by the models of the archive that it is compared with."""

from __future__ import annotations

from pathlib import Path

from wsisum_cli.archive.likeness.vectors import MEAN, SLIDE_ENCODER, Archive, Model, SlideVectors, most_common
from wsisum_cli.archive.lookup import model_finders
from wsisum_cli.errors import UsageError
from wsisum_cli.models.choice import SlideModels
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.models.slide_encoder import SlideEncoder
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.container import SUFFIX
from wsisum_cli.summary.reader import open_summary

#: Vectors are of all tissue, however few patches are kept.
QUICK = Options(keep=8, draws=100)


def summarize_slide(slide: Path, folder: Path, archive: Archive, mpp: float | None, device: str, threads: int) -> Path:
    """Write a summary of a slide into a folder. Raises UsageError when the archive's encoder is not at hand, and
    SlideError when the slide cannot be summarized.
    """
    encoder, slide_encoder = archive_models(archive, device)
    output = folder / (slide.name + SUFFIX)
    tools = Tools(encoder, threads, models=SlideModels(None, slide_encoder))
    compress_slide(Job(find_source(slide), output, slide.name, mpp), QUICK, tools)
    return output


def archive_models(archive: Archive, device: str) -> tuple[Encoder, SlideEncoder | None]:
    """The encoder that most slides share, and the slide encoder of these where it is at hand. Raises UsageError."""
    find_encoder, _, find_slide_encoder = model_finders(None, None, None, device)
    mean = most_common(archive.slides, MEAN)
    if mean is None:
        raise UsageError("no summary says which encoder made its features; compress the archive without --features")
    same = [slide for slide in archive.slides if mean in slide.vectors]
    with open_summary(same[0].path) as summary:
        encoder = find_encoder(summary.record.encoder)
    if encoder is None or encoder.card.sha256 != mean.sha256:
        raise UsageError(
            f"the archive's features are by the encoder {mean.name!r}, which is not at hand; add it (wsisum models add)"
        )
    embedding = most_common(same, SLIDE_ENCODER)
    if embedding is None:
        return encoder, None
    with open_summary(first_with(same, embedding).path) as summary:
        card = summary.record.slide_encoder
    return encoder, find_slide_encoder(card) if card is not None else None


def first_with(slides: list[SlideVectors], model: Model) -> SlideVectors:
    return next(slide for slide in slides if model in slide.vectors)
