"""Find the slides in a folder tree, and what looks like a slide but is not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wsisum_cli.archive.formats import (
    A_SUMMARY,
    FORMATS,
    PIXEL_FOLDERS,
    is_left_out,
    is_summary,
    is_zarr,
    no_slide_words,
    not_read,
    pixel_folder,
    zarr_outcome,
)
from wsisum_cli.archive.outcome import FAILED, FILE_SYSTEM, SKIPPED, Outcome
from wsisum_cli.archive.scope.filters import names_of
from wsisum_cli.errors import (
    AccessError,
    ChangedSlideError,
    RemoteError,
    SeveralSlidesError,
    UsageError,
    WsisumError,
)
from wsisum_cli.slides.dicom.series import group_series, is_beside_slide, is_dicom
from wsisum_cli.slides.slide import SLIDE_SUFFIXES, open_slide
from wsisum_cli.slides.source import WITH_OTHER_FILES, Source, companion, find_source
from wsisum_cli.summary.container import SUFFIX
from wsisum_cli.summary.reader import open_summary

#: Suffixes of files whose pixels may lie in a folder beside them.
HAVE_FOLDERS = (".mrxs", *PIXEL_FOLDERS)
#: Why further files of a slide have no summary of their own.
PART_OF_A_SLIDE, COMPANION = "part of a slide", "companion folder"
#: Reasons of outcomes that no slide has.
NO_SLIDES = (PART_OF_A_SLIDE, COMPANION, A_SUMMARY)


def find_slides(source: Path, output: Path) -> tuple[list[Source], list[Outcome], int]:
    """Slides below `source`, outcomes of what only looks like one, and the number of other files. Raises UsageError."""
    if is_summary(source):
        raise UsageError(no_slide_words(source))
    if source.is_file():
        known = not_read(source, source.name)
        return ([], [known], 0) if known else ([find_source(source)], [], 0)
    if not source.is_dir():
        raise UsageError(f"{source}: {'not a file or folder' if source.exists() else 'no such file or folder'}")
    sources: list[Source] = []
    outcomes: list[Outcome] = []
    other_files = 0
    for folder, names in walk(source, output, outcomes):
        paths = [folder / name for name in names]
        named = [path for path in paths if looks_like_slide(path)]
        foreign = [path for path in paths if suffix_of(path.name) in (*FORMATS, SUFFIX)]
        unread = [found for path in foreign if (found := not_read(path, relative_name(path, source))) is not None]
        outcomes += unread
        other_files += len(names) - len(named) - len(unread)
        slides = [path for path in named if path.is_file() or not path.exists()]
        for path in set(named) - set(slides):  # reading one would block forever
            name, message = relative_name(path, source), f"{path.name}: a pipe, socket or device, not a file"
            outcomes.append(Outcome(name, SKIPPED, "not a slide", message))
        dicom = {path for path in slides if is_dicom(path)}
        series = group_series(sorted(dicom))
        sources += [Source(first, (first, *others)) for first, *others in series]
        sources += [
            find_source(path) if suffix_of(path.name) in WITH_OTHER_FILES else Source(path, (path,))
            for path in slides
            if path not in dicom
        ]
        outcomes += part_outcomes(series, source)
    return sorted(sources, key=lambda found: found.path.parts), outcomes, other_files


def suffix_of(name: str) -> str:
    """As `Path.suffix`, in lower case; making a path of each of a hundred thousand names takes longer than the walk."""
    return os.path.splitext(name)[1].lower()


def looks_like_slide(path: Path) -> bool:
    """By its suffix; DICOM by its content, as its files need no suffix at all."""
    return suffix_of(path.name) in SLIDE_SUFFIXES or (path.is_file() and is_dicom(path))


def relative_name(path: Path, root: Path) -> str:
    """What the report calls a file or folder below `root`."""
    return path.relative_to(root).as_posix() if path != root else root.name


def walk(root: Path, output: Path, outcomes: list[Outcome]) -> Iterator[tuple[Path, list[str]]]:
    """Folders and their file names, sorted; follows links to folders once, leaves out `output` and what is hidden.

    Folders that hold the pixels of a file beside them, OME-Zarr folders, and those that cannot be listed become
    outcomes.
    """

    def note(error: OSError) -> None:
        name = Path(error.filename or "").relative_to(root).as_posix()
        outcomes.append(Outcome(name, FAILED, FILE_SYSTEM, f"the folder cannot be listed ({error.strerror})"))

    seen = {output.resolve()}
    for name, folders, files in os.walk(root, onerror=note, followlinks=True):
        folder = Path(name)
        if folder.resolve() in seen:
            folders.clear()
            continue
        seen.add(folder.resolve())
        if is_zarr(folder, files):
            outcomes.append(zarr_outcome(folder, relative_name(folder, root) + "/"))
            folders.clear()
            continue
        companions = {
            found.name: file
            for file in files
            if suffix_of(file) in HAVE_FOLDERS
            and (found := companion(folder / file) or pixel_folder(folder / file)) is not None
        }
        for inside in sorted(companions.keys() & set(folders)):
            relative = (folder / inside).relative_to(root).as_posix()
            message = f"holds the pixels of {companions[inside]}"
            outcomes.append(Outcome(relative + "/", SKIPPED, COMPANION, message))
        folders[:] = sorted(f for f in folders if not is_left_out(f) and f not in companions)
        yield folder, sorted(file for file in files if not file.startswith("."))


def part_outcomes(series: list[list[Path]], root: Path) -> list[Outcome]:
    """Outcomes of the further DICOM files of a series; its first file gets the slide's outcome."""
    return [
        Outcome(path.relative_to(root).as_posix(), SKIPPED, PART_OF_A_SLIDE, f"belongs to {first.name}")
        for first, *others in series
        for path in others
    ]


