"""The state of every slide of an archive and of every summary in a folder: up to date or not, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from wsisum_cli.archive.inventory import summary_files, thresholds_of
from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.outcome import FAILED as NOT_MADE
from wsisum_cli.archive.outcome import SKIPPED as LEFT_OUT
from wsisum_cli.archive.outcome import UP_TO_DATE as AS_BEFORE
from wsisum_cli.archive.outcome import Outcome, Record, outcome_of
from wsisum_cli.archive.plan import Request, changed_options, lacks_keys, make_jobs
from wsisum_cli.archive.report import Report
from wsisum_cli.archive.scope.known import acknowledge
from wsisum_cli.archive.scope.naming import MANIFEST, Naming, unnamed
from wsisum_cli.archive.state.ledger import Ledger, read_state
from wsisum_cli.archive.state.names import is_hashed, recorded_in, settle_naming
from wsisum_cli.archive.state.record import fingerprint_of, settings_in, source_state, telling_time, version_in
from wsisum_cli.archive.walk import find_slides
from wsisum_cli.errors import SummaryError, UnnamedError, UsageError
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.pipeline.product import SUMMARIES
from wsisum_cli.quality.verdict import PASS
from wsisum_cli.slides.slide import FROM_MANIFEST
from wsisum_cli.slides.source import Source, as_text, sha256_of, state_of
from wsisum_cli.summary.attributes import Attributes, ComputedFeatures
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.summary.standing import judge_again
from wsisum_cli.verification.verify import is_whole

UP_TO_DATE, IN_REVIEW, UNCHECKED, NEW, STALE, FAILED, KNOWN, LOST, ORPHANED, RETIRED, SKIPPED = STATES = (
    *("up to date", "in review", "unchecked", "new", "stale", "failed", "known failure", "lost", "orphaned"),
    *("retired", "skipped"),
)
#: States after which there is something to do for the next run, or for a person.
OPEN = frozenset({NEW, STALE, FAILED, LOST, ORPHANED})
RENAMED, GONE, UNREADABLE = "renamed", "gone", "cannot be read"  # reasons of orphans
TOUCHED = "time of change differs"
NOTHING_GIVEN = Manifest()
NO_ARCHIVE, NO_KEY = "no archive given", "no --name-key given"


class SlideState(BaseModel):
    """One slide of the archive, or a summary without one."""

    model_config = ConfigDict(frozen=True)

    source: str = Field(description="path within the archive; of an orphan, where its slide was, empty if unknown")
    state: str = Field(pattern=f"^({'|'.join(STATES)})$")
    reason: str = Field(default="", description="a few stable words")
    message: str = ""
    summary: str = Field(default="", description="path within the folder; empty without one")
    verdict: str | None = None
    found_at: str | None = Field(default=None, description="of an orphan: where its slide is now; null if nowhere")


class Status(BaseModel):
    """A folder of summaries, and the archive that it was made from where that is given."""

    model_config = ConfigDict(frozen=True)

    compared: bool = Field(description="whether the archive was given")
    run: dict[str, Any] | None = Field(description="facts of the last run; null without a report")
    counts: dict[str, int] = Field(description="slides by state")
    running: int = Field(description="runs that are going on, as far as known here")
    slides: list[SlideState]

    def reasons(self, state: str) -> list[tuple[str, int]]:
        """Why slides are in a state, the most frequent first."""
        found = Counter(
            slide.reason or (slide.verdict or "" if state == IN_REVIEW else "")
            for slide in self.slides
            if slide.state == state
        )
        return sorted(found.items(), key=lambda one: (-one[1], one[0]))


@dataclass
class Comparison:
    """What is known of a folder and of the archive beside it."""

    folder: Path
    archive: Path
    manifest: Manifest
    check: bool = False  # open every summary, and compare content where times do not tell
    asked: Naming | None = None  # how outputs are said to be named; None: as the runs recorded it
    claimed: set[str] = field(default_factory=set)  # summaries that belong to a slide of the archive
    sources: dict[str, Source] = field(default_factory=dict)  # by path within the archive
    states: dict[str, SlideState] = field(default_factory=dict)
    failures: list[Outcome] = field(default_factory=list)  # folders that could not be listed

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.folder, SUMMARIES.noun)
        self.report: Report | None = read_state(self.folder, SUMMARIES.noun, self.ledger.history)
        self.rows = {} if self.report is None else {row.source: row for row in self.report.outcomes}
        self.settings = str(self.report.facts.get("settings", "")) if self.report is not None else ""
        self.thresholds = None if self.report is None else thresholds_of(self.report)
        self._words: dict[str, str] = {}  # by settings: how they differ from the last run's
        self.naming = settle_naming(self.folder, self.asked)
        self.is_naming_known = self.asked is not None or recorded_in(self.folder) is not None

    def compare(self) -> None:
        """Find the state of every slide of the archive.

        Raises UsageError when that has no slides, and when the names of their summaries are not known.
        """
        if self.naming.by == MANIFEST and not self.manifest.entries:
            raise UsageError("the summaries in this folder are named by a manifest; give the --manifest of the run")
        sources, outcomes, _ = find_slides(self.archive, self.folder)
        if not sources:
            raise UsageError(f"{self.archive.name}: expected the archive, found no slides; is it there and mounted?")
        self.failures = [found for found in outcomes if found.status == NOT_MADE]
        root = self.archive if self.archive.is_dir() else self.archive.parent
        inside: dict[str, list[str]] = {}
        for name in self.rows:
            if "#" in name:
                inside.setdefault(name.rpartition("#")[0], []).append(name)
        request = Request(self.archive, self.folder, Options(), "", naming=self.naming)
        clashes: dict[str, Outcome] = {}
        for relative, job in make_jobs(request, self.manifest, root, sources, clashes):
            self.sources[relative] = job.source
            for name in sorted(inside.get(relative, [])) or [relative]:
                self._add(self._state(name, self._job_for(name, job if name == relative else self._job_in(name, job))))
        for name, clash in clashes.items():
            kept = self.states[name].summary if name in self.states else ""
            self._add(SlideState(source=name, state=FAILED, reason=clash.reason, message=clash.message, summary=kept))
        for outcome in outcomes:
            if outcome.source not in self.states:
                state = FAILED if outcome.status == NOT_MADE else SKIPPED
                self._add(
                    SlideState(source=outcome.source, state=state, reason=outcome.reason, message=outcome.message)
                )

    def _add(self, state: SlideState) -> None:
        self.states[state.source] = state
        if state.summary:
            self.claimed.add(state.summary)

    def _job_in(self, name: str, job: Job) -> Job:
        """The job of one slide, `FILE#N`, in a file of several, as `Splitter` makes it."""
        entry, row = self.manifest.entry(Path(name)), self.rows[name]
        output = self.folder / row.summary if row.summary else job.output
        called = entry.name or job.name
        if self.naming.is_private:
            called, stem = self.naming.private_image_name(name, self.manifest)
            output = self.folder / f"{stem}{SUMMARIES.suffix}" if stem else self.folder
        elif entry.name:
            output = job.output.with_name(entry.name + SUMMARIES.suffix)
        number = int(name.rpartition("#")[2])
        mpp = entry.mpp or job.mpp
        return replace(job, output=output, name=called, mpp=mpp, mask=entry.mask, image=number)

    def _job_for(self, name: str, job: Job) -> Job:
        """The job of a slide. Without the key, a name by hash is taken from the report."""
        row = self.rows.get(name)
        if job.name or not self.naming.lacks_key or row is None or not is_hashed(row.summary):
            return job
        return replace(job, output=self.folder / row.summary, name=row.summary.removesuffix(SUMMARIES.suffix))

    def _state(self, name: str, job: Job) -> SlideState:
        """The state of one slide; `name` is that in reports."""
        row = self.rows.get(name)
        own = job.output.relative_to(self.folder).as_posix()
        summary = row.summary if row is not None and row.summary else (own if job.output.is_file() else "")
        there = bool(summary) and (self.folder / summary).is_file()
        verdict = row.verdict if row is not None else None

        def found(state: str, reason: str = "", message: str = "") -> SlideState:
            kept = summary if there else ""
            return SlideState(
                source=name,
                state=state,
                reason=reason,
                message=message,
                summary=kept,
                verdict=verdict,
            )

        if not job.name and self.naming.by == MANIFEST and not self.manifest.names_slides_in(Path(name)):
            missing = outcome_of(unnamed(name), name)
            return found(failure(missing, self.manifest), UnnamedError.reason, missing.message)
        if row is not None and row.status == NOT_MADE:
            state = failure(row, self.manifest)
            if state == KNOWN and has_changed(job.source, row):
                return found(NEW, "the slide changed", f"it failed before: {row.reason}")
            # Without the size nobody knows whether it is the slide that somebody has looked at.
            return found(FAILED if row.bytes_in is None else state, row.reason, row.message)
        if row is not None and row.status == LEFT_OUT and row.reason != AS_BEFORE:
            if has_changed(job.source, row):
                return found(NEW, "the slide changed", f"it was left out before: {row.reason}")
            return found(SKIPPED, row.reason, row.message)
        if not there:
            return found(LOST, "its summary is missing") if summary else found(NEW)
        state, reason, message, attributes = self._staleness(name, job, self.folder / summary)
        if attributes is not None:
            judged = judge_again(attributes, self.thresholds)
            verdict = judged.verdict if judged is not None else None
        if state == UP_TO_DATE and verdict not in (None, PASS):
            state = IN_REVIEW
        return found(state, reason, message)

    def _staleness(self, name: str, job: Job, summary: Path) -> tuple[str, str, str, Attributes | None]:
        """State, reason, message, and what the summary says where it had to be opened."""
        outcome = self.ledger.known.get(name)
        record = outcome.record if outcome is not None else None
        attributes = None
        moved = record is None or source_state(job.source) != record.source
        rewritten = record is None or state_of(summary)[:2] != (record.output_bytes, record.output_modified)
        is_present = record is not None and not older_format(record, None)
        redefined = record is None or (is_present and fingerprint_of(settings_in(record), job) != record.fingerprint)
        if self.check or moved or rewritten or redefined:
            try:
                attributes = summary_attributes(summary, self.check)
            except (SummaryError, OSError) as error:
                return LOST, "its summary cannot be read", str(error), None
            if attributes is None:
                return LOST, "its summary is damaged", "run wsisum verify on it", None
        if before := older_format(record, attributes):
            return STALE, f"format {before} -> {SUMMARIES.version}", "", attributes
        if attributes is not None and attributes.trimmed_from is not None:
            return STALE, "trimmed since it was made", "", attributes
        if attributes is not None and redefined and (words := redefinition(job, summary, attributes)):
            return STALE, words, "", attributes
        if attributes is not None and rewritten and (found := self._changed_options(job, attributes)):
            return STALE, "other options or models", ", ".join(found), attributes
        if attributes is not None and moved:
            changed = self._source_change(job.source, outcome, attributes)
            if changed is not None:
                return *changed, attributes
        if record is not None and self.settings and settings_in(record) != self.settings:
            words = self._options(settings_in(record), job, summary)
            return STALE, "other options or models", words, attributes
        return UP_TO_DATE, "", "", attributes

    def _source_change(
        self, source: Source, outcome: Outcome | None, attributes: Attributes
    ) -> tuple[str, str, str] | None:
        """Whether a slide whose files are not as recorded has changed; None if it has not."""
        wanted = attributes.source
        try:
            size, modified = source.bytes, telling_time(source)
            if size != wanted.bytes:
                return STALE, "the slide changed", f"it had {wanted.bytes} bytes and now has {size}"
            known = None if outcome is None or modified is None else (outcome.sha256, outcome.modified)
            if known == (wanted.sha256, modified):
                return None
            if not self.check:
                return UNCHECKED, TOUCHED, "its size is as it was; wsisum compress or --check compares the content"
            same = source.sha256 == wanted.sha256
        except OSError as error:
            return FAILED, "file system", error.strerror or type(error).__name__
        return None if same else (STALE, "the slide changed", "its size is as it was, its content is not")

    def _options(self, settings: str, job: Job, summary: Path) -> str:
        """How the options of a summary differ from those of the last run, in words; of each kind one is opened."""
        if settings not in self._words:
            attributes = summary_attributes(summary, False)
            found = self._changed_options(job, attributes) if attributes is not None else []
            self._words[settings] = ", ".join(found)
        return self._words[settings]

    def _changed_options(self, job: Job, attributes: Attributes) -> list[str]:
        """Each option, and the encoder, that differs from the last run's; none where that does not say."""
        facts = self.report.facts if self.report is not None else {}
        options, encoder = facts.get("options"), facts.get("encoder_sha256")
        if not isinstance(options, dict):
            return []
        request = Request(self.archive, self.folder, RecordedOptions(options), "")
        found = changed_options(request, job, attributes)
        computed = isinstance(attributes.features, ComputedFeatures)
        return [
            *found,
            *(["another encoder"] if computed and encoder and encoder != attributes.features_encoder else []),
        ]

    def orphans(self) -> Iterator[Orphan]:
        """Summaries that belong to no slide where the archive has it now."""
        by_summary = {row.summary: row for row in self.rows.values() if row.summary}
        by_size: dict[int, list[str]] = {}
        for name, source in self.sources.items():
            try:
                by_size.setdefault(source.bytes, []).append(name)
            except OSError:
                continue
        for path in summary_files(self.folder):
            if path in self.claimed:
                continue
            if path not in by_summary and self.naming.lacks_key and is_hashed(path):
                continue  # it may belong to a slide
            before = by_summary[path].source if path in by_summary else ""
            try:
                attributes = summary_attributes(self.folder / path, False)
            except (SummaryError, OSError) as error:
                yield Orphan(path, before, UNREADABLE, None, None, str(error))
                continue
            assert attributes is not None
            at = self._find(attributes, by_size)
            yield Orphan(path, before, RENAMED if at else GONE, at, attributes)

    def undecided(self) -> Iterator[SlideState]:
        """Summaries that no report has: only the key tells whether they belong to slides of the archive."""
        known = {row.summary for row in self.rows.values()} | self.claimed
        for path in summary_files(self.folder) if self.naming.lacks_key else ():
            if path not in known and is_hashed(path):
                yield SlideState(source="", state=UNCHECKED, reason=NO_KEY, summary=path)

    def _find(self, attributes: Attributes, by_size: Mapping[int, list[str]]) -> str | None:
        """Where the archive has the slide of a summary, by content. Only slides of its size are hashed."""
        for name in by_size.get(attributes.source.bytes, []):
            try:
                if self._sha256(name) == attributes.source.sha256:
                    return name
            except OSError:
                continue
        return None

    def _sha256(self, name: str) -> str:
        """Of a slide; the recorded one where its files are as they were when that was taken."""
        source, known = self.sources[name], self.ledger.known.get(name)
        record = known.record if known is not None else None
        if known is not None and known.sha256 and record is not None and record.source == source_state(source):
            return known.sha256
        return source.sha256


