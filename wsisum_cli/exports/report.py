"""A bundle for a vision-language model or a person: numbered images, the facts as JSON, and a prompt.

Nothing in it names the slide: the name of a file often holds the diagnosis, or a person.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from wsisum_cli.exports.about import Facts, describe, statement
from wsisum_cli.exports.folders import put
from wsisum_cli.exports.images import best_images
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.patches import file_name
from wsisum_cli.figures.canvas import save_png
from wsisum_cli.figures.heatmap import draw_map
from wsisum_cli.figures.picture import draw_summary
from wsisum_cli.quality.verdict import area, percent
from wsisum_cli.summary.attributes import Region, Source
from wsisum_cli.summary.inspection import StoredPatch, kept_patches
from wsisum_cli.summary.limits.plain_text import plain_json, printable
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.remarks import remarks

MARKER, PROMPT, FOLDER = "report.json", "prompt.txt", "patches"
TITLE = "Summary of a slide"
OVERVIEW, PICTURE, MAP = "overview.png", "summary.png", "represented.png"


class ReportedPatch(BaseModel):
    """One kept patch."""

    number: int  # rank by weight, from 1
    file: str
    weight: float  # in the mean of the slide's features
    share: float  # of the tissue patches that it represents, 0 to 1
    represents: int  # tissue patches
    x_mm: float  # its upper left corner, from that of the slide
    y_mm: float
    suspect: str | None  # what it may be other than clean tissue


class ReportedRegion(BaseModel):
    """One area without a look-alike among the kept patches."""

    number: int
    mm2: float
    x_mm: float
    y_mm: float
    width_mm: float
    height_mm: float
    nearest: int  # number of the patch that is most like most of it
    cosine: float


class ReportedSlide(BaseModel):
    """The slide, without its name."""

    sha256: str  # of its files: tells whoever has it which slide it is
    width_mm: float
    height_mm: float
    mpp: float  # µm per level-0 px
    vendor: str
    scanner: str | None


class Report(Facts):
    """What the images show."""

    slide: ReportedSlide
    images: dict[str, str]
    patch_side_mm: float
    file_mpp: float  # µm per px of the patches' files
    kept: list[ReportedPatch]
    tissue_mm2: float | None
    not_represented_mm2: float | None
    not_represented: list[ReportedRegion] | None  # the largest; None before format 1.4
    not_represented_count: int | None
    remarks: str


def write_report(summary: Summary, folder: Path, _options: ExportOptions) -> None:
    """Write the bundle into an empty folder. Raises SummaryError."""
    images = best_images(summary)
    kept = kept_patches(summary)
    (folder / FOLDER).mkdir()
    files = {patch.number: f"{FOLDER}/{file_name(patch, len(kept), images.suffix)}" for patch in kept}
    for patch in kept:
        images.write(patch.picked - 1, folder / files[patch.number])
    save_png(folder / OVERVIEW, summary.overview)
    save_png(folder / PICTURE, draw_summary(summary, TITLE))
    pictures = {"overview": OVERVIEW, "positions and patches": PICTURE}
    if summary.record.represented is not None:
        save_png(folder / MAP, draw_map(summary, "represented", TITLE))
        pictures["represented tissue"] = MAP
    report = describe_images(summary, kept, files, pictures, images.mpp)
    put(folder / MARKER, plain_json(report.as_json()).encode())
    put(folder / PROMPT, "\n".join(map(printable, prompt(report))).encode() + b"\n")


def describe_images(
    summary: Summary, kept: list[StoredPatch], files: dict[int, str], pictures: dict[str, str], mpp: float
) -> Report:
    record, section = summary.record, summary.record.represented
    numbers = {patch.picked - 1: patch.number for patch in kept}
    mm = record.source.mpp / 1000
    regions = None if section is None else section.regions
    return Report(
        **describe(summary).model_dump(exclude={"note", "source"}),
        note=statement(record, "one"),
        slide=reported_slide(record.source),
        images=pictures,
        patch_side_mm=round(record.patch.patch_size_level0 * mm, 6),
        file_mpp=round(mpp, 6),
        kept=[reported_patch(patch, files[patch.number], record.tissue_patches, mm) for patch in kept],
        tissue_mm2=None if section is None else section.tissue_mm2,
        not_represented_mm2=None if section is None else round(section.tissue_mm2 - section.mm2, 6),
        not_represented=None
        if regions is None
        else [reported_region(number, region, numbers, mm) for number, region in enumerate(regions, 1)],
        not_represented_count=None if section is None else section.region_count,
        remarks=remarks(record),
    )


def reported_slide(source: Source) -> ReportedSlide:
    width, height = (round(side * source.mpp / 1000, 3) for side in (source.width, source.height))
    return ReportedSlide(
        sha256=source.sha256,
        width_mm=width,
        height_mm=height,
        mpp=source.mpp,
        vendor=source.vendor,
        scanner=source.scanner,
    )


def reported_patch(patch: StoredPatch, file: str, tissue: int, mm: float) -> ReportedPatch:
    """`mm` is the side of a level-0 px."""
    return ReportedPatch(
        number=patch.number,
        file=file,
        weight=patch.weight,
        share=round(patch.stands_for / tissue, 6),
        represents=patch.stands_for,
        x_mm=round(patch.x * mm, 3),
        y_mm=round(patch.y * mm, 3),
        suspect=patch.suspect,
    )


def reported_region(number: int, region: Region, numbers: dict[int, int], mm: float) -> ReportedRegion:
    places = {"x_mm": region.x, "y_mm": region.y, "width_mm": region.width, "height_mm": region.height}
    return ReportedRegion(
        number=number,
        mm2=region.mm2,
        nearest=numbers[region.nearest],
        cosine=region.cosine,
        **{name: round(value * mm, 3) for name, value in places.items()},
    )


def prompt(report: Report) -> Iterator[str]:
    """The prompt, line by line: what the images are, what is missing, and how to speak of both."""
    yield "You see a summary of one slide of stained tissue under a microscope. You do not see the slide itself."
    yield report.note
    yield ""
    yield "IMAGES"
    yield f"{OVERVIEW}: the whole slide, small."
    yield f"{PICTURE}: the overview with a numbered frame for each patch, and all patches side by side."
    if report.not_represented is not None:
        yield f"{MAP}: tissue that looks like some patch in pale blue, tissue that looks like none in red."
    size = f"each {report.patch_side_mm * 1000:.0f} µm wide, at {report.file_mpp:.3g} µm per pixel"
    yield f"{FOLDER}/: the patches, numbered by falling weight, {size}."
    yield ""
    yield "PATCHES: number, share of the tissue that looks most like it, place of its upper left corner on the slide"
    for patch in report.kept:
        suspect = f"; may be an artefact: {patch.suspect}" if patch.suspect else ""
        yield f"{patch.number}: {percent(patch.share)}, at {patch.x_mm:.1f}, {patch.y_mm:.1f} mm{suspect}"
    yield ""
    yield "WHAT IS MISSING"
    yield from missing_words(report)
    yield ""
    yield from RULES


def missing_words(report: Report) -> Iterator[str]:
    if report.not_represented is None or report.not_represented_mm2 is None:
        yield "It is not known how much of the tissue looks like none of the patches."
        return
    missing, tissue = area(report.not_represented_mm2), area(report.tissue_mm2 or 0)
    yield f"{missing} of {tissue} of tissue look like none of the patches."
    for region in report.not_represented:
        place = f"at {region.x_mm:.1f}, {region.y_mm:.1f} mm, {region.width_mm:.1f} x {region.height_mm:.1f} mm"
        yield f"Area {region.number}: {area(region.mm2)}, {place}; most like patch {region.nearest}."
    hidden = (report.not_represented_count or 0) - len(report.not_represented)
    if hidden:
        yield f"There are {hidden} smaller areas."
    if report.remarks:
        yield f"Note: {report.remarks}."


RULES = (
    "RULES",
    "Describe only what the images show. Give the number of the patch for each finding.",
    "To say how much of the tissue a finding concerns, add the shares of the patches that show it, and call it an",
    "estimate.",
    "Never say that something is absent from the slide. Most of the slide is not shown, and a small lesion can be",
    'missing. Say "not seen in the patches".',
    "A patch that may be an artefact is no evidence of disease.",
    "This is not a diagnosis, and must not be used as one.",
    "",
    "TASK",
    "1. Name the kind of tissue and the stain, as far as the images allow, and how sure you are.",
    "2. Describe architecture, cells and background, by groups of patches that look alike, with their shares.",
    "3. List what cannot be judged from these images, and why.",
    "4. Say which areas of the slide a pathologist should look at first, by place in mm, and why.",
)