ANY_MPP = 0.5  # a pixel size, so that a file without one can be opened


def refuse_summaries_alone(shown: str, sources: list[Source], outcomes: list[Outcome]) -> None:
    """Raise UsageError for a folder that holds summaries where slides are expected."""
    if outcomes and not sources and all(outcome.reason == A_SUMMARY for outcome in outcomes):
        found = f"{len(outcomes)} summaries" if len(outcomes) > 1 else "one summary"
        raise UsageError(f"{shown}: expected slides, found {found}; give the folder of the slides they were made from")


class SourceIndex:
    """Finds the source slides of summaries in an archive, walking it once, and remembers which were found.

    Where `source` stands for a remote archive, `attach` adds to the slides what it takes to fetch them, `shown` is what
    the archive is called, and `outcomes` are those of files that could not be laid out in `source`. Raises UsageError
    where there are summaries and no slides.
    """

    def __init__(
        self,
        source: Path,
        attach: Callable[[Sequence[Source]], list[Source]] = list,
        shown: str = "",
        outcomes: Sequence[Outcome] = (),
    ) -> None:
        self.root = source
        if is_summary(source):
            raise UsageError(no_slide_words(source))
        single = source.is_file()
        sources, self._outcomes = ([], []) if single else find_slides(source, source / "no output here")[:2]
        refuse_summaries_alone(shown or str(source), sources, self._outcomes)
        self._outcomes = [*self._outcomes, *outcomes]
        sources = attach([find_source(source)] if single else sources)
        self._sources = {found.path: found for found in sources}
        self._single = sources[0] if single else None
        if self._single is not None:
            self.root = self._single.path  # of a file of several, that by which the slide goes
        self._images: dict[Path, set[int | None]] = {}  # of sources that were found
        self._copies: dict[str, list[Path]] = {}  # of each summary
        self._by_size: dict[int, list[Source]] = {}
        for found in sources:
            with contextlib.suppress(OSError):
                self._by_size.setdefault(found.bytes, []).append(found)

    def find(self, summary: str | Path) -> Source | None:
        """The source slide, matched by size, then content; None if the archive lacks it or the summary is bad.

        Raises AccessError, RemoteError, ChangedSlideError where a slide cannot be fetched or changes meanwhile.
        """
        try:
            with open_summary(summary) as opened:
                wanted = opened.record.source
        except (WsisumError, OSError):
            return self._single
        if self._single is not None:
            self._images.setdefault(self._single.path, set()).add(wanted.image)
            return self._single
        same = self._with_content(wanted.bytes, wanted.sha256)
        if not same:
            return None
        same.sort(key=lambda found: found.path.name != wanted.name)
        self._copies[str(summary)] = [found.path for found in same]
        for found in same:
            self._images.setdefault(found.path, set()).add(wanted.image)
        return same[0]

    def _with_content(self, size: int, sha256: str) -> list[Source]:
        return [found for found in self._by_size.get(size, []) if has_content(found, sha256)]

    def owners(self, summary: str | Path) -> list[Source]:
        """The slides of this content, without remembering that a summary was found for them; none if it is bad."""
        try:
            with open_summary(summary) as opened:
                wanted = opened.record.source
        except (WsisumError, OSError):
            return []
        return self._with_content(wanted.bytes, wanted.sha256)

    def copies(self, summary: str | Path) -> list[Path]:
        """The source slide that was found for a summary, and further files with the same content."""
        return [self._single.path] if self._single is not None else self._copies.get(str(summary), [])

    def left(self) -> list[str]:
        """The slides of the archive that were not found for any summary, as paths within it, `FILE#N` for one image.

        The label and what else a DICOM series has beside its slide are none.
        """
        if self._single is not None:
            return self.left_of(self._single.path) if self._single.path in self._images else []
        slides = [path for path in self._sources if path in self._images or not is_beside_slide(path)]
        missing = [place for path in slides for place in self.left_of(path)]
        return sorted([*(outcome.source for outcome in self.unread), *missing])

    @property
    def is_single(self) -> bool:
        """Whether the archive is one file."""
        return self._single is not None

    @property
    def sources(self) -> list[Source]:
        """The slides of the archive, by path."""
        return list(self._sources.values())

    def names_of(self, source: Source) -> list[str]:
        """The paths of a slide's files within the archive, that of the slide first."""
        if source.path == self.root:
            return [file.name for file in source.files]
        return list(names_of(source, self.root))

    @property
    def names(self) -> list[str]:
        """The paths of all that a row of a manifest may mean: files of slides, and what looks like one."""
        seen = [outcome.source.rstrip("/") for outcome in self._outcomes]
        return [*(name for source in self.sources for name in self.names_of(source)), *seen]

    @property
    def unread(self) -> list[Outcome]:
        """What looks like a slide, is none of the `sources`, and belongs to none."""
        return [outcome for outcome in self._outcomes if outcome.reason not in NO_SLIDES]

    def left_of(self, path: Path) -> list[str]:
        """The same of one file."""
        name, images = relative_name(path, self.root), self._images.get(path)
        if images is None:
            return [name]
        if images == {None}:
            return []
        count = count_images(self._sources[path])
        if count is None:  # nobody knows how many it holds
            return [name]
        return [f"{name}#{number}" for number in range(1, count + 1) if number not in images]


def has_content(source: Source, sha256: str) -> bool:
    """Whether a slide has this content; not if it cannot be read. Raises as `SourceIndex.find`."""
    try:
        return source.sha256 == sha256
    except (AccessError, RemoteError, ChangedSlideError):
        raise
    except OSError:
        return False


def count_images(source: Source) -> int | None:
    """How many slides a file holds; None where it cannot be read."""
    try:
        with source.staged() as here, open_slide(here.path, ANY_MPP):
            return 1
    except SeveralSlidesError as error:
        return error.count
    except (WsisumError, OSError):
        return None
