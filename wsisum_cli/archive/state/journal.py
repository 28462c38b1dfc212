"""What each run did, line by line as it happened, so that nothing is lost when a run is killed.

One file a run, `.wsisum/journal/TIME-OWNER.jsonl` in the folder of outputs; it is only appended to. Every line is a
JSON object that begins with the CRC-32 of what follows: a line that was torn, or damaged, is left out. No two runs
write one file, so runs at once need no lock.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsisum_cli.archive.outcome import NAMES, Outcome, Record, outcome_from, with_shared_words
from wsisum_cli.summary.container import is_abandoned, new_owner, sync_folder, writing_aside

STATE_FOLDER = ".wsisum"
FOLDER, SUFFIX = f"{STATE_FOLDER}/journal", ".jsonl"
VERSION = 1
ENCODER = json.JSONEncoder(separators=(",", ":"))
HEAD = '{{"crc32":"{:08x}",'
CRC_AT, REST_AT = slice(10, 18), 20  # in a line
RUN, SLIDE, END = "run", "slide", "end"  # kinds of lines
#: A line on a slide, as this version writes it: when, and the slide as JSON text.
ON_SLIDE = re.compile(rb'"kind":"slide","at":(\d{1,19}),"slide":\{"source":("(?:[^"\\]|\\.)*")[,}]')
MANY = 16  # closed journals from which they are put together
KNOWN = frozenset(NAMES)
DEFAULTS = {
    one.name: one.default if one.default is not MISSING else {}
    for one in fields(Outcome)
    if one.default is not MISSING or one.default_factory is not MISSING
}


class Journal:
    """The journal of one run."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Create the file and write the first line, `facts` of the run. Raises OSError."""
        inside = folder / FOLDER
        inside.mkdir(parents=True, exist_ok=True)
        self.name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{new_owner()}{SUFFIX}"
        self.count = 0  # of slides noted
        self.trouble: OSError | None = None  # why lines are missing, such as a full disk
        self._file = open(inside / self.name, "xb", buffering=0)  # noqa: SIM115 - open for the whole run
        self._torn = False
        self._append({"kind": RUN, "at": time.time_ns(), "version": VERSION, **facts})
        sync_folder(inside)

    def note(self, outcome: Outcome) -> None:
        """Write what became of a slide."""
        self.count += 1
        self._append({"kind": SLIDE, "at": time.time_ns(), "slide": sparse(outcome)})

    def end(self) -> None:
        """Say that the run is over, and close the file."""
        if not self._file.closed:
            self._append({"kind": END, "at": time.time_ns()})
            self._file.close()

    def _append(self, content: Mapping[str, Any]) -> None:
        """Write one line at once. A disk that takes no more costs the line, never the run."""
        line = as_line(content)
        try:
            taken = self._file.write(b"\n" + line if self._torn else line)
            self._torn = taken != len(line) + self._torn
        except OSError as error:
            self._torn, self.trouble = True, error


