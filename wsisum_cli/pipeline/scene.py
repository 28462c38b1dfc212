"""Open a slide, find its tissue and encode it: everything that happens before patches are selected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.errors import NotASlideError, NoTissueError
from wsisum_cli.features.encode import check_places, describe_misplaced, encode_patches, find_features, read_features
from wsisum_cli.models.choice import SlideModels
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.pipeline.job import Clock, Job, Options, Tools
from wsisum_cli.pipeline.patch_selector import PatchSelector, Tissue, selection_input
from wsisum_cli.selection.budget import GUESS, Limit, most_kept
from wsisum_cli.selection.selectors import pick
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import plan_reading
from wsisum_cli.slides.slide import Overview, Slide, open_slide, read_overview
from wsisum_cli.slides.source import watch
from wsisum_cli.summary.overview import OverviewSizes, blank_glass
from wsisum_cli.tissue.artefacts import StatisticsRecorder, judge, judge_picked
from wsisum_cli.tissue.coverage import LeftOut, measure_left_out
from wsisum_cli.tissue.given_mask import read_mask
from wsisum_cli.tissue.grid import Grid, lay_grid
from wsisum_cli.tissue.mask import is_brightfield, shaded_share, survey_overview

#: Share of a slide without tissue that is darker than glass, above which a message says so.
WORTH_A_LOOK = 0.001
#: Area that is neither tissue nor glass over that of the tissue, above which a note says so.
MUCH_UNEXPLAINED = 0.05


@dataclass(frozen=True)
class Scene:
    """An open slide with encoded tissue."""

    slide: Slide
    job: Job
    options: Options
    tools: Tools
    models: SlideModels  # that match its features
    clock: Clock
    damage: Damage
    overview: OverviewSizes  # background blanked
    tissue_share: float  # fraction of the tissue mask that patches cover; 1 if the grid was laid here
    left_out: LeftOut | None  # tissue that a given mask or given features leave out; None without, or if not known
    patch_selector: PatchSelector
    limit: Limit  # on the number of patches alone
    hashed: Any  # future of the source's sha256
    check_unchanged: Callable[[], None]  # raises ChangedSlideError when a file of the source, or a given one, changed


@contextmanager
def open_scene(job: Job, options: Options, tools: Tools, clock: Clock) -> Iterator[Scene]:
    """Open the slide, find and encode its tissue, and prepare the selection. Raises as `compress_slide`."""
    damage, encoder = Damage(), tools.encoder
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
            grid = choose_grid(slide, overview, mask, options, encoder) if job.features is None else None
            hashed = hashing.submit(lambda: job.source.sha256)  # hash while reading: the file is then in the disk cache
            if job.features is None:
                assert grid is not None
                tissue = encode_tissue(slide, grid, tools, damage, options.artefacts == "guard")
            else:
                path = find_features(job.features, job.source.path)
                checks.append(watch(path))
                tissue = read_given_tissue(path, slide, options, encoder)
                slide = replace(slide, notes=(*slide.notes, *note_places(slide, job, tissue, overview, mask)))
        models = models_for(tissue, tools)
        with clock("selection"):
            if tissue.given is not None:
                tissue = drop_unreadable(slide, tissue, options, damage, tools.threads, models)
            limit = limit_by_number(tissue, options)
            patch_selector = PatchSelector(slide, tissue, limit.keep, options, tools, models, damage)
            patch_selector.rows(min(limit.keep, GUESS))
        yield Scene(
            slide,
            job,
            options,
            tools,
            models,
            clock,
            damage,
            overview=OverviewSizes(
                blank_glass(overview.pixels, mask), overview.mpp, tissue.grid.patch_size_level0 * slide.mpp
            ),
            tissue_share=tissue.given.tissue_share(mask, overview.downsample) if tissue.given is not None else 1.0,
            left_out=left_out_of(slide, job, tissue, overview, mask),
            patch_selector=patch_selector,
            limit=limit,
            hashed=hashed,
            check_unchanged=partial(check_all, checks),
        )


def left_out_of(slide: Slide, job: Job, tissue: Tissue, overview: Overview, mask: np.ndarray) -> LeftOut | None:
    """The tissue found in the slide that has no patch, because a mask was given, or features; None without either."""
    if (job.mask is None and job.features is None) or not is_brightfield(overview.pixels):
        return None
    found = mask if job.mask is None else survey_overview(overview.pixels, overview.mpp).tissue
    places = np.concatenate([tissue.grid.coords, tissue.artefacts.coords])
    return measure_left_out(found, places, tissue.grid.patch_size_level0, overview.downsample, slide.mpp)


def find_tissue_mask(slide: Slide, overview: Overview, given: Path | None) -> tuple[np.ndarray, list[str]]:
    """Tissue mask (H, W), bool, in overview pixels, and what a person should know of it, a clause each.

    Raises NotASlideError, MaskError.
    """
    if given is not None:
        return read_mask(given, overview.pixels.shape[:2], overview.downsample), []
    if not is_brightfield(overview.pixels):
        raise NotASlideError(
            f"{slide.name}: the image is mostly dark, like fluorescence; only brightfield slides can be summarized",
            "not brightfield RGB",
        )
    survey = survey_overview(overview.pixels, overview.mpp)
    return survey.tissue, unexplained_notes(survey.unexplained_share)


def unexplained_notes(share: float) -> list[str]:
    """What to say about an area that is neither tissue nor glass, a `share` of the tissue's; nothing if small."""
    if share <= MUCH_UNEXPLAINED:
        return []
    return [
        f"an area as large as {share:.0%} of the tissue is neither glass nor tissue (ink, dirt, or very faint tissue); "
        "look at the overview, and where it is tissue, mark all tissue in a mask"
    ]


