"""`wsisum verify`: whether summaries are whole, and how well they stand for their slides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsisum_cli.archive.lookup import is_folder, model_finders, named_summaries
from wsisum_cli.commands.options import (
    DEFAULT_CACHE_SIZE,
    FOUND,
    PLACE,
    CacheFolderOption,
    CacheSizeOption,
    Device,
    ModelsDeviceOption,
    SlideEncoderFileOption,
    SummariesArgument,
    SummarizerFileOption,
    ThresholdOption,
    cores,
)
from wsisum_cli.commands.retention_plan import make_planner, refuse_addresses_in_plan
from wsisum_cli.commands.settings.run_options import cache_of, filter_of
from wsisum_cli.commands.signing.keys import KeyOption, checker
from wsisum_cli.errors import ChangedSlideError, RemoteError, UsageError
from wsisum_cli.slides.remote.url import parse_place
from wsisum_cli.summary.limits.plain_text import plain_json

if TYPE_CHECKING:
    from wsisum_cli.archive.walk import SourceIndex
    from wsisum_cli.quality.verdict import Thresholds
    from wsisum_cli.slides.remote.cache import Cache
    from wsisum_cli.verification.finding import Verification


class Required(StrEnum):
    PASS = "pass"
    REVIEW = "review"


def verify(
    summaries: SummariesArgument,
    source: Annotated[
        str | None, typer.Option(help="The original slide, or its archive.", metavar=PLACE, show_default=False)
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Check only summaries whose path matches, such as 'lung/*' or '*.ozx'; repeatable.", metavar="GLOB"
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out summaries whose path matches; repeatable.", metavar="GLOB")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check structure and sizes only. Not enough to delete a slide.")
    ] = False,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder file, if it is not one of the bundled or added models.")
    ] = None,
    summarizer: SummarizerFileOption = None,
    slide_encoder: SlideEncoderFileOption = None,
    threshold: ThresholdOption = None,
    require: Annotated[
        Required, typer.Option(help="Verdict that is enough for exit code 0; review accepts PASS and REVIEW.")
    ] = Required.PASS,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Write a retention plan (CSV) for every slide of the archive given as --source. Nothing is deleted."
        ),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV whose columns, such as case, date and use, go into the plan.", exists=True)
    ] = None,
    keep_newer: Annotated[
        str | None,
        typer.Option(help="In the plan, keep originals newer than this, by the column date or the file: 90d, 18m, 2y."),
    ] = None,
    keep_where: Annotated[
        list[str] | None, typer.Option(help="In the plan, keep originals with this value in a column: use=teaching.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Explain each verdict, and say what to do.")] = False,
    key: KeyOption = None,
    cache_dir: CacheFolderOption = None,
    cache_size: CacheSizeOption = DEFAULT_CACHE_SIZE,
    device: ModelsDeviceOption = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: an object, or a list for several.")] = False,
) -> None:
    """Check a summary, and compare it with the original slide.

    The comparison with the slide needs --source. The verdict is PASS, REVIEW or FAIL. The exit code is 0 only if every
    summary is intact and has the verdict that --require names, or a better one. For a folder of summaries and the
    archive as --source, every slide of the archive must have a summary too. With --key each summary must be signed.
    """
    from wsisum_cli.commands.console import messages, warn
    from wsisum_cli.commands.progress.shown import counting
    from wsisum_cli.commands.verdicts import slides_left
    from wsisum_cli.quality.verdict import read_thresholds

    if quick and (source is not None or threshold):
        raise UsageError("--quick cannot be combined with --source or --threshold")
    planner = make_planner(plan, source, manifest, keep_newer, keep_where or [], require.name)
    if planner is not None:
        refuse_addresses_in_plan(summaries, source)
    finders = model_finders(encoder, summarizer, slide_encoder, device.value)
    tier = "quick" if quick else "source" if source is not None else "full"
    thresholds = read_thresholds(threshold) if threshold else None
    check = partial(verify_one, finders=finders, tier=tier, thresholds=thresholds)
    public = checker(key)
    with indexed(source, cache_of(cache_dir, cache_size)) as index:
        picked, left_out = pick_summaries(named_summaries(summaries), include, exclude)
        display = Display(require.name, explain, as_json, single=len(picked) == 1 and not is_folder(summaries[0]))
        if planner is not None and index is not None:
            planner.prepare(index, left_out, thresholds)
        with counting(messages(), 0 if display.is_live else len(picked), "summaries") as begin:
            for path, name in picked:
                begin(name)
                if planner is not None:
                    planner.begin(Path(path))
                result = with_signature(replace(check(path, index), path=name), path, public)
                if planner is not None:
                    planner.note(Path(path), result)
                display.add(result)
        # Before an archive, or a file of several slides, is deleted, every slide must have its summary.
        whole = len(picked) > 1 or any(map(is_folder, summaries)) or (index is not None and index.is_single)
        left = index.left() if index and whole and not left_out else []
    display.end()
    if planner is not None and index is not None:
        planner.write(index)
    if left:
        warn(slides_left(left))
    if left_out:
        unchecked = "; whether every slide has a summary was not checked" if source is not None else ""
        every = len(picked) + len(left_out)
        warn(f"left out: {len(left_out)} of {every} summaries by --include or --exclude{unchecked}")
    raise typer.Exit(FOUND if left or not display.tally.all_enough else 0)


class Display:
    """Prints what was found on each summary as soon as it is known; JSON at the end. Keeps no whole verification."""

    def __init__(self, required: str, explained: bool, as_json: bool, single: bool) -> None:
        from wsisum_cli.commands.console import output
        from wsisum_cli.commands.verdicts import Tally

        self.tally = Tally(required)
        self._explained, self._single = explained, single
        self._json: list[dict[str, Any]] | None = [] if as_json else None
        self._console = output()

    @property
    def is_live(self) -> bool:
        """Whether people see the results as they come."""
        return self._json is None and self._console.is_terminal

    def add(self, result: Verification) -> None:
        from wsisum_cli.commands.verdicts import print_verification

        required = self.tally.required
        self.tally.count(result)
        if self._json is None:
            print_verification(self._console, result, required, self._explained)
            self._console.file.flush()
        else:
            self._json.append(result.as_dict() | {"required": required, "enough": is_enough(result, required)})

    def end(self) -> None:
        if self._json is None:
            self.tally.print(self._console)
        else:
            typer.echo(plain_json(self._json[0] if self._single else self._json))


def with_signature(result: Verification, path: str, key: Any) -> Verification:
    """The verification, with an error where the signature of this key is missing or does not hold."""
    if key is None:
        return result
    from wsisum_cli.summary.signature.minisign import what_is_wrong
    from wsisum_cli.verification.finding import Finding

    wrong = what_is_wrong(path, key)
    if wrong is None:
        return replace(result, signed=True)
    return replace(result, signed=False, verdict=None, findings=[*result.findings, Finding("signature", wrong)])


def pick_summaries(
    named: list[tuple[str, str]], include: list[str] | None, exclude: list[str] | None
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The summaries whose paths match, and the others. Raises UsageError if none does."""
    chosen = filter_of(include, exclude, None, None, Path())
    picked = [one for one in named if chosen.picks_file(one[1])]
    if not picked:
        raise UsageError(f"{chosen.options()} left out all {len(named)} summaries")
    return picked, [one for one in named if not chosen.picks_file(one[1])]


