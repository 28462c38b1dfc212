"""Plan a run: each slide of the archive gets a job, or an outcome if there is nothing to do."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wsisum_cli.archive.manifest import Entry, Manifest
from wsisum_cli.archive.outcome import FAILED, SKIPPED, UP_TO_DATE, Outcome, outcome_of
from wsisum_cli.archive.remote.here import HERE, Outputs
from wsisum_cli.archive.remote.sites import Archive
from wsisum_cli.archive.scope.filters import EVERYTHING, Filter, file_of
from wsisum_cli.archive.scope.naming import BY_STEM, HASH, Naming, unnamed
from wsisum_cli.archive.state.names import refuse_other_hashes, refuse_other_naming
from wsisum_cli.archive.state.record import (
    fingerprint_of,
    is_recorded,
    record_of,
    settings_of,
    source_state,
    telling_time,
)
from wsisum_cli.archive.state.shard import Shard
from wsisum_cli.archive.walk import find_slides, refuse_summaries_alone
from wsisum_cli.errors import AccessError, UnreachableError, UsageError, WsisumError
from wsisum_cli.features.encode import find_features
from wsisum_cli.models.choice import NO_MODEL_CHOICES, ModelChoices
from wsisum_cli.pipeline.job import UNASKED, Job
from wsisum_cli.pipeline.product import FEATURES, SUMMARIES, Product, Provenance
from wsisum_cli.slides.slide import FROM_MANIFEST, GIVEN
from wsisum_cli.slides.source import Source, as_text, output_stem, sha256_of, state_of
from wsisum_cli.summary.attributes import VERSIONS, Attributes, ComputedFeatures
from wsisum_cli.summary.attributes import Source as SourceRecord

#: Why an output is made again.
CHANGED, DAMAGED = "the slide changed", "the output is damaged"
#: Options by another name than that on the command line.
OPTION_NAMES = {
    "mask_sha256": "mask",
    "patch_size_level0": "patch-size-level0",
    "max_bytes": "max-bytes",
    "max_keep": "max-keep",
    "tissue_features": "tissue-features",
}
UNKNOWN = object()
FIRST_COMPLETE = VERSIONS.index("1.4")  # the first format with all keys of the present one


@dataclass(frozen=True)
class Plan:
    """All slides of an archive in the order of their paths."""

    jobs: list[tuple[str, Job]]  # path within the archive, job
    outcomes: list[Outcome]  # of slides that need no work
    other_files: int  # files in the archive that do not look like slides
    task: str = SUMMARIES.task  # verb for one job
    models: str = ""  # description of the whole-slide models; empty if none are used
    taken: frozenset[str] = frozenset()  # folded names of all outputs, within the output folder
    again: Mapping[str, int] = field(default_factory=dict)  # why outputs are made again -> number of slides
    recorded: Collection[str] = frozenset()  # slides that are up to date by the journal
    left_out: frozenset[str] = frozenset()  # slides that the filter left out by their names
    beyond: tuple[str, ...] = ()  # slides that need work, but are beyond the limit
    idle: tuple[str, ...] = ()  # globs that match nothing, a clause each

    def leaves_out(self, name: str) -> bool:
        """Whether the filter left out a slide, or the file that holds it."""
        return not self.left_out.isdisjoint((name, file_of(name)))

    def is_beyond(self, name: str) -> bool:
        return not self._beyond.isdisjoint((name, file_of(name)))

    @cached_property
    def _beyond(self) -> frozenset[str]:
        return frozenset(self.beyond)


@dataclass(frozen=True)
class Request:
    """The user's request, as far as planning needs it."""

    source: Path
    output: Path
    options: Any  # the product's options
    encoder_sha256: str
    mpp: float | None = None
    features: Path | None = None
    force: bool = False
    product: Product = SUMMARIES
    choices: ModelChoices = NO_MODEL_CHOICES
    check: bool = False  # open every output, whatever the journal says of it
    shard: Shard | None = None  # of the archive, which alone is worked on
    filter: Filter = EVERYTHING
    archive: Archive | None = None  # where the slides come from if they are remote
    outputs: Outputs = HERE
    naming: Naming = BY_STEM

    @property
    def settings(self) -> str:
        """What all slides have in common, as a part of their fingerprints."""
        return settings_of(self.product.version, self.options.as_dict(), self.encoder_sha256, self.choices)

    @property
    def shown(self) -> str:
        """The archive in messages."""
        return str(self.source) if self.archive is None else self.archive.shown