def check_all(checks: Sequence[Callable[[], None]]) -> None:
    for check in checks:
        check()


def read_given_tissue(path: Path, slide: Slide, options: Options, encoder: Encoder) -> Tissue:
    """Read patch coordinates and features from an existing feature file. Raises FeaturesError."""
    given = read_features(path, slide, options.patch_size_level0)
    size, card = given.patch_size_level0, encoder.card
    reading = plan_reading(slide.levels, size, card.patch_size, card.mpp_tolerance)
    return Tissue(Grid(given.coords, size, reading, aligned=False), given.features, given)


def note_places(slide: Slide, job: Job, tissue: Tissue, overview: Overview, mask: np.ndarray) -> tuple[str, ...]:
    """What to note of the places of given features. Raises FeaturesError where these do not lie on the tissue.

    A mask may mark some of the tissue alone: then the tissue that is found without it gives a note, and no more.
    """
    given = tissue.given
    assert given is not None
    if job.mask is None:
        check_places(given, mask, overview.downsample, slide.levels, slide.name)
        return given.notes
    found = survey_overview(overview.pixels, overview.mpp).tissue
    misplaced = describe_misplaced(given, found, overview.downsample, slide.levels)
    words = f"tissue found without the mask contradicts the given features: {misplaced}"
    return (*given.notes, *([words] * bool(misplaced)))


def encode_tissue(slide: Slide, grid: Grid, tools: Tools, damage: Damage, guard: bool = False) -> Tissue:
    """Encode the readable patches of the grid; if `guard`, mark artefacts. Raises BrokenSlideError."""
    recorder = StatisticsRecorder(slide, grid) if guard else None
    features, rows = encode_patches(
        slide.pyramid, grid.coords, grid.reading, tools.encoder, damage, tools.threads, tools.progress, recorder
    )
    tissue = Tissue(replace(grid, coords=grid.coords[rows]), features, None, unread=len(grid.coords) - len(rows))
    return tissue if recorder is None else tissue.judged(judge(tissue.grid.coords, recorder.statistics[rows]))


def choose_grid(slide: Slide, overview: Overview, mask: np.ndarray, options: Options, encoder: Encoder) -> Grid:
    """Lay the patch grid, aligned to tiles if they can be copied. Raises NoTissueError, NotASlideError, MppError."""

    def lay(align: bool) -> Grid:
        return lay_grid(slide.levels, slide.mpp, mask, overview.downsample, encoder.card, align, slide.name)

    free = lay(align=False)
    copied = options.pixels != "jpeg" and slide.pyramid.copies_jpeg(free.reading.level)
    grid = lay(align=True) if copied else free
    if not len(grid.coords):
        raise NoTissueError(f"{slide.name}: {no_tissue_words(overview)}")
    return grid


def no_tissue_words(overview: Overview) -> str:
    """What is said of a slide without tissue: whether there is something else, and what to do."""
    share = shaded_share(overview.pixels)
    if share < WORTH_A_LOOK:
        return "no patch of tissue found; where there is some, mark it in a mask (polygons in level-0 px)"
    return (
        f"no patch of tissue found, though {share:.1%} of the slide is darker than glass would be; look at it, and "
        "where it is tissue, mark it in a mask (polygons in level-0 px)"
    )


def limit_by_number(tissue: Tissue, options: Options) -> Limit:
    """The limit on the number alone, before bytes and represented tissue are considered."""
    return most_kept(len(tissue.features), options.keep, options.most)


def drop_unreadable(
    slide: Slide, tissue: Tissue, options: Options, damage: Damage, threads: int, models: SlideModels
) -> Tissue:
    """Drop patches that would be selected but cannot be read, and mark suspect ones. Raises BrokenSlideError."""

    def picked(rows: np.ndarray, suspect: np.ndarray) -> np.ndarray:
        some = replace(tissue.rows(rows), suspect=suspect)
        return pick(selection_input(some, options, models), limit_by_number(some, options).keep, options.selector)

    guard = options.artefacts == "guard"
    judged = tissue.judged(judge_picked(slide, tissue.grid, picked, damage, threads, guard))
    unread = len(tissue.features) - len(judged.features) - len(judged.artefacts.kind)
    return replace(judged, unread=tissue.unread + unread, suspect=judged.suspect if guard else None)


def models_for(tissue: Tissue, tools: Tools) -> SlideModels:
    """The models that match the encoder of these features."""
    given = tissue.given
    return tools.models.for_features_of(tools.encoder.card.sha256 if given is None else given.encoder_sha256)
