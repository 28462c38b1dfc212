"""How the runs over a folder named its outputs, so that no folder gets names of two kinds or by two keys."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path

from wsisum_cli.archive.report import shards_reported
from wsisum_cli.archive.scope.naming import BY_STEM, HASHED, Naming, recorded_naming
from wsisum_cli.archive.state.journal import STATE_FOLDER, facts_of_runs
from wsisum_cli.archive.state.ledger import report_or_none
from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.summary.container import SUFFIX, visible_summaries
from wsisum_cli.summary.reader import open_summary

NO_RECORD = (
    "expected the report of the run in this folder, found none, and summaries with names by hash; give --name-by hash "
    "and the --name-key of that run"
)

Recorded = tuple[str, str]  # the way, and the check value of the key; empty without one


def recorded_in(folder: Path) -> Recorded | None:
    """What the runs over a folder recorded; None where there is neither journal nor report.

    Reports count where the journals were deleted. Raises UsageError where the runs contradict each other.
    """
    found = {recorded_naming(facts) for facts in facts_of_runs(folder)} or set(reported_in(folder))
    if len(found) > 1:
        ways = sorted({by for by, _ in found})
        which = f"--name-by {' and '.join(ways)}" if len(ways) > 1 else "several keys"
        raise UsageError(
            f"expected one way of naming in the output folder, found runs with {which}; remove what one of them wrote, "
            f"the reports and {STATE_FOLDER}/journal"
        )
    return next(iter(found), None)


def reported_in(folder: Path) -> Iterator[Recorded]:
    for shard in (None, *shards_reported(folder)):
        report = report_or_none(folder, shard)
        if report is not None:
            yield recorded_naming(report.facts)


def refuse_other_naming(folder: Path, naming: Naming) -> None:
    """Raise UsageError unless earlier runs over a folder named their outputs as this one does."""
    recorded = recorded_in(folder)
    if recorded is not None:
        compare(recorded, naming)
    elif naming.is_private:
        refuse_public_names(folder)
    elif looks_hashed(folder):
        raise UsageError(NO_RECORD)


def refuse_public_names(folder: Path) -> None:
    """Raise UsageError where summaries in a folder without a record are called as slides are."""
    paths = list(visible_summaries(folder))
    inside = any(path.parent != folder for path in paths)
    if inside or (paths and not is_called_as(paths[0], paths[0].name.removesuffix(SUFFIX))):
        raise UsageError(
            "expected an output folder without summaries that have the names of slides, found one, and no report that "
            "says how they were named; choose another folder"
        )


def refuse_other_hashes(folder: Path, taken: Set[str]) -> None:
    """Raise UsageError where a folder without a record has names by hash, and none is one of the run's, `taken`."""
    hashed = [name for path in visible_summaries(folder) if is_hashed(name := path.relative_to(folder).as_posix())]
    if hashed and taken.isdisjoint(hashed) and recorded_in(folder) is None:
        raise UsageError(
            "--name-key: expected the key with which the summaries in this folder were named, found another one, or "
            "another archive; give that key, or choose another folder"
        )


def settle_naming(folder: Path, asked: Naming | None) -> Naming:
    """How outputs in a folder are named: as its runs recorded it, which must be as `asked` if that is given.

    Without a key, names by a hash are known as far as a report has them. Raises UsageError.
    """
    recorded = recorded_in(folder)
    if recorded is None:
        if asked is None and looks_hashed(folder):
            raise UsageError(NO_RECORD)
        return asked or BY_STEM
    naming = asked or Naming(recorded[0])
    compare(recorded, naming)
    return naming


def compare(recorded: Recorded, naming: Naming) -> None:
    """Raise UsageError where a naming is not the one that was recorded."""
    by, check = recorded
    if by != naming.by:
        raise UsageError(
            f"expected --name-by {by}, as earlier runs in this output folder had it, found --name-by {naming.by}; "
            f"give --name-by {by}, or choose another folder"
        )
    if naming.check and check and naming.check != check:
        raise UsageError(
            "--name-key: expected the key of earlier runs in this output folder, found another one; give that key, or "
            "choose another folder"
        )


def looks_hashed(folder: Path) -> bool:
    """Whether a summary in a folder has a hash as its name, and so has the slide in it."""
    found = (path for path in visible_summaries(folder) if is_hashed(path.relative_to(folder).as_posix()))
    first = next(found, None)
    return first is not None and is_called_as(first, first.name.removesuffix(SUFFIX))


def is_hashed(summary: str) -> bool:
    """Whether a summary has a name by hash, judging by its path within the folder."""
    return HASHED.fullmatch(summary.removesuffix(SUFFIX)) is not None


def is_called_as(summary: Path, name: str) -> bool:
    """Whether this is the name of the slide in a summary."""
    try:
        with open_summary(summary) as opened:
            return opened.record.source.name == name
    except (SummaryError, OSError):
        return False
