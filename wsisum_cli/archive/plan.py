"""A tree of slides -> what to do with each: its job, or the outcome it has already."""

from __future__ import annotations

import contextlib
import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsisum_cli.archive.outcome import FAILED, SKIPPED, UP_TO_DATE, Outcome
from wsisum_cli.errors import UsageError, WsisumError
from wsisum_cli.features.encode import find_features
from wsisum_cli.models.choice import NO_CHOICES, Choices
from wsisum_cli.pipeline.compress import Job
from wsisum_cli.pipeline.product import FEATURES, SUMMARIES, Product
from wsisum_cli.slides.slide import PLAUSIBLE_MPP, SLIDE_SUFFIXES
from wsisum_cli.slides.source import Source, companion, find_source, group_series, output_stem, sha256_of
from wsisum_cli.summary.reader import open_summary

MAX_NAME = 200  # characters; file systems take 255 bytes


@dataclass(frozen=True)
class Entry:
    """What a manifest says of one slide."""

    mpp: float | None = None
    mask: Path | None = None
    name: str | None = None


@dataclass
class Manifest:
    """Rows of a manifest by slide: a path within the archive, or a file name."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)

    def entry(self, relative: Path) -> Entry:
        for key in (relative.as_posix(), relative.name):
            if key in self.entries:
                self.unused.discard(key)
                return self.entries[key]
        return Entry()


@dataclass(frozen=True)
class Plan:
    """All slides of an archive in the order of their paths."""

    jobs: list[tuple[str, Job]]  # path within the archive, and what to do
    outcomes: list[Outcome]  # of what needs no work
    other_files: int  # in the archive that do not look like slides
    task: str = SUMMARIES.task  # what the jobs do
    models: str = ""  # that see whole slides, in words; empty where the jobs use none


@dataclass(frozen=True)
class Request:
    """What the user asked for, as far as it decides what is to be done."""

    source: Path
    output: Path
    options: Any  # those of the product
    encoder_sha256: str
    mpp: float | None = None
    features: Path | None = None
    force: bool = False
    product: Product = SUMMARIES
    choices: Choices = NO_CHOICES


def read_manifest(path: Path) -> Manifest:
    """CSV with the columns slide, mpp, mask, name; all but the first may be missing or empty.

    A mask's path is relative to the manifest. Raises UsageError.
    """
    entries: dict[str, Entry] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            known = {"slide", "mpp", "mask", "name"}
            if "slide" not in (reader.fieldnames or ()) or set(reader.fieldnames or ()) - known:
                found = ", ".join(reader.fieldnames or ()) or "none"
                raise UsageError(f"{path.name}: expected the columns slide, mpp, mask, name; found {found}")
            for row in reader:
                slide = (row["slide"] or "").strip()
                if not slide or slide in entries:
                    what = f"{slide} is named twice" if slide else "no slide is named"
                    raise UsageError(f"{path.name}, line {reader.line_num}: {what}")
                entries[slide] = manifest_entry(row, path, reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path.name}: the manifest cannot be read ({error})") from error
    return Manifest(entries, set(entries))


def manifest_entry(row: Mapping[str, str | None], path: Path, line: int) -> Entry:
    values = {key: (value or "").strip() for key, value in row.items() if key}
    mask = path.parent / values["mask"] if values.get("mask") else None
    if mask is not None and not mask.is_file():
        raise UsageError(f"{path.name}, line {line}: there is no mask {values['mask']}")
    name = values.get("name") or None
    if name and (set(name) & set("/\\") or name.startswith(".") or not name.isprintable() or len(name) > MAX_NAME):
        raise UsageError(f"{path.name}, line {line}: the name {name!r} is no plain file name; give another")
    try:
        mpp = float(values["mpp"]) if values.get("mpp") else None
    except ValueError as error:
        raise UsageError(f"{path.name}, line {line}: the mpp {values['mpp']!r} is not a number") from error
    low, high = PLAUSIBLE_MPP
    if mpp is not None and not low <= mpp <= high:
        raise UsageError(f"{path.name}, line {line}: a pixel size of {mpp:g} µm is outside {low:g} to {high:g}")
    return Entry(mpp, mask, name)


def plan_archive(request: Request, manifest: Manifest, known: Mapping[str, Outcome]) -> Plan:
    """`known` are the outcomes of the last run by path, which spare hashing slides that have not changed.

    Raises UsageError when there is nothing at the source.
    """
    if request.source.is_dir() and request.source.resolve() == request.output.resolve():
        raise UsageError(
            f"{request.output}: slides and {request.product.plural} would share this folder; choose another --output"
        )
    sources, outcomes, other_files = find_slides(request.source, request.output)
    if not sources and not outcomes:
        raise UsageError(f"{request.source}: no slides found ({other_files} other files)")
    jobs: list[tuple[str, Job]] = []
    root = request.source if request.source.is_dir() else request.source.parent
    for relative, job in make_jobs(request, manifest, root, sources):
        done = None if request.force else up_to_date(request, relative, job, known.get(relative))
        if done is None:
            jobs.append((relative, job))
        else:
            outcomes.append(done)
    outcomes.sort(key=lambda outcome: outcome.source)
    models = describe_models(request) if request.product is SUMMARIES else ""
    return Plan(jobs, outcomes, other_files, request.product.task, models)


def find_slides(source: Path, output: Path) -> tuple[list[Source], list[Outcome], int]:
    """Slides below `source`, outcomes of what looks like slides and is not, and the number of other files."""
    if source.is_file():
        return [find_source(source)], [], 0
    if not source.is_dir():
        raise UsageError(f"{source}: {'not a file or folder' if source.exists() else 'no such file or folder'}")
    sources: list[Source] = []
    outcomes: list[Outcome] = []
    other_files = 0
    for folder, names in walk(source, output, outcomes):
        named = [folder / name for name in names if Path(name).suffix.lower() in SLIDE_SUFFIXES]
        other_files += len(names) - len(named)
        slides = [path for path in named if path.is_file() or not path.exists()]
        for path in set(named) - set(slides):  # reading one would wait forever
            name, message = path.relative_to(source).as_posix(), f"{path.name}: a pipe, socket or device, not a file"
            outcomes.append(Outcome(name, SKIPPED, "not a slide", message))
        series = group_series(path for path in slides if path.suffix.lower() == ".dcm")
        sources += [Source(first, (first, *others)) for first, *others in series]
        sources += [find_source(path) for path in slides if path.suffix.lower() != ".dcm"]
        outcomes += outcomes_of_parts(series, source)
    return sorted(sources, key=lambda found: found.path), outcomes, other_files


def describe_models(request: Request) -> str:
    """One line for a log."""
    found = [choice for choice in request.choices.named().values() if choice is not None and not choice.named]
    where = " (where the features are of their encoder)" if request.features is not None and found else ""
    return request.choices.describe() + where


def walk(root: Path, output: Path, outcomes: list[Outcome]) -> Iterator[tuple[Path, list[str]]]:
    """Folders and their file names, sorted; follows links to folders once, leaves out hidden names and `output`.

    Folders that hold an MRXS's pixels, and those that cannot be listed, become outcomes.
    """

    def note(error: OSError) -> None:
        name = Path(error.filename or "").relative_to(root).as_posix()
        outcomes.append(Outcome(name, FAILED, "file system", f"the folder cannot be listed ({error.strerror})"))

    seen = {output.resolve()}
    for name, folders, files in os.walk(root, onerror=note, followlinks=True):
        folder = Path(name)
        if folder.resolve() in seen:
            folders.clear()
            continue
        seen.add(folder.resolve())
        companions = {c.name: file for file in files if (c := companion(folder / file))}
        for inside in sorted(companions.keys() & set(folders)):
            relative = (folder / inside).relative_to(root).as_posix()
            message = f"holds the pixels of {companions[inside]}"
            outcomes.append(Outcome(relative + "/", SKIPPED, "companion folder", message))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in companions)
        yield folder, sorted(file for file in files if not file.startswith("."))


def outcomes_of_parts(series: list[list[Path]], root: Path) -> list[Outcome]:
    """Of DICOM files that belong to a slide whose first file has its own outcome."""
    return [
        Outcome(path.relative_to(root).as_posix(), SKIPPED, "part of a slide", f"belongs to {first.name}")
        for first, *others in series
        for path in others
    ]


def make_jobs(request: Request, manifest: Manifest, root: Path, sources: list[Source]) -> Iterator[tuple[str, Job]]:
    """Each slide's job; outputs mirror the tree, and slides that would share a name keep their suffixes."""
    stems = Counter(folded(output_stem(source.path.relative_to(root))) for source in sources)
    taken: dict[str, str] = {}
    for source in sources:
        relative = source.path.relative_to(root)
        entry = manifest.entry(relative)
        stem = output_stem(relative)
        name = relative.with_name(entry.name) if entry.name else (relative if stems[folded(stem)] > 1 else stem)
        if folded(name) in taken and not entry.name:
            name = relative
        if folded(name) in taken:
            other = taken[folded(name)]
            raise UsageError(f"{other} and {relative} would share one output; name them apart in --manifest")
        taken[folded(name)] = relative.as_posix()
        output = request.output / name.with_name(name.name + request.product.suffix)
        yield (
            relative.as_posix(),
            Job(
                source,
                output,
                entry.name or relative.name,
                entry.mpp or request.mpp,
                entry.mask,
                features_for(request, name),
            ),
        )


