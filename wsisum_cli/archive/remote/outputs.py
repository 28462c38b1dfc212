"""Outputs in an object store. They are written and verified in a local folder, then put in one request each."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsisum_cli.archive.remote.here import Outputs
from wsisum_cli.archive.state.former import are_of_one_slide, place_aside
from wsisum_cli.errors import RemoteError
from wsisum_cli.slides.remote.store import (
    ConflictError,
    RemoteFile,
    find_file,
    list_files,
    overwrite,
    put,
    read_range,
)
from wsisum_cli.slides.remote.url import Address
from wsisum_cli.slides.source import FileState, state_of

if TYPE_CHECKING:
    from wsisum_cli.pipeline.product import Product

#: What a run writes of itself beside its outputs, and what of that is kept in a store. Journals are not: they are for
#: runs that were killed, which put nothing there, and no run could ever take the old ones away.
RUN_FILES = ("report.json", "report.csv", "report.*-of-*.json", "report.*-of-*.csv")
TRIES = 3  # to replace an output that others replace at the same time


@dataclass(frozen=True)
class RemoteOutputs(Outputs):
    """A folder of a store, and the local one in which its files are made."""

    folder: Path
    address: Address
    known: dict[str, RemoteFile] | None = field(default=None, compare=False, repr=False)  # by path within the folder
    fetched: dict[str, FileState] = field(default_factory=dict, compare=False, repr=False)  # files of earlier runs

    @property
    def are_here(self) -> bool:
        return False

    def listed(self) -> RemoteOutputs:
        """The same with what is there now. Raises RemoteError, AccessError."""
        start = len(self.address.key) + 1 if self.address.key else 0
        return RemoteOutputs(
            self.folder, self.address, {file.address.key[start:]: file for file in list_files(self.address)}
        )

    def __getstate__(self) -> dict[str, object]:
        """Worker processes look at their own outputs alone."""
        return {**self.__dict__, "known": None}

    def _key(self, output: Path) -> str:
        return output.relative_to(self.folder).as_posix()

    def _address(self, output: Path) -> Address:
        return self.address.child(self._key(output))

    def _found(self, output: Path) -> RemoteFile | None:
        return find_file(self._address(output)) if self.known is None else self.known.get(self._key(output))

    def is_there(self, output: Path) -> bool:
        return self._found(output) is not None

    def size(self, output: Path) -> int:
        found = self._found(output)
        return found.bytes if found is not None else 0

    def provenance(self, product: Product, output: Path) -> Any:
        """Read in ranges if that can be done, else from a copy."""
        if product.remote_provenance is not None:
            return product.remote_provenance(self._address(output))
        self.fetch(output)
        return product.provenance(output)

    def is_whole(self, product: Product, output: Path) -> bool:
        if product.remote_provenance is not None:
            return True  # or it could not have been read
        try:
            return product.is_whole(output)
        finally:
            output.unlink(missing_ok=True)

    def shown(self, output: Path) -> str:
        return str(self._address(output))

    def fetch(self, output: Path) -> None:
        """Copy what is there of an earlier run into the folder, if anything is."""
        found = self._found(output)
        if found is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(read_range(found, 0, found.bytes))

    def publish(self, output: Path, product: Product) -> str:
        """One request, conditional on what is there: two runs that make the same leave one object.

        The local file is removed. Raises RemoteError where others keep replacing it.
        """
        try:
            return self._put(output, product)
        finally:
            output.unlink()

    def _put(self, output: Path, product: Product) -> str:
        data, address, kept = output.read_bytes(), self._address(output), ""
        for _ in range(TRIES):
            found = find_file(address)
            if found is not None:
                before = read_range(found, 0, found.bytes)
                if before == data:
                    return kept
                kept = kept or self._keep(output, before, product)
            try:
                put(address, data, found)
                return kept
            except ConflictError:
                continue  # another run, or a request of ours whose answer was lost
        raise RemoteError(f"{output.name}: others keep replacing it; run again once no other run does", "conflict")

    def _keep(self, output: Path, before: bytes, product: Product) -> str:
        """Store another slide's output, which this one replaces, elsewhere; returns its path."""
        copy = output.with_name(f".former{product.suffix}")
        try:
            copy.write_bytes(before)
            if are_of_one_slide(product, copy, output):
                return ""
        finally:
            copy.unlink(missing_ok=True)
        key = f"{place_aside()}/{self._key(output)}"
        put(self.address.child(key), before, None)
        return key

    def fetch_run_files(self) -> None:
        for name in filter(is_run_file, self.known or ()):
            self.fetch(self.folder / name)
            self.fetched[name] = state_of(self.folder / name)

    def keep_run_files(self) -> None:
        for path in sorted(path for path in self.folder.iterdir() if path.is_file()):
            if is_run_file(self._key(path)) and self.fetched.get(self._key(path)) != state_of(path):
                overwrite(self._address(path), path.read_bytes())


def is_run_file(name: str) -> bool:
    """By its path within the folder of outputs."""
    return "/" not in name and any(fnmatch(name, one) for one in RUN_FILES)