def plan_archive(request: Request, manifest: Manifest, known: Mapping[str, Outcome]) -> Plan:
    """Plan all jobs. `known` maps paths to the last run's outcomes, so that unchanged slides are not hashed again.

    Raises UsageError when the source has no slides, and when earlier runs named their outputs in another way.
    """
    if request.source.is_dir() and request.source.resolve() == request.output.resolve():
        raise UsageError(
            f"{request.output}: slides and {request.product.plural} would share this folder; choose another --output"
        )
    refuse_other_naming(request.output, request.naming)
    sources, outcomes, other_files = find_slides(request.source, request.output)
    if request.archive is not None:
        sources = request.archive.attach(sources)
        outcomes += request.archive.outcomes
    refuse_summaries_alone(request.shown, sources, outcomes)
    if not sources and not outcomes:
        raise UsageError(f"{request.shown}: no slides found ({other_files} other files)")
    root = request.source if request.source.is_dir() else request.source.parent
    picked = request.filter.apply(sources, outcomes, root, request.shown)
    draft = Draft(request, manifest, known, picked.outcomes)
    clashes: dict[str, Outcome] = {}
    for relative, bare in make_jobs(request, manifest, root, sources, clashes):
        draft.take_name(bare)
        if relative not in picked.left_out and is_in_shard(request, relative):
            draft.decide(relative, bare)
    draft.refuse(clashes)
    if request.naming.by == HASH:
        refuse_other_hashes(request.output, draft.taken)
    outcomes = draft.outcomes if request.shard is None else request.shard.part_of(draft.outcomes, root, sources)
    within = draft.jobs[: request.filter.limit]
    return Plan(
        within,
        sorted(outcomes, key=lambda outcome: outcome.source),
        other_files,
        request.product.task,
        describe_models(request) if request.product is SUMMARIES else "",
        frozenset(draft.taken),
        draft.again,
        draft.recorded,
        frozenset(name for name in picked.left_out if is_in_shard(request, name)),
        tuple(relative for relative, _ in draft.jobs[len(within) :]),
        tuple(picked.idle),
    )


@dataclass
class Draft:
    """A plan while its slides are decided on one after another."""

    request: Request
    manifest: Manifest
    known: Mapping[str, Outcome]
    outcomes: list[Outcome]
    jobs: list[tuple[str, Job]] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    recorded: set[str] = field(default_factory=set)
    again: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._settings = self.request.settings
        self._inside = len(os.fspath(self.request.output / "_")) - 1

    def take_name(self, job: Job) -> None:
        """Note the name of the output, whether or not this run makes it."""
        if job.name:
            self.taken.add(folded_text(os.fspath(job.output)[self._inside :].replace(os.sep, "/")))

    def refuse(self, clashes: Mapping[str, Outcome]) -> None:
        """Let slides that would share an output fail."""
        if clashes:
            decided = [relative for relative, _ in self.jobs] + [outcome.source for outcome in self.outcomes]
            self.jobs = [job for job in self.jobs if job[0] not in clashes]
            self.outcomes = [outcome for outcome in self.outcomes if outcome.source not in clashes]
            self.outcomes += [clashes[relative] for relative in decided if relative in clashes]
            self.recorded -= clashes.keys()

    def decide(self, relative: str, bare: Job) -> None:
        """Add the job of a slide, or its outcome where there is nothing to do."""
        if not bare.name and not self.manifest.names_slides_in(Path(relative)):
            self.outcomes.append(outcome_of(unnamed(relative), relative))
            return
        job = replace(bare, fingerprint=fingerprint_of(self._settings, bare))
        before = self.known.get(relative)
        found = [] if self.request.force else look_up(self.request, relative, job, before)
        if not isinstance(found, Outcome):
            self.jobs.append((relative, job))
            self.again.update(found)
            return
        if before is not None and before.record is not None and found.record is before.record:
            self.recorded.add(relative)
            found = found.without_record()
        self.outcomes.append(found)


def is_in_shard(request: Request, relative: str) -> bool:
    """Whether this run is to look at a slide."""
    return request.shard is None or request.shard.holds(relative)


def describe_models(request: Request) -> str:
    """Describe the models in one line for the log."""
    found = [choice for choice in request.choices.named().values() if choice is not None and not choice.named]
    where = " (where the features match their encoder)" if request.features is not None and found else ""
    return request.choices.describe() + where