def features_for(request: Request, name: Path) -> Path | None:
    """The file that lies where `wsisum features` puts it, else the folder of all."""
    if request.features is None:
        return None
    mirrored = request.features / name.with_name(name.name + FEATURES.suffix)
    return mirrored if mirrored.is_file() else request.features


def folded(path: Path) -> str:
    """What file systems that ignore case and composition of letters take for the same name."""
    return unicodedata.normalize("NFC", path.as_posix()).casefold()


def up_to_date(request: Request, relative: str, job: Job, known: Outcome | None) -> Outcome | None:
    """The outcome of a slide whose output is whole and what this run would make; None when it is to be made.

    Another program's file of that name is nothing to write over: that slide fails. So does one that cannot be read and
    that no run here is known to have made; another program may be writing it.
    """
    if not job.output.is_file():
        return None
    try:
        attributes = request.product.provenance(job.output)
    except (WsisumError, OSError, ValueError):
        if request.product.ours_alone or (known is not None and known.status != FAILED):
            return None
        return not_ours(relative, job, "cannot be read, and may be another program's")
    if not attributes:
        return not_ours(relative, job, "made by another program")
    try:
        if not (is_same(request, job, attributes, known) and request.product.is_whole(job.output)):
            return None
        return outcome_as_before(relative, request, job, attributes, known)
    except (WsisumError, OSError, KeyError, TypeError):
        return None  # damaged, or of another version: it is made again


