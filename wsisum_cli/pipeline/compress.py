"""One slide through every stage, in order. The file to read first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wsisum_cli.errors import SummaryError, TooFewBytesError
from wsisum_cli.features.embedding import SlideEmbeddings, embed_tissue
from wsisum_cli.models.card import Card
from wsisum_cli.models.choice import SlideModels
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.pipeline.describe import CompressResult, assemble_contents, compress_result
from wsisum_cli.pipeline.job import Clock, Job, Options, Tools, Written
from wsisum_cli.pipeline.patch_selector import SelectedPatches
from wsisum_cli.pipeline.scene import Scene, open_scene
from wsisum_cli.quality.random_draws import affordable, draw, unmeasured
from wsisum_cli.selection.budget import MAX_BYTES, Limit, most_within, reduced
from wsisum_cli.summary.attributes import NamedEncoder
from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.writer import (
    SummaryContents,
    encode_overview,
    size_of,
    write_summary,
)
from wsisum_cli.verification.verify import verify_summary


def compress_slide(job: Job, options: Options, tools: Tools) -> CompressResult:
    """Summarize one slide into `job.output`. On any failure the output is left as it was.

    Raises SlideError or a subclass, ModelError when the encoder fails, SummaryError when the written file does
    not verify, OSError when the file system fails.
    """
    clock = Clock(tools.stage)
    with open_scene(job, options, tools, clock) as scene:
        limit = scene.limit
        if options.share is not None:
            with clock("pixels"):
                limit = reduced(limit, scene.patch_selector.fewest(options.share))
        contents = (
            assemble_summary(scene, limit)
            if options.max_bytes is None
            else fit_into_bytes(scene, limit, options.max_bytes)
        )
    models, check_unchanged = scene.models, scene.check_unchanged
    del scene  # verification needs the memory
    with clock("write"):
        written = write_verified(job.output, contents, tools, models, check_unchanged)
    return compress_result(job.output, contents, written, clock.seconds)


def assemble_summary(scene: Scene, limit: Limit) -> SummaryContents:
    """Select patches within the limit, measure them and assemble the summary. Raises as `compress_slide`."""
    clock, options = scene.clock, scene.options
    with clock("pixels"):
        selected = scene.patch_selector.select(limit.keep)
    if options.max_bytes is None:  # else other numbers of patches are tried as well
        scene.patch_selector.free_memory()
    embedded = embed_slide(scene, selected)
    with clock("draws"):
        cluster = scene.patch_selector.candidates.cluster
        count = affordable(limit.keep, options.draws)
        features, threads = selected.tissue.features, scene.tools.threads
        alike = scene.patch_selector.likeness.cosine
        draws = draw(features, cluster, alike, limit.keep, options.seed, count, threads)
    with clock("hash"):
        scene.hashed.result()
        scene.check_unchanged()
    return assemble_contents(scene, selected, embedded, draws, limit)


def fit_into_bytes(scene: Scene, limit: Limit, most: int) -> SummaryContents:
    """Keep as many patches as fit into `most` bytes. Raises TooFewBytesError, and as `compress_slide`."""
    contents_by_keep: dict[int, SummaryContents] = {}
    provisional: dict[int, int] = {}
    embedded = embed_slide(scene, scene.patch_selector.select(1))

    def size(keep: int) -> int:
        contents_by_keep[keep] = assemble_summary(scene, limit.cut(keep, MAX_BYTES))
        return size_of(contents_by_keep[keep])

    def estimate(keep: int) -> int:
        """The size without the embeddings and draws of these patches, which are slow to compute."""
        if keep not in provisional:
            with scene.clock("pixels"):
                selected = scene.patch_selector.select(keep)
                draws = unmeasured(keep, affordable(keep, scene.options.draws), scene.options.seed)
                provisional[keep] = size_of(
                    assemble_contents(scene, selected, embedded, draws, limit.cut(keep, MAX_BYTES))
                )
        return provisional[keep]

    keep = most_within(most, limit.keep, estimate, size)
    if not keep:
        least = size_of(contents_by_keep[1])
        least += len(str(least)) - len(str(most))  # the file records the byte limit itself
        raise TooFewBytesError(
            f"{scene.slide.name}: expected a summary of at most {most} bytes, but one with a single patch takes "
            f"{least}; raise --max-bytes"
        )
    return contents_by_keep[keep]


def embed_slide(scene: Scene, selected: SelectedPatches) -> SlideEmbeddings:
    """Embed the slide with the models that match its features. Raises ModelError."""
    models, rows = scene.models, selected.selection.rows
    if models.summarizer is None and models.slide_encoder is None:
        return SlideEmbeddings()
    with scene.clock("embedding"):
        return embed_tissue(models, selected.tissue.tokens, scene.patch_selector.candidate_rows(len(rows)), rows)


def write_verified(
    path: Path, contents: SummaryContents, tools: Tools, models: SlideModels, check_unchanged: Callable[[], None]
) -> Written:
    """Write to a temporary file, verify it, then rename it. Returns the size and time of the file.

    Raises SummaryError when the file does not verify, ChangedSlideError when the slide has changed since it was opened.
    """
    encoder = tools.encoder

    def find_encoder(card: Card | NamedEncoder) -> Encoder | None:
        return encoder if getattr(card, "sha256", None) == encoder.card.sha256 else None  # given features are another's

    path.parent.mkdir(parents=True, exist_ok=True)
    with writing_aside(path) as aside:
        write_summary(aside, contents)
        encode_overview.cache_clear()  # verification needs the memory
        result = verify_summary(
            aside,
            find_encoder,
            threads=tools.threads,
            find_summarizer=lambda card: models.summarizer,
            find_slide_encoder=lambda card: models.slide_encoder,
        )
        bad = [finding for finding in result.findings if finding.severity == "error"]
        if bad:
            raise SummaryError(f"{path.name}: the summary just written does not verify: {bad[0].message}")
        check_unchanged()
        return Written.of(aside)  # later it may be the file of another run