def make_jobs(
    request: Request, manifest: Manifest, root: Path, sources: list[Source], clashes: dict[str, Outcome]
) -> Iterator[tuple[str, Job]]:
    """Yield a job per slide. Where `request.naming` has no name for a slide, the job's name is empty.

    Slides that would share one output are added to `clashes`, by path: once all jobs are there, all of them are known.
    """
    relatives = [source.path.relative_to(root) for source in sources]
    entries = [manifest.entry(relative) for relative in relatives]
    private, names = request.naming.is_private, Names(clashes)
    places = (
        flat_places(request.naming, relatives, entries, names)
        if private
        else mirrored_places(relatives, entries, names)
    )
    for source, relative, entry, place in zip(sources, relatives, entries, places, strict=True):
        name = entry.name or relative.name
        if private:
            name = "" if place is None else place.name
        yield (
            relative.as_posix(),
            Job(
                source,
                request.output if place is None else request.output / f"{place}{request.product.suffix}",
                name,
                entry.mpp or request.mpp,
                entry.mask,
                None if place is None else features_for(request, place),
                mpp_wins=entry.mpp is not None,
            ),
        )


def mirrored_places(relatives: list[Path], entries: list[Entry], names: Names) -> Iterator[Path]:
    """Paths of outputs within their folder, without suffix, that mirror the tree.

    Outputs that would collide keep the suffixes of their slides.
    """
    folded = [folded_name(output_stem(relative)) for relative in relatives]
    count = Counter(folded)
    for relative, entry, short in zip(relatives, entries, folded, strict=True):
        stem = output_stem(relative)  # again: of a hundred thousand slides all at once take much memory
        name = relative.with_name(entry.name) if entry.name else (relative if count[short] > 1 else stem)
        unique = short if name is stem else folded_name(name)
        if unique in names.taken and not entry.name:
            name, unique = relative, folded_name(relative)
        names.claim(unique, relative)
        yield name


def flat_places(naming: Naming, relatives: list[Path], entries: list[Entry], names: Names) -> Iterator[Path | None]:
    """Paths of outputs that lie in one folder and say nothing of the tree; None for a slide without a name."""
    for relative, entry in zip(relatives, entries, strict=True):
        name = naming.private_name(relative.as_posix(), entry)
        if name:
            names.claim(folded_text(name), relative)
        yield Path(name) if name else None


@dataclass
class Names:
    """The folded names of outputs, and the slides that would share one: none of these may have it."""

    clashes: dict[str, Outcome]  # by the path of the slide
    taken: dict[str, Path] = field(default_factory=dict)

    def claim(self, unique: str, relative: Path) -> None:
        """Note that a slide takes the name of an output."""
        other = self.taken.setdefault(unique, relative)
        if other is not relative:
            self.clashes[other.as_posix()] = name_taken(other, relative)
            self.clashes[relative.as_posix()] = name_taken(relative, other)


def name_taken(relative: Path, other: Path) -> Outcome:
    """The outcome of a slide whose output would be another one's, on some file system or on every one."""
    which = other.name if other.name != relative.name else "a slide in another folder"
    message = f"{relative.name}: would share its output with {which}; give them different names in --manifest"
    return Outcome(relative.as_posix(), FAILED, "name taken", message)


def features_for(request: Request, name: Path) -> Path | None:
    """The feature file where `wsisum features` writes it, or else the whole features folder."""
    if request.features is None:
        return None
    mirrored = request.features / name.with_name(name.name + FEATURES.suffix)
    return mirrored if mirrored.is_file() else request.features


def folded_name(path: Path) -> str:
    """Normalize a name as file systems do that ignore case and Unicode composition."""
    return folded_text(path.as_posix())