def as_line(content: Mapping[str, Any]) -> bytes:
    rest = ENCODER.encode(content)[1:].encode("ascii")
    return HEAD.format(zlib.crc32(rest)).encode() + rest + b"\n"


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The content of a line without its newline; None where it is torn or damaged."""
    try:
        if not is_whole(line):
            return None
        content = json.loads("{" + line[REST_AT:].decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("at"), int) else None


def is_whole(line: bytes) -> bool:
    """Whether a line has the checksum that it begins with. Raises ValueError where it begins with none."""
    return int(line[CRC_AT], 16) == zlib.crc32(line[REST_AT:])


def slide_of(line: bytes) -> tuple[int, str] | None:
    """When a line on a slide was written, and the slide; None where it is to be parsed as a whole.

    A hundred thousand lines take a tenth of the time so, and of most no more is ever asked.
    """
    try:
        found = ON_SLIDE.match(line, REST_AT)
        return (int(found[1]), json.loads(found[2])) if found is not None and is_whole(line) else None
    except ValueError:
        return None


def sparse(outcome: Outcome) -> dict[str, Any]:
    """What of an outcome is not the default."""
    found = {name: value for name, value in outcome.values().items() if DEFAULTS.get(name, MISSING) != value}
    return found | ({"record": asdict(outcome.record)} if outcome.record is not None else {})


def outcome_in(content: Mapping[str, Any]) -> Outcome | None:
    """The outcome in the content of a line; None where it holds none that this version knows."""
    slide = content.get("slide")
    if not isinstance(slide, dict) or not slide.keys() <= KNOWN or not slide.keys() >= KNOWN - DEFAULTS.keys():
        return None
    try:
        record = Record(**slide["record"]) if slide.get("record") else None
    except (TypeError, ValueError):
        return None
    # The checksum vouches for what was an outcome before.
    return outcome_from({**DEFAULTS, "seconds": {}, **with_shared_words(slide), "record": record})


@dataclass
class RunLines:
    """The journal of one run, as it was read."""

    name: str
    facts: Mapping[str, Any]  # its first line; empty where that is damaged
    closed: bool  # nobody writes to it any more
    ended: bool  # the run came to its end
    count: int = 0  # of lines on slides
    last: int = 0  # when the last of its lines was written, ns since 1970

    @property
    def was_killed(self) -> bool:
        return self.closed and not self.ended


@dataclass
class History:
    """The latest line on every slide. Lines stay unparsed: a hundred thousand outcomes would take much memory."""

    runs: list[RunLines] = field(default_factory=list)
    lines: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # by slide: when, and the line

    def outcome(self, source: str) -> Outcome | None:
        """The latest outcome of a slide."""
        found = self.lines.get(source)
        content = None if found is None else parse_line(found[1])
        return None if content is None else outcome_in(content)

    def since(self, at: int) -> Iterator[tuple[int, Outcome]]:
        """Outcomes noted from a time on, ns since 1970, with when."""
        for source, (when, _) in self.lines.items():
            if when >= at and (outcome := self.outcome(source)) is not None:
                yield when, outcome

    @property
    def closed(self) -> frozenset[str]:
        """The names of the journals to which nobody writes any more."""
        return frozenset(run.name for run in self.runs if run.closed)


def read_history(
    folder: Path, wanted: Callable[[Mapping[str, Any]], bool] = lambda facts: True, skip: Collection[str] = ()
) -> History:
    """What the journals in a folder of outputs say; of runs with `wanted` facts, without the names in `skip`.

    A journal that was put together with others meanwhile is found among those that are new.
    """
    history = History()
    seen: set[str] = set(skip)
    while new := [name for name in journal_names(folder) if name not in seen]:
        for name in new:
            seen.add(name)
            read_journal(folder / FOLDER / name, history, wanted)
    history.runs.sort(key=lambda run: run.name)
    return history


def journal_names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder / FOLDER) if name.endswith(SUFFIX) and name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []


def facts_of_runs(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The first line of every journal in a folder, whatever its run made, without those of runs that did nothing."""
    for name in journal_names(folder):
        try:
            with open(folder / FOLDER / name, "rb") as file:
                first, second = (parse_line(file.readline().rstrip(b"\n")) for _ in range(2))
        except OSError:
            continue
        ended_at_once = second is not None and second.get("kind") == END
        if first is not None and first.get("kind") == RUN and first.get("version") == VERSION and not ended_at_once:
            yield first


def read_journal(path: Path, history: History, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
    """Add a journal to the history. A file that cannot be read says nothing."""
    try:
        # Before reading: what is written after this was looked at may be missing.
        run = RunLines(path.name, {}, is_abandoned(path), ended=False)
        with open(path, "rb") as file:
            for line in map(without_end, file):
                if run.facts and (known := slide_of(line)) is not None:
                    add_slide(*known, line, run, history)
                    continue
                content = parse_line(line)
                if content is None:
                    continue
                if content.get("kind") == RUN and (content.get("version") != VERSION or not wanted(content)):
                    return
                add_line(content, line, run, history)
    except OSError:
        return
    if run.facts:
        history.runs.append(run)


def without_end(line: bytes) -> bytes:
    return line.rstrip(b"\n")


def add_slide(at: int, source: object, line: bytes, run: RunLines, history: History) -> None:
    run.last = at
    run.count += 1
    if isinstance(source, str) and at >= history.lines.get(source, (0, b""))[0]:
        history.lines[source] = (at, line)


def add_line(content: dict[str, Any], line: bytes, run: RunLines, history: History) -> None:
    kind, run.last = content.get("kind"), content["at"]
    if kind == RUN:
        run.facts = content
    elif kind == END:
        run.ended = run.closed = True
    elif kind == SLIDE and run.facts and isinstance(slide := content.get("slide"), dict):
        add_slide(content["at"], slide.get("source"), line, run, history)


def is_much(runs: int, lines: int, slides: int) -> bool:
    """Whether journals are many, or mostly out of date."""
    return runs > MANY or lines > 2 * slides


def put_together(folder: Path, wanted: Callable[[Mapping[str, Any]], bool], names: Collection[str]) -> None:
    """Put the closed journals with these `names` together in one where they are many, or mostly out of date.

    The new file is whole before the old ones go, so a reader finds every line in one of them.
    """
    everything = set(journal_names(folder))
    history = read_history(folder, wanted, everything - set(names))
    runs = [run for run in history.runs if run.closed]
    if not is_much(len(runs), sum(run.count for run in runs), len(history.lines)) or len(runs) != len(history.runs):
        return
    target = folder / FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{new_owner()}{SUFFIX}"
    with writing_aside(target) as aside, open(aside, "wb") as file:
        file.write(as_line(dict(runs[-1].facts) | {"todo": []}))
        file.writelines(line + b"\n" for _, line in history.lines.values())
        file.write(as_line({"kind": END, "at": time.time_ns()}))
        file.flush()
        os.fsync(file.fileno())
    for run in runs:
        (folder / FOLDER / run.name).unlink(missing_ok=True)