@contextmanager
def indexed(source: str | None, cache: Cache) -> Iterator[SourceIndex | None]:
    """The slides of an archive, given by its path or address; None without one. Raises UsageError, RemoteError."""
    if source is None:
        yield None
        return
    from wsisum_cli.archive.remote.sites import local_archive, open_archive
    from wsisum_cli.archive.walk import SourceIndex

    place = parse_place(source)
    with ExitStack() as stack:
        if isinstance(place, Path):
            if not place.exists():
                raise UsageError(f"--source {source}: no such file or folder")
            archive = local_archive(place)
        else:
            archive = stack.enter_context(open_archive(place, None, cache))
        yield SourceIndex(archive.path, archive.attach, archive.shown, archive.outcomes)


def verify_one(
    path: str, index: SourceIndex | None, finders: tuple[Any, Any, Any], tier: str, thresholds: Thresholds | None
) -> Verification:
    """Verify a summary, with its slide where that is in the archive. Raises AccessError."""
    from wsisum_cli.verification.finding import Finding
    from wsisum_cli.verification.verify import verify_summary

    def verified(tier: str, slide: Path | None) -> Verification:
        return verify_summary(path, finders[0], tier, slide, cores(), *finders[1:], thresholds)

    try:
        slide = index.find(path) if index is not None else None
        if slide is None:
            return verified(tier, None)
        with slide.staged() as here:
            return verified(tier, here.path)
    except (RemoteError, ChangedSlideError) as error:
        result = verified("full", None)
        return replace(result, verdict=None, findings=[*result.findings, Finding("source-missing", str(error))])


def is_enough(result: Verification, required: str) -> bool:
    """Whether a summary is intact and its verdict good enough to rely on."""
    return result.ok and result.meets(required)
