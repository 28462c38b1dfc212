"""Verify a summary, and compare it with its source if that is available. Never raises for bad data.

Three tiers, cheapest first: `quick` checks the structure; `full` also checks every byte and patch and recomputes the
features; `source` also compares the summary with the slide it was made from.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsisum_cli.errors import SummaryError
from wsisum_cli.quality.verdict import Thresholds
from wsisum_cli.slides.remote.url import Address
from wsisum_cli.summary.attribute_checks import wrong_attributes
from wsisum_cli.summary.container import layout_differs, name_of
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.summary.standing import judge_again, recorded_thresholds
from wsisum_cli.summary.writer import ROOT
from wsisum_cli.verification.finding import Finding, Verification

if TYPE_CHECKING:
    from wsisum_cli.verification.appraisal import FindEncoder, FindSlideEncoder, FindSummarizer


def verify_summary(
    path: str | Path | Address,
    find_encoder: FindEncoder = lambda card: None,
    tier: str = "full",
    source: Path | None = None,
    threads: int = 1,
    find_summarizer: FindSummarizer = lambda card: None,
    find_slide_encoder: FindSlideEncoder = lambda card: None,
    thresholds: Thresholds | None = None,
) -> Verification:
    """Verify a summary. `tier` is quick, full or source; `source` is the slide's path, None if it was not found.

    The verdict uses `thresholds`, or the recorded ones if None. Model finders get the card that the summary records,
    and return None if the model is not available.
    """
    result = Verification(name_of(path), tier, name_of(path))
    finders = (find_encoder, find_summarizer, find_slide_encoder)
    try:
        for finding in collect_findings(path, finders, tier, source, threads, result, thresholds):
            result.findings.append(finding)
    # Whatever the damage, the caller gets findings and can go on with other files.
    except Exception as error:  # noqa: BLE001
        result.findings.append(Finding("internal", f"{type(error).__name__}: {error}"))
    if any(finding.severity == "error" for finding in result.findings):
        result.verdict = None  # of a file that is not what it says
    return result


def is_whole(path: Path) -> bool:
    """Whether the structure and checksums of a summary are valid; reads every byte, decodes nothing.

    Raises SummaryError when the file is not a summary slide.
    """
    with open_summary(path) as summary:
        return not [*check_structure(summary), *check_attributes(summary), *check_checksums(summary)]


def has_all_members(summary: Summary) -> bool:
    """Whether the attributes are valid, and all members that they list are there in their sizes.

    Reads the attributes alone. A store has either all bytes of an object or none, so that this tells of a remote
    summary whether it is whole.
    """
    listed = {name: entry.get("bytes") for name, entry in check_members(summary).items()}
    there = {name: member.size for name, member in summary.members.items() if name != ROOT}
    return summary.attributes_are_whole and listed == there and not list(check_attributes(summary))


def collect_findings(
    path: str | Path | Address,
    finders: tuple[FindEncoder, FindSummarizer, FindSlideEncoder],
    tier: str,
    source: Path | None,
    threads: int,
    result: Verification,
    thresholds: Thresholds | None,
) -> Iterator[Finding]:
    try:
        with open_summary(path) as summary:
            damaged = yield from check_structure(summary)
            wrong = yield from check_attributes(summary)
            if not wrong:
                result.record, result.verdict = summary.record, judge_again(summary.record, thresholds)
                result.thresholds = thresholds or recorded_thresholds(summary.record)
                if thresholds is None and summary.record.options.thresholds:
                    result.by_default = judge_again(summary.record, Thresholds())
            if tier == "quick":
                return
            damaged |= yield from check_checksums(summary)
            if wrong:
                return  # the arrays cannot be checked against the attributes
            # Slow to import, and not needed by `quick` and `is_whole`.
            from wsisum_cli.verification.appraisal import ModelFinders
            from wsisum_cli.verification.comparison import compare_with_source
            from wsisum_cli.verification.content import ContentCheck

            result.verdict = None  # until the figures are checked
            content, models = ContentCheck(summary, damaged, threads), ModelFinders(*finders)
            agrees = yield from content.check(models, result.measured, thresholds)
            result.verdict = content.verdict
            if tier == "source" and agrees:
                yield from compare_with_source(content, source, models, threads, result.measured)
                result.left_out = content.left_out
                result.verdict = content.verdict  # which an older file gets from its slide alone
    except OSError as error:  # includes SummaryError
        yield Finding("unreadable", str(error))


def check_structure(summary: Summary) -> Generator[Finding, None, set[str]]:
    """Check layout and member list; returns the names of changed members."""
    damaged: set[str] = set()
    difference = layout_differs(summary.file, summary.listed, counted=not summary.is_first_major)
    if difference:
        yield Finding("layout", f"{difference}; the file was changed or damaged after it was written")
    listed = check_members(summary)
    for name, entry in listed.items():
        member, size = summary.members.get(name), entry.get("bytes")
        if member is None:
            damaged.add(name)
            yield Finding("missing-member", f"{name} is not in the file", name)
        elif member.size != size:
            damaged.add(name)
            yield Finding("member-size", f"{name} has not the listed size", name, str(size), str(member.size))
    for name in sorted(summary.members.keys() - listed.keys() - {ROOT}) if listed else ():
        yield Finding("unlisted-member", f"{name} does not belong to the summary", name)
    if not summary.attributes_are_whole:
        yield Finding("checksum", f"{ROOT} fails its CRC-32", ROOT)
    return damaged


def check_members(summary: Summary) -> dict[str, dict[str, Any]]:
    """The members listed in the attributes. Invalid entries are empty here, and reported as `attributes`."""
    listed = summary.attributes.get("members")
    entries = listed.items() if isinstance(listed, dict) else ()
    return {name: entry if isinstance(entry, dict) else {} for name, entry in entries}


def check_attributes(summary: Summary) -> Generator[Finding, None, bool]:
    """Check names, types and consistency of the attributes; returns whether any are wrong."""
    wrong = list(wrong_attributes(summary.attributes))
    for message in wrong:
        yield Finding("attributes", message, ROOT)
    return bool(wrong)


def check_checksums(summary: Summary) -> Generator[Finding, None, set[str]]:
    """Check every byte of every listed member; returns the names of those that differ."""
    damaged: set[str] = set()
    for name, entry in check_members(summary).items():
        if name not in summary.members:
            continue
        try:
            digest = summary.sha256(name)
        except SummaryError as error:
            digest = str(error)
        if digest != entry.get("sha256"):
            damaged.add(name)
            yield Finding("checksum", f"{name} was changed or damaged", name, str(entry.get("sha256")), digest)
    return damaged
