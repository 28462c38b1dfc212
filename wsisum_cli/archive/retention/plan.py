"""For each slide of an archive, whether its original may leave fast storage, and why.

The plan is for people and their own programs. Nothing here deletes or moves a slide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.retention.rules import About, Rules, kept_by_rules
from wsisum_cli.archive.retention.standing import COLD, DECISIONS, KEEP, Standing
from wsisum_cli.archive.walk import SourceIndex
from wsisum_cli.quality.verdict import VERDICTS
from wsisum_cli.slides.source import Source


@dataclass(frozen=True)
class Verified:
    """A summary that was compared with its slide, and what that came to."""

    path: Path
    standing: Standing


@dataclass(frozen=True)
class SourceFacts:
    """What identifies a slide on disk."""

    files: int
    bytes: int
    sha256: str
    modified: datetime


@dataclass(frozen=True)
class Row:
    """The plan for one slide."""

    slide: str  # path within the archive
    decision: str
    reason: str
    source: SourceFacts | None = None  # None where it could not be read
    summaries: Sequence[Standing] = ()
    about: Mapping[str, str] = field(default_factory=dict)  # the user's own columns


@dataclass(frozen=True)
class Checked:
    """The summaries of an archive, by the slides that they stand for."""

    verified: Mapping[Path, Sequence[Standing]]
    left_out: Mapping[Path, Sequence[str]]  # names of summaries that nobody looked at

    def of(self, path: Path) -> tuple[Sequence[Standing], Sequence[str]]:
        return self.verified.get(path, ()), self.left_out.get(path, ())


def plan_retention(
    index: SourceIndex,
    results: Iterable[Verified],
    left_out: Iterable[tuple[str, str]],
    manifest: Manifest,
    rules: Rules,
    today: date,
) -> list[Row]:
    """A row for each slide of the archive, by path.

    `results`: verified with their slides, after `index.find`. `left_out`: paths and names of further summaries.
    """
    verified: dict[Path, list[Standing]] = {}
    for one in results:
        for slide in index.copies(one.path):
            verified.setdefault(slide, []).append(one.standing)
    unseen: dict[Path, list[str]] = {}
    for path, name in left_out:
        for source in index.owners(path):
            unseen.setdefault(source.path, []).append(name)
    checked = Checked(verified, unseen)
    rows = [row_of(index, source, checked, manifest, rules, today) for source in index.sources]
    unread = [Row(o.source, KEEP, f"it could not be looked at: {o.reason}") for o in index.unread]
    return sorted([*rows, *unread], key=lambda row: row.slide)


def row_of(index: SourceIndex, source: Source, checked: Checked, manifest: Manifest, rules: Rules, today: date) -> Row:
    names = index.names_of(source)
    found, unseen = checked.of(source.path)
    abouts = abouts_of(names, [one.image for one in found], manifest)
    decision, reason = judge(index.left_of(source.path), found, unseen)
    about = {column: joined((one or {}).get(column, "") for one in abouts) for column in manifest.columns}
    try:
        if decision == COLD and not is_as_verified(source, found):
            decision, reason = KEEP, "it changed while the plan was made; run again"
        if decision != KEEP:
            why = kept_by_rules(source, abouts, rules, today)
            decision, reason = next(((KEEP, words) for words in why), (decision, reason))
        facts = SourceFacts(len(source.files), source.bytes, source.sha256, modified(source))
    except OSError as error:
        return Row(names[0], KEEP, f"it cannot be read ({error.strerror})", None, found, about)
    return Row(names[0], decision, reason, facts, found, about)


def abouts_of(names: Sequence[str], images: Sequence[int | None], manifest: Manifest) -> list[About]:
    """The user's own columns for a file, and for each of its slides where the manifest names these.

    `names` are the paths of its files, any of which a row may give, and `images` the slides that have summaries. None
    stands for a slide without a row, and comes first.
    """
    of_files = [entry.about for name in names if (entry := manifest.row(Path(name))) is not None]
    keys = manifest.slides_of_files(names)
    of_slides = [manifest.entries[manifest.use(key)].about for key in keys]
    named = {key.rpartition("#")[2] for key in keys}
    missing = not of_files and not (keys and all(str(image) in named for image in images))
    return [*([None] * missing), *of_files, *of_slides]


def joined(values: Iterable[str]) -> str:
    """What the slides of a file have in a column."""
    return "; ".join(dict.fromkeys(value for value in values if value))


def is_as_verified(source: Source, summaries: Sequence[Standing]) -> bool:
    """Whether the slide on disk is the one that the summaries were compared with. Raises OSError."""
    digest = source.sha256  # hashed again if the file has changed
    return all(one.slide == digest for one in summaries)


def judge(left: Sequence[str], summaries: Sequence[Standing], unseen: Sequence[str] = ()) -> tuple[str, str]:
    """The decision and its reason, by the summaries alone. The worst summary decides.

    `left`: slides of the file without a verified summary. `unseen`: its summaries that were left out.
    """
    if unseen:
        return KEEP, f"left out by --include or --exclude: {', '.join(unseen)}"
    if not summaries:
        return KEEP, "no summary"
    if left:
        return KEEP, f"{len(left)} of its slides have no summary: {', '.join(left)}"
    worst = max(summaries, key=lambda one: DECISIONS.index(one.decision))
    if worst.decision != COLD:
        return worst.decision, worst.reason
    lenience = next((one.lenience for one in summaries if one.lenience), "")
    return COLD, f"{worst_verdict(summaries)}, intact, and compared with the slide{lenience}"


def worst_verdict(summaries: Sequence[Standing]) -> str:
    """The worst verdict of the summaries of a file; empty where one has none."""
    found = [one.verdict for one in summaries]
    return "" if "" in found or not found else max(found, key=VERDICTS.index)


def modified(source: Source) -> datetime:
    return datetime.fromtimestamp(source.modified / 1e9, UTC)


def totals(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """How many slides get each decision, and their bytes."""
    found = {decision: [row for row in rows if row.decision == decision] for decision in DECISIONS}
    return {name: (len(some), sum(row.source.bytes for row in some if row.source)) for name, some in found.items()}
