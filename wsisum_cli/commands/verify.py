"""`wsisum verify`: whether summaries are whole, and how well they stand for their slides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsisum_cli.archive.lookup import is_folder, model_finders, named_summaries
from wsisum_cli.commands.options import (
    FOUND,
    Device,
    ModelsDeviceOption,
    SlideEncoderFileOption,
    SummariesArgument,
    SummarizerFileOption,
    ThresholdOption,
    cores,
)
from wsisum_cli.commands.settings.run_options import ExcludeOption, IncludeOption, filter_of
from wsisum_cli.commands.signing.keys import KeyOption, checker
from wsisum_cli.errors import UsageError
from wsisum_cli.slides.remote.url import is_url
from wsisum_cli.summary.limits.plain_text import plain_json

if TYPE_CHECKING:
    from wsisum_cli.archive.manifest import Manifest
    from wsisum_cli.archive.retention import Rules, Verified
    from wsisum_cli.archive.walk import SourceIndex
    from wsisum_cli.verification.finding import Verification


class Required(StrEnum):
    PASS = "pass"
    REVIEW = "review"


def verify(
    summaries: SummariesArgument,
    source: Annotated[Path | None, typer.Option(help="The original slide, or its archive.", exists=True)] = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
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
    device: ModelsDeviceOption = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: an object, or a list for several.")] = False,
) -> None:
    """Check a summary, and compare it with the original slide.

    The comparison with the slide needs --source. The verdict is PASS, REVIEW or FAIL. The exit code is 0 only if every
    summary is intact and has the verdict that --require names, or a better one. For a folder of summaries and the
    archive as --source, every slide of the archive must have a summary too. With --key each summary must be signed.
    """
    from wsisum_cli.commands.console import output, warn
    from wsisum_cli.commands.verdicts import print_verifications, slides_left
    from wsisum_cli.quality.verdict import read_thresholds
    from wsisum_cli.verification.verify import verify_summary

    if quick and (source is not None or threshold):
        raise UsageError("--quick cannot be combined with --source or --threshold")
    planner = make_planner(plan, source, manifest, keep_newer, keep_where or [], require.name)
    finders = model_finders(encoder, summarizer, slide_encoder, device.value)
    tier = "quick" if quick else "source" if source is not None else "full"
    index = index_slides(source) if source is not None else None
    thresholds = read_thresholds(threshold) if threshold else None
    results, required, public = [], require.name, checker(key)
    if planner is not None and any(is_url(name) for name in summaries):
        raise UsageError("--plan: expected paths of summaries, found an address; copy the summaries first")
    picked, left_out = pick_summaries(named_summaries(summaries), include, exclude)
    for path, name in picked:
        slide = index.find(path) if index else None
        result = verify_summary(path, finders[0], tier, slide, cores(), *finders[1:], thresholds)
        results.append(with_signature(replace(result, path=name), path, public))
        if planner is not None:
            planner.note(Path(path), results[-1])
    if as_json:
        found = [result.as_dict() | {"required": required, "enough": is_enough(result, required)} for result in results]
        single = len(found) == 1 and not is_folder(summaries[0])
        typer.echo(plain_json(found[0] if single else found))
    else:
        print_verifications(output(), results, required, explain)
    if planner is not None and index is not None:
        planner.write(index)
    # Before an archive, or a file of several slides, is deleted, every slide must have its summary.
    whole = len(results) > 1 or any(map(is_folder, summaries)) or (source and source.is_file())
    left = index.left() if index and whole and not left_out else []
    if left:
        warn(slides_left(left))
    if left_out:
        unchecked = "; whether every slide has a summary was not checked" if source is not None else ""
        warn(f"left out: {left_out} of {len(results) + left_out} summaries by --include or --exclude{unchecked}")
    raise typer.Exit(FOUND if left or not all(is_enough(result, required) for result in results) else 0)


@dataclass
class Planner:
    """Collects what is verified, and writes the retention plan."""

    path: Path
    manifest: Manifest
    rules: Rules
    results: list[Verified] = field(default_factory=list)

    def note(self, path: Path, result: Verification) -> None:
        from wsisum_cli.archive.retention import Verified
        from wsisum_cli.slides.source import sha256_of

        self.results.append(Verified(path, result, sha256_of(path)))

    def write(self, index: SourceIndex) -> None:
        from wsisum_cli.archive.retention import plan_retention, plan_table, totals, write_plan
        from wsisum_cli.commands.console import messages, print_plan

        today = date.today()
        rows = plan_retention(index, self.results, self.manifest, self.rules, today)
        write_plan(self.path, plan_table(rows, self.manifest.columns, today))
        print_plan(messages(), self.path.name, totals(rows), sorted(self.manifest.unused))


def make_planner(
    plan: Path | None,
    source: Path | None,
    manifest: Path | None,
    newer: str | None,
    where: list[str],
    required: str,
) -> Planner | None:
    """What writes the retention plan; None where none is wanted. Raises UsageError."""
    if plan is None:
        if manifest is not None or newer is not None or where:
            raise UsageError("--manifest, --keep-newer and --keep-where need --plan")
        return None
    from wsisum_cli.archive.manifest import Manifest, read_manifest
    from wsisum_cli.archive.retention import Rules, check_columns, parse_age, parse_where, refuse_other_file

    if source is None:
        raise UsageError("--plan needs the archive as --source")
    refuse_other_file(plan)
    rows = read_manifest(manifest) if manifest is not None else Manifest()
    check_columns(rows)
    age = parse_age(newer) if newer is not None else None
    return Planner(plan, rows, Rules(required, age, parse_where(where, rows)))


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
) -> tuple[list[tuple[str, str]], int]:
    """The summaries whose paths match, and the number of others. Raises UsageError if none does."""
    chosen = filter_of(include, exclude, None, None, Path())
    picked = [(path, name) for path, name in named if chosen.picks_file(name)]
    if not picked:
        raise UsageError(f"{chosen.options()} left out all {len(named)} summaries")
    return picked, len(named) - len(picked)


def index_slides(archive: Path) -> SourceIndex:
    from wsisum_cli.archive.walk import SourceIndex

    return SourceIndex(archive)


def is_enough(result: Verification, required: str) -> bool:
    """Whether a summary is intact and its verdict good enough to rely on."""
    return result.ok and result.meets(required)