@dataclass(frozen=True)
class Orphan:
    """A summary whose slide is not where it was."""

    summary: str  # path within the folder
    source: str  # where its slide was; empty if unknown
    reason: str
    found_at: str | None
    attributes: Attributes | None
    message: str = ""


@dataclass(frozen=True)
class RecordedOptions:
    """The options of a run as its report has them."""

    options: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return dict(self.options)


def failure(row: Outcome, manifest: Manifest = NOTHING_GIVEN) -> str:
    """Whether the manifest knows of a failure; without one, whether that of the last run did."""
    known = acknowledge(replace(row, known=False), manifest).known if manifest.entries else row.known
    return KNOWN if known else FAILED


def has_changed(source: Source, row: Outcome) -> bool:
    """Whether the size or time of a slide is not that in its row; False where the row has neither."""
    try:
        sizes, times = (row.bytes_in, source.bytes), (row.modified, source.modified)
    except OSError:
        return False
    return any(before is not None and before != now for before, now in (sizes, times))


def redefinition(job: Job, summary: Path, attributes: Attributes) -> str:
    """What the manifest says of a slide that its summary does not; empty if nothing.

    --mpp and given features of the run are not known here, so they are not compared.
    """
    source = attributes.source
    mask = sha256_of(job.mask) if job.mask is not None else None
    if source.name != as_text(job.name) or source.image != job.image or summary != job.output:
        return "another name"
    if (job.mpp_wins and source.mpp != job.mpp) or (not job.mpp_wins and source.mpp_source == FROM_MANIFEST):
        return "another pixel size"
    return "another mask" if attributes.options.mask_sha256 != mask else ""