def folded_text(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def look_up(request: Request, relative: str, job: Job, known: Outcome | None) -> Outcome | list[str]:
    """The outcome of a slide whose output is complete and matches this run; else why it must be made again.

    The reasons are empty where there is no output yet, and never name a slide.
    Another program's file is never overwritten: that slide fails. So does a slide with an unreadable output that no
    earlier run here is known to have made: another program may be writing it.
    """
    if not request.check and request.outputs.are_here and is_recorded(job, known):
        assert known is not None
        return known.as_before()
    if not request.outputs.is_there(job.output):
        return []
    before = source_state(job.source), state_of(job.output)[:2]
    try:
        attributes = request.outputs.provenance(request.product, job.output)
    except UnreachableError:
        raise
    except (WsisumError, OSError, ValueError):
        if request.product.ours_alone or (known is not None and known.status != FAILED):
            return [DAMAGED]
        return foreign_output(relative, job, "cannot be read and may belong to another program")
    if not attributes:
        return foreign_output(relative, job, "written by another program")
    try:
        if reasons := what_changed(request, job, attributes, known):
            return reasons
        if not request.outputs.is_whole(request.product, job.output):
            return [DAMAGED]
        outcome = outcome_as_before(relative, request, job, attributes, known)
        return replace(outcome, record=record_of(*before, job.fingerprint)) if request.outputs.are_here else outcome
    except (AccessError, UnreachableError):
        raise
    except (WsisumError, OSError, KeyError, TypeError):
        return [DAMAGED]


def foreign_output(relative: str, job: Job, why: str) -> Outcome:
    message = f"{job.output.name}: {why}; choose another --output, or use --force to replace it"
    return Outcome(relative, FAILED, "another program's file", message)


def outcome_as_before(
    relative: str, request: Request, job: Job, attributes: Provenance, known: Outcome | None
) -> Outcome:
    return Outcome(
        relative,
        SKIPPED,
        UP_TO_DATE,
        bytes_in=attributes.source.bytes,
        bytes_out=request.outputs.size(job.output),
        sha256=attributes.source.sha256,
        modified=telling_time(job.source),
        seconds=known.seconds if known else {},
        **request.product.named(job.output.relative_to(request.output).as_posix()),
        **request.product.figures(attributes, request.options),
    )


def has_pixel_size(source: SourceRecord, job: Job) -> bool:
    """Whether a summary has the pixel size that it would have if it were made now."""
    if job.mpp_wins:
        return bool(source.mpp == job.mpp)
    return source.mpp_source != FROM_MANIFEST and not (source.mpp_source == GIVEN and source.mpp != job.mpp)


def what_changed(request: Request, job: Job, attributes: Provenance, known: Outcome | None) -> list[str]:
    """What differs since an output was made: the format, options, models, or the slide itself; empty if nothing does.

    Cheap comparisons come first; the slide is read only if nothing else differs.
    """
    if attributes.format_version != request.product.version or lacks_keys(attributes):
        before = getattr(attributes, "migrated_from", None) or attributes.format_version
        return [f"format {before} -> {request.product.version}"]
    found = [*changed_options(request, job, attributes), *changed_features(request, job, attributes)]
    used = {name: card.sha256 for name, card in attributes.used_models.items()}
    if not request.choices.match(used, attributes.features_encoder):
        found.append("another summarizer or slide encoder")
    if attributes.trimmed_from is not None:
        found.append("trimmed since it was made")
    return found or changed_source(job, attributes.source, known)


def lacks_keys(attributes: Provenance) -> bool:
    """Whether a summary was migrated from a format that knew less than the present one."""
    return isinstance(attributes, Attributes) and attributes.revision < FIRST_COMPLETE


def changed_options(request: Request, job: Job, attributes: Provenance) -> list[str]:
    """Each option that differs, as "keep auto -> 32". Thresholds never do: the verdict is reached from the figures."""
    wanted = {**request.options.as_dict(), "mask_sha256": sha256_of(job.mask) if job.mask else None}
    made = attributes.options.model_dump(exclude_unset=True)
    for name in UNASKED:
        if made.get(name) is not None:
            wanted.setdefault(name, None)
    names = [name for name in wanted if name != "thresholds" and made.get(name, UNKNOWN) != wanted[name]]
    return [f"{OPTION_NAMES.get(name, name)} {worded(made.get(name))} -> {worded(wanted[name])}" for name in names]


def worded(value: Any) -> str:
    """An option's value; hashes are cut."""
    return "default" if value is None else f"{value!s:.12}"


def changed_features(request: Request, job: Job, attributes: Provenance) -> list[str]:
    features = attributes.features
    given = not isinstance(features, ComputedFeatures)
    if job.features is None:
        return ["another encoder"] if given or attributes.features_encoder != request.encoder_sha256 else []
    if isinstance(features, ComputedFeatures):
        return ["features are given now"]
    wanted = (sha256_of(find_features(job.features, job.source.path)), request.encoder_sha256)
    return [] if (features.sha256, features.patch_encoder_sha256) == wanted else ["other features"]


def changed_source(job: Job, source: SourceRecord, known: Outcome | None) -> list[str]:
    """The same of the slide; it is hashed only if its size and time of change do not answer the question."""
    if source.name != as_text(job.name) or source.image != job.image:
        return ["another name"]
    if not has_pixel_size(source, job):
        return ["another pixel size"]
    if source.bytes != job.source.bytes:
        return [CHANGED]
    modified = telling_time(job.source)
    if known is not None and modified is not None and (known.sha256, known.modified) == (source.sha256, modified):
        return []
    return [] if source.sha256 == job.source.sha256 else [CHANGED]
