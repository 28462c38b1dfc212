"""Which slides of an archive a run is asked for: globs, a list, a limit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from wsisum_cli.archive.outcome import FAILED, FILE_SYSTEM, Outcome
from wsisum_cli.errors import UsageError
from wsisum_cli.slides.remote.url import name_of_place
from wsisum_cli.slides.source import Source

NOT_FOUND = "not found"  # reason of an outcome
#: Why the report has the row of an earlier run.
LEFT_OUT, NEEDS_WORK, NOT_THERE = "left out", "needs work", "not there"
IMAGE = re.compile(r"#\d+$")  # of one slide in a file of several


@dataclass(frozen=True)
class Filter:
    """The slides that a run is asked for, by their paths within the archive. By default all of them."""

    include: tuple[str, ...] = ()  # globs, one of which must match
    exclude: tuple[str, ...] = ()  # globs, none of which may match
    listed: tuple[str, ...] | None = None  # paths; None without a list
    list_name: str = ""  # file name of the list, for messages
    limit: int | None = None  # most slides that need work

    @property
    def leaves_out(self) -> bool:
        """Whether slides may be left out by their names."""
        return bool(self.include or self.exclude) or self.listed is not None

    @property
    def is_partial(self) -> bool:
        return self.leaves_out or self.limit is not None

    def picks_file(self, path: str, *parts: str) -> bool:
        """Whether any slide of a file may be asked for; `parts` are the paths of its further files."""
        if any(matches(path, glob) for glob in self.exclude):
            return False
        if self.include and not any(matches(path, glob) or matches(path, file_of(glob)) for glob in self.include):
            return False
        return self.listed is None or bool(
            {path, *parts} & {name for one in self.listed for name in (one, file_of(one))}
        )

    def picks_slide(self, name: str) -> bool:
        """Whether one slide of a file of several, `FILE#N`, is asked for."""
        both = (name, file_of(name))
        if any(matches(one, glob) for one in both for glob in self.exclude):
            return False
        if self.include and not any(matches(one, glob) for one in both for glob in self.include):
            return False
        return self.listed is None or not set(both).isdisjoint(self.listed)

    def apply(
        self, sources: Sequence[Source], outcomes: Sequence[Outcome], root: Path, shown: str | None = None
    ) -> Picked:
        """What is left out of the slides that were found, and the outcomes that stay. Raises UsageError if none is.

        `shown` is the archive in messages; None: the name of `root`.
        """
        if not self.leaves_out:
            return Picked(list(outcomes))
        names = {path: parts for path, *parts in (names_of(source, root) for source in sources)}
        first = {part: path for path, parts in names.items() for part in parts}
        left_out = [path for path, parts in names.items() if not self.picks_file(path, *parts)]
        out = set(left_out)
        stay = [found for found in outcomes if self._keeps(found, first, out)]
        known = [*names, *first, *(found.source.rstrip("/") for found in outcomes)]
        if len(out) == len(names) and not stay:
            raise UsageError(f"{name_of_place(shown or root)}: {self.options()} left out every slide ({len(names)})")
        return Picked([*stay, *self.missing(known)], frozenset(out), self.idle(known))

    def _keeps(self, found: Outcome, first: Mapping[str, str], out: Set[str]) -> bool:
        """Whether the outcome of a file stays: with its slide, if it belongs to one.

        Nobody knows what is in a folder that cannot be listed, so that stays unless it is excluded itself.
        """
        name = found.source.rstrip("/")
        if found.reason == FILE_SYSTEM:
            return not any(matches(name, glob) for glob in self.exclude)
        return first[name] not in out if name in first else self.picks_file(name)

    def missing(self, names: Iterable[str]) -> list[Outcome]:
        """An outcome for every listed slide that is not among the names of what was found."""
        there = set(names)
        gone = [one for one in self.listed or () if one not in there and file_of(one) not in there]
        return [self.not_found(one) for one in gone]

    def not_found(self, name: str) -> Outcome:
        return Outcome(name, FAILED, NOT_FOUND, f"{self.list_name} lists it, but the archive has no such slide")

    def idle(self, names: Sequence[str]) -> list[str]:
        """A clause for each glob that matches none of the names."""
        given = [("--include", glob) for glob in self.include] + [("--exclude", glob) for glob in self.exclude]
        return [
            f"{option} {glob} matches no slide"
            for option, glob in given
            if not any(matches(name, glob) or matches(name, file_of(glob)) for name in names)
        ]

    def as_dict(self) -> dict[str, object]:
        """What the report says of it."""
        return {
            "include": list(self.include),
            "exclude": list(self.exclude),
            "listed": None if self.listed is None else len(self.listed),
            "limit": self.limit,
        }

    def options(self) -> str:
        """The options that leave slides out by their names, for messages."""
        used = {"--include": self.include, "--exclude": self.exclude, "--list": self.listed is not None}
        return ", ".join(name for name, value in used.items() if value)


@dataclass(frozen=True)
class Picked:
    """What a filter left of an archive."""

    outcomes: list[Outcome]  # those that stay, and those of listed slides that are not there
    left_out: frozenset[str] = frozenset()  # slides, by their paths within the archive
    idle: list[str] = field(default_factory=list)  # globs that match nothing, a clause each


#: Picks everything.
EVERYTHING = Filter()


def matches(path: str, glob: str) -> bool:
    """Whether a glob matches a path or a folder above it.

    A glob without a slash is compared with single names, one with a slash with the whole path. `*` crosses folders.
    """
    wanted = glob.strip("/").removeprefix("**/") if glob.startswith("**/") else glob.strip("/")
    whole = PurePosixPath(path)
    for place in (whole, *whole.parents[:-1]):
        if fnmatchcase(str(place) if "/" in wanted else place.name, wanted):
            return True
    return glob.startswith("**/") and fnmatchcase("/" + path, glob)


def numbered(name: str, image: int | None) -> str:
    """The name of one slide, `FILE#N`, of a file with several; that of the file where it holds one."""
    return name if image is None else f"{name}#{image}"


def file_of(name: str) -> str:
    """The file of a slide that is one of several in it: `a.svs` of `a.svs#2`; any other name as it is."""
    return IMAGE.sub("", name)


def names_of(source: Source, root: Path) -> Iterator[str]:
    """The paths of a slide's files within the archive, that of the slide first."""
    yield source.path.relative_to(root).as_posix()
    for file in source.files[1:]:
        if file.is_relative_to(root):
            yield file.relative_to(root).as_posix()


def read_list(path: Path, archive: Path) -> tuple[str, ...]:
    """The paths in a file, one a line, within the archive. Empty lines are left out. Raises UsageError.

    A line may also be the path of a slide on disk, as `find` prints it. Of one outside the archive only its name is
    taken: it is not found, and no path gets into the report.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UsageError(f"{path.name}: the list cannot be read ({error.strerror})") from error
    root = archive if archive.is_dir() else archive.parent
    found = dict.fromkeys(within(line.strip(), root) for line in lines if line.strip())
    if not found:
        raise UsageError(f"{path.name}: expected paths of slides within the archive, one a line; found none")
    return tuple(found)


def within(line: str, root: Path) -> str:
    given = Path(line)
    for start in (root, root.absolute(), root.resolve()):
        if given.is_relative_to(start) and given != start:
            return given.relative_to(start).as_posix()
    return given.name if given.is_absolute() else PurePosixPath(line).as_posix()