def summary_attributes(path: Path, check: bool) -> Attributes | None:
    """What a summary says of itself; None where `check` finds it damaged. Raises SummaryError."""
    if check and not is_whole(path):
        return None
    with open_summary(path) as summary:
        return summary.record


def older_format(record: Record | None, attributes: Attributes | None) -> str:
    """The format of a summary that is older than the present one; empty for the present one."""
    if attributes is not None:
        is_present = attributes.format_version == SUMMARIES.version and not lacks_keys(attributes)
        return "" if is_present else attributes.migrated_from or attributes.format_version
    version = SUMMARIES.version if record is None else version_in(record)
    return "" if version == SUMMARIES.version else version


def read_status(
    folder: Path,
    archive: Path | None,
    manifest: Manifest,
    check: bool = False,
    asked: Naming | None = None,
    released: Mapping[str, str] | None = None,
) -> Status:
    """The state of a folder of summaries. `asked` is how they are said to be named; None: as the runs recorded it.

    `released`: slides that a retention plan lets go, by sha256. When they are gone, their summaries are no orphans.

    Raises UsageError where there is none, or no slide in the archive, or where they are named in another way.
    """
    if archive is None:
        ledger = Ledger(folder, SUMMARIES.noun)
        report = read_state(folder, SUMMARIES.noun, ledger.history)
        if report is None and not summary_files(folder):
            raise UsageError(f"{folder.name}: expected the output of wsisum compress, found no report and no summary")
        slides = list(reported_states(folder, report))
    else:
        found = Comparison(folder, archive, manifest, check, asked)
        found.compare()
        ledger, report = found.ledger, found.report
        orphans = list(found.orphans())
        slides = [*found.states.values(), *(orphan_state(one, released or {}) for one in orphans), *found.undecided()]
        slides += lost_summaries(found, orphans, released or {})
    slides.sort(key=lambda slide: (slide.source, slide.summary))
    counts = Counter(slide.state for slide in slides)
    return Status(
        compared=archive is not None,
        run=None if report is None else dict(report.facts),
        counts={name: counts.get(name, 0) for name in STATES},
        running=sum(not run.closed for run in ledger.history.runs),
        slides=slides,
    )


