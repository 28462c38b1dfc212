"""How outputs are named: after their slides, by a keyed hash of the slides' paths, or by the manifest alone.

The last two are for archives whose file and folder names are private: no part of a path is in a name, and all outputs
lie in one folder. The hash needs a key: whoever can guess a path can hash the guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsisum_cli.archive.manifest import Entry, Manifest
from wsisum_cli.archive.scope.filters import file_of
from wsisum_cli.errors import UnnamedError, UsageError
from wsisum_cli.pipeline.job import Job
from wsisum_cli.slides.slide import open_slide

STEM, HASH, MANIFEST = "stem", "hash", "manifest"
LEAST_KEY, MOST_KEY = 16, 4096  # bytes
DIGITS = 32  # hexadecimal, of a name: 128 bits, so that no two slides share one
CHECK_DIGITS = 16
CHECKED = b"\0 wsisum name key"  # what the check value is the hash of; no path holds a NUL
HASHED = re.compile(rf"[0-9a-f]{{{DIGITS}}}")
#: Facts of a run.
BY, CHECK = "name_by", "name_check"


@dataclass(frozen=True)
class Naming:
    """How a run names its outputs, and the slides in them."""

    by: str = STEM
    key: bytes = field(default=b"", repr=False)  # of HASH; empty where only names that a report holds are known

    @property
    def is_private(self) -> bool:
        """Whether no name of a file or folder may be in an output. Outputs then lie in one folder."""
        return self.by != STEM

    @property
    def lacks_key(self) -> bool:
        return self.by == HASH and not self.key

    @property
    def check(self) -> str:
        """Tells one key from another, and says nothing of either; empty without a key."""
        return self._hmac(CHECKED)[:CHECK_DIGITS] if self.key else ""

    def facts(self) -> dict[str, str]:
        """What a run records of it. The key is never among that."""
        return {BY: self.by, **({CHECK: self.check} if self.key else {})}

    def private_name(self, path: str, entry: Entry) -> str:
        """The name of a slide, from its path within the archive and its row; empty where it has none.

        A name in the manifest wins.
        """
        if entry.name or self.by != HASH or not self.key:
            return entry.name or ""
        return self._hmac(unicodedata.normalize("NFC", path).encode(errors="surrogatepass"))[:DIGITS]

    def private_image_name(self, path: str, manifest: Manifest) -> tuple[str, str]:
        """The name of one of several slides in a file, `FILE#N`, and that of its output; both empty where it has none.

        Where the manifest names the file, its slides share that name, and their outputs add their numbers to it.
        """
        entry, of_file = manifest.entry(Path(path)), manifest.entry(Path(file_of(path)))
        if of_file.name and not entry.name:
            return of_file.name, f"{of_file.name}.{path.rpartition('#')[2]}"
        name = self.private_name(path, entry)
        return name, name

    def _hmac(self, data: bytes) -> str:
        return hmac.new(self.key, data, hashlib.sha256).hexdigest()


BY_STEM = Naming()


def read_naming(by: str, key: Path | None) -> Naming:
    """The naming that options ask for. Raises UsageError where they do not go together, or the key is no key."""
    if by == HASH and key is None:
        raise UsageError(
            "--name-by hash: expected a key as --name-key, found none; make one with head -c 32 /dev/urandom > name.key"
        )
    if by != HASH and key is not None:
        raise UsageError(f"--name-key is for --name-by hash, found --name-by {by}; leave one of them out")
    return Naming(by, b"" if key is None else read_key(key))


def read_key(path: Path) -> bytes:
    """All bytes of a key file. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            key = file.read(MOST_KEY + 1)
    except OSError as error:
        raise UsageError(f"--name-key {path.name}: cannot be read ({error.strerror})") from error
    if not LEAST_KEY <= len(key) <= MOST_KEY:
        found = f"more than {MOST_KEY}" if len(key) > MOST_KEY else str(len(key))
        raise UsageError(
            f"--name-key {path.name}: expected {LEAST_KEY} to {MOST_KEY} bytes, found {found}; make a key with "
            "head -c 32 /dev/urandom > name.key"
        )
    return key


def refuse_key_inside(key: Path | None, output: Path, option: str = "--name-key") -> None:
    """Raise UsageError for a key in the folder of outputs: whoever gets the summaries would get it too."""
    places = () if key is None else (key.resolve(), key.parent.resolve() / key.name)  # a link gives it away as well
    if key is not None and any(place.is_relative_to(output.resolve()) for place in places):
        raise UsageError(
            f"{option} {key.name}: the key lies in the output folder, and would be given away with it; move it"
        )


def recorded_naming(facts: Mapping[str, Any]) -> tuple[str, str]:
    """The way and the check value in the facts of a run. Runs of versions without this choice named by stem."""
    return str(facts.get(BY, STEM)), str(facts.get(CHECK, ""))


def unnamed(path: str) -> UnnamedError:
    """What is wrong with a slide without a name."""
    return UnnamedError(
        f"{path.rpartition('/')[2]}: expected a name in --manifest for --name-by manifest, found none; fill in its "
        "column name"
    )


def refuse_unnamed(job: Job) -> None:
    """Raise UnnamedError for a slide without a name, SeveralSlidesError for a file whose slides may have names."""
    if not job.name:
        with open_slide(job.source.path, job.mpp, None, job.mpp_wins, job.image, job.source.files):
            raise unnamed(job.source.path.name)