def not_ours(relative: str, job: Job, why: str) -> Outcome:
    message = f"{job.output.name}: {why}; choose another --output, or --force replaces it"
    return Outcome(relative, FAILED, "another program's file", message)


def outcome_as_before(
    relative: str, request: Request, job: Job, attributes: Mapping[str, Any], known: Outcome | None
) -> Outcome:
    return Outcome(
        relative,
        SKIPPED,
        UP_TO_DATE,
        bytes_in=attributes["source"]["bytes"],
        bytes_out=job.output.stat().st_size,
        sha256=attributes["source"]["sha256"],
        modified=job.source.modified,
        seconds=known.seconds if known else {},
        **request.product.named(job.output.relative_to(request.output).as_posix()),
        **request.product.figures(attributes),
    )


def is_same(request: Request, job: Job, attributes: Mapping[str, Any], known: Outcome | None) -> bool:
    """Whether an output was made from this source, with these models and options; cheap comparisons first."""
    source = attributes["source"]
    wanted = {**request.options.as_dict(), "mask_sha256": sha256_of(job.mask) if job.mask else None}
    if (
        attributes["format_version"] != request.product.version
        or attributes["options"] != wanted
        or attributes.get("trimmed_from") is not None  # cut down since it was made
        or source["name"] != job.name
        or source["bytes"] != job.source.bytes
        or (source["mpp_source"] == "given" and source["mpp"] != job.mpp)
    ):
        return False
    given = attributes["features"]["origin"] == "given"
    if job.features is not None:
        path = find_features(job.features, job.source.path)
        stated = attributes["features"]
        if (stated.get("sha256"), stated.get("patch_encoder_sha256")) != (sha256_of(path), request.encoder_sha256):
            return False
    elif given or attributes["encoder"]["sha256"] != request.encoder_sha256:
        return False
    if not request.choices.made(attributes):
        return False
    if known is not None and (known.sha256, known.modified) == (source["sha256"], job.source.modified):
        return True
    return bool(source["sha256"] == job.source.sha256)


class SourceIndex:
    """Finds the slides that summaries were made from, in an archive that is walked once."""

    def __init__(self, source: Path) -> None:
        self._single = source if source.is_file() else None
        sources = [] if self._single else find_slides(source, source / "no output here")[0]
        self._by_size: dict[int, list[Source]] = {}
        for found in sources:
            with contextlib.suppress(OSError):
                self._by_size.setdefault(found.bytes, []).append(found)

    def find(self, summary: str | Path) -> Path | None:
        """By size, then content; None where the archive has no such slide, or the summary does not say."""
        if self._single is not None:
            return self._single
        try:
            with open_summary(summary) as opened:
                wanted = opened.attributes["source"]
                fitting = self._by_size.get(wanted["bytes"], [])
                same = [found for found in fitting if found.sha256 == wanted["sha256"]]
        except (WsisumError, OSError, KeyError, TypeError):
            return None
        return same[0].path if same else None
