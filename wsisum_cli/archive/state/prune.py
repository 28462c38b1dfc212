"""Which summaries may go because their slide is no longer where it was. By default nothing is lost.

A summary may be all that remains of a slide that was deleted on purpose. So by default one goes only where nothing goes
with it: its slide lies elsewhere in the archive, unchanged, and has a whole summary there that is no worse and has all
that was added to this one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from wsisum_cli.archive.inventory import summary_files
from wsisum_cli.archive.scope.filters import numbered
from wsisum_cli.archive.state.journal import STATE_FOLDER
from wsisum_cli.archive.state.status import (
    FAILED,
    GONE,
    IN_REVIEW,
    KNOWN,
    RENAMED,
    UP_TO_DATE,
    Comparison,
    Orphan,
    summary_attributes,
)
from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.quality.verdict import VERDICTS, Thresholds
from wsisum_cli.slides.source import FileState, state_of
from wsisum_cli.summary.attributes import Attributes, GivenFeatures
from wsisum_cli.summary.container import SUFFIX, new_owner, sync_folder
from wsisum_cli.summary.signature.minisign import signature_path
from wsisum_cli.summary.standing import judge_again
from wsisum_cli.verification.verify import is_whole

ASIDE = f"{STATE_FOLDER}/pruned"
MOST_GONE = 0.1  # share of the summaries whose slide may be gone before an archive is taken for not all there
REMOVE, KEEP = "remove", "keep"


class Decision(BaseModel):
    """What becomes of one summary without a slide, and why."""

    model_config = ConfigDict(frozen=True)

    summary: str = Field(description="path within the folder")
    source: str = Field(description="where its slide was; empty if unknown")
    action: str = Field(pattern="^(remove|keep)$")
    reason: str = Field(description="renamed, gone or cannot be read")
    message: str
    found_at: str | None = Field(description="where its slide is now; null if nowhere")
    bytes: int
    state: FileState = Field(exclude=True)  # of the summary when it was looked at


@dataclass(frozen=True)
class Pruning:
    """All summaries without a slide, and how many summaries there are."""

    decisions: Sequence[Decision]
    summaries: int

    @property
    def removals(self) -> list[Decision]:
        return [decision for decision in self.decisions if decision.action == REMOVE]


def plan_pruning(found: Comparison, gone: bool, force: bool) -> Pruning:
    """Decide on every summary without a slide; `gone` also removes those whose slide is nowhere.

    Raises UsageError where the archive may not be all there: no slide in it, a folder that cannot be listed, or a large
    share of the slides gone, which `force` permits. Also where the names that summaries should have are not known.
    """
    if found.naming.lacks_key:
        raise UsageError("the summaries in this folder are named by hash; give the --name-key of the run")
    found.compare()
    if found.failures:
        first = found.failures[0]
        raise UsageError(
            f"{first.source}: {first.message}; slides may be there that cannot be seen, so nothing was removed"
        )
    if broken := next(broken_links(found.archive), None):
        raise UsageError(
            f"{broken}: a link that leads nowhere; a part of the archive may not be mounted, so nothing was removed"
        )
    count = len(summary_files(found.folder))
    decisions = [decide(orphan, found, gone) for orphan in found.orphans()]
    vanished = [decision for decision in decisions if decision.reason == GONE]
    if gone and not force and len(vanished) > max(1, MOST_GONE * count):
        raise UsageError(
            f"expected an archive that holds the slides of most of the {count} summaries, but it lacks those of "
            f"{len(vanished)}; is all of it mounted? If they are gone on purpose, say --force. Nothing was removed"
        )
    return Pruning(decisions, count)


def broken_links(archive: Path) -> Iterator[str]:
    """Links in the archive that lead nowhere, as a missing disk leaves them."""
    for folder, folders, files in os.walk(archive):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            if os.path.islink(path) and not os.path.exists(path):
                yield Path(path).relative_to(archive).as_posix()


def decide(orphan: Orphan, found: Comparison, gone: bool) -> Decision:
    """What becomes of a summary without a slide."""
    state = state_of(found.folder / orphan.summary)
    action, message = KEEP, "it cannot be read; look at it, and remove it by hand"
    if orphan.reason == RENAMED:
        action, message = decide_renamed(orphan, found)
    elif orphan.reason == GONE and gone:
        action, message = REMOVE, "its slide is nowhere in the archive: nothing else may remain of it"
    elif orphan.reason == GONE:
        message = "its slide is nowhere in the archive: it may be all that remains; --gone removes it"
    return Decision(
        summary=orphan.summary,
        source=orphan.source,
        action=action,
        reason=orphan.reason,
        message=message,
        found_at=orphan.found_at,
        bytes=max(0, state[0]),
        state=state,
    )


def decide_renamed(orphan: Orphan, found: Comparison) -> tuple[str, str]:
    """Remove a summary whose slide lies elsewhere only if that one's own summary says as much."""
    assert orphan.attributes is not None
    assert orphan.found_at is not None
    if not found.is_naming_known and is_named_apart(orphan):
        return KEEP, "its name is not that of its slide, and no report says how runs named it; give --name-by"
    name = numbered(orphan.found_at, orphan.attributes.source.image)
    twin = found.states.get(name)
    if twin is not None and twin.state in (FAILED, KNOWN):
        return KEEP, f"its slide is {name} now, whose own summary was not made ({twin.reason})"
    if twin is None or not twin.summary:
        return KEEP, f"its slide is {name} now, which has no summary yet; wsisum compress makes one"
    if twin.state not in (UP_TO_DATE, IN_REVIEW):
        return KEEP, f"its slide is {name} now, whose own summary is not up to date ({twin.reason or twin.state})"
    path = found.folder / twin.summary
    why = lacks(path, orphan.attributes, found.thresholds)
    if not why and signature_path(found.folder / orphan.summary).exists() and not signature_path(path).exists():
        why = "is not signed"
    if why:
        return KEEP, f"its slide is {name} now, but {twin.summary} {why}"
    return REMOVE, f"its slide is {name} now, which {twin.summary} summarizes"