def orphan_state(orphan: Orphan, released: Mapping[str, str]) -> SlideState:
    retired = orphan.reason == GONE and orphan.attributes is not None and orphan.attributes.source.sha256 in released
    where = f"its slide is {orphan.found_at} now" if orphan.found_at else "its slide is nowhere in the archive"
    return SlideState(
        source=orphan.source,
        state=RETIRED if retired else ORPHANED,
        reason="as planned" if retired else orphan.reason,
        message=orphan.message or where,
        summary=orphan.summary,
        verdict=orphan.attributes.verdict.verdict if orphan.attributes and orphan.attributes.verdict else None,
        found_at=orphan.found_at,
    )


def lost_summaries(found: Comparison, orphans: Sequence[Orphan], released: Mapping[str, str]) -> Iterator[SlideState]:
    """Slides that a plan let go, that are gone, and that no summary is left of."""
    there = {orphan.attributes.source.sha256 for orphan in orphans if orphan.attributes is not None}
    there |= {row.sha256 for name, row in found.rows.items() if name in found.states and row.sha256 is not None}
    for sha256, slide in released.items():
        if slide not in found.sources and sha256 not in there:
            message = "a plan let its slide go, and nothing is left of it here; restore one of them"
            yield SlideState(source=slide, state=LOST, reason="its summary is missing", message=message)


def reported_states(folder: Path, report: Report | None) -> Iterator[SlideState]:
    """States as far as a folder says without its archive."""
    rows = [] if report is None else report.outcomes
    for row in rows:
        state, reason = UNCHECKED, NO_ARCHIVE
        if row.status == NOT_MADE:
            state, reason = failure(row), row.reason
        elif row.status == LEFT_OUT and row.reason != AS_BEFORE:
            state, reason = SKIPPED, row.reason
        elif not (folder / row.summary).is_file():
            state, reason = LOST, "its summary is missing"
        elif row.verdict not in (None, PASS):
            state, reason = IN_REVIEW, ""
        yield SlideState(
            source=row.source,
            state=state,
            reason=reason,
            summary=row.summary,
            verdict=row.verdict,
        )
    for source in [] if report is None else report.not_tried:
        yield SlideState(source=source, state="new", reason="not tried")
    listed = {row.summary for row in rows}
    for path in summary_files(folder):
        if path not in listed:
            yield SlideState(source="", state="unchecked", reason=NO_ARCHIVE, summary=path)