def is_named_apart(orphan: Orphan) -> bool:
    """Whether a summary and its slide have one name, as a manifest or a hash gives it, and lie in no folder."""
    return orphan.attributes is not None and orphan.summary == f"{orphan.attributes.source.name}{SUFFIX}"


def lacks(path: Path, attributes: Attributes, thresholds: Thresholds | None) -> str:
    """What a summary lacks beside one of the same slide with these attributes; empty if nothing.

    Verdicts are compared by `thresholds`, those that each was made with if None.
    """
    try:
        other = summary_attributes(path, False)
        if other is None or not is_whole(path):
            return "is damaged"
    except (SummaryError, OSError):
        return "cannot be read"
    if (other.source.sha256, other.source.image) != (attributes.source.sha256, attributes.source.image):
        return "is of another slide"
    if other.patches < attributes.patches:
        return "keeps fewer patches"
    return is_worse(other, attributes, thresholds) or lacks_addition(other, attributes)


def is_worse(other: Attributes, attributes: Attributes, thresholds: Thresholds | None) -> str:
    """In which way the first of two summaries of one slide is worse; empty if in none."""
    if not same_features(other, attributes):
        return "has features of another encoder"
    verdicts = [judge_again(one, thresholds) for one in (other, attributes)]
    ranks = [len(VERDICTS) if one is None else VERDICTS.index(one.verdict) for one in verdicts]
    shares = [-1.0 if one.represented is None else one.represented.share for one in (other, attributes)]
    if ranks[0] > ranks[1]:
        return "has a worse verdict"
    return "represents less of the tissue" if shares[0] < shares[1] else ""


def same_features(other: Attributes, attributes: Attributes) -> bool:
    """Whether one encoder is known to have made the features of both, or they are from one file."""
    ours, theirs = attributes.features, other.features
    if isinstance(ours, GivenFeatures) and isinstance(theirs, GivenFeatures) and ours.sha256 == theirs.sha256:
        return True
    return attributes.features_encoder is not None and attributes.features_encoder == other.features_encoder


def lacks_addition(other: Attributes, attributes: Attributes) -> str:
    """What was added to the second of two summaries of one slide, and not to the first; empty if nothing."""
    if attributes.tissue_features is not None and other.tissue_features is None:
        return "has no features of all tissue"
    there = {one.encoder.sha256 for one in other.reembedded or ()}
    missing = [one.encoder.name for one in attributes.reembedded or () if one.encoder.sha256 not in there]
    return f"has no features by {missing[0]}" if missing else ""


def prune(folder: Path, pruning: Pruning, delete: bool) -> tuple[list[Decision], Path | None]:
    """Move the summaries that may go aside, or delete them. Returns those, and the folder where they lie now.

    The signature beside a summary goes with it, and goes first, so that none is left alone. A summary that has changed
    since it was looked at stays. Raises OSError.
    """
    aside = None if delete else folder / ASIDE / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{new_owner()}"
    done: list[Decision] = []
    for decision in pruning.removals:
        path = folder / decision.summary
        if state_of(path) != decision.state:
            continue
        target = None if aside is None else aside / decision.summary
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
        if signature_path(path).exists():
            take_away(signature_path(path), None if target is None else signature_path(target))
        take_away(path, target)
        sync_folder(path.parent)
        done.append(decision)
    return done, aside if done else None


def take_away(path: Path, target: Path | None) -> None:
    """Move a file, or delete it where there is no target."""
    if target is None:
        path.unlink()
        return
    os.rename(path, target)
    sync_folder(target.parent)
