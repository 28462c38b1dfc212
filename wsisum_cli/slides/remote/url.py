"""Addresses of remote files: which are opened, and how they are printed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from wsisum_cli.errors import UsageError

#: Stores that can be listed and written to, and web servers, which can only be read.
STORES, SERVERS = ("s3", "gs", "az"), ("http", "https")
SCHEMES = ("file", *SERVERS, *STORES)
CUT = "..."  # stands for the query of an address, which may hold a signature


@dataclass(frozen=True)
class Address:
    """A file, or a folder of files, in a store or on a server. Prints without its query."""

    scheme: str
    host: str  # the bucket, the container, or the server and its port
    key: str  # the path within it, without slashes around it; as in the address where that is of a server
    query: str = field(default="", repr=False)  # of a server's address; may hold a signature

    @property
    def name(self) -> str:
        """What messages call it: the last part of its path."""
        last = self.key.rpartition("/")[2]
        return (unquote(last) if self.scheme in SERVERS else last) or self.host

    @property
    def is_store(self) -> bool:
        """Whether it can be listed and written to."""
        return self.scheme in STORES

    @property
    def url(self) -> str:
        """The whole address. Not for messages."""
        return f"{self.scheme}://{self.host}/{self.key}" + (f"?{self.query}" if self.query else "")

    def __str__(self) -> str:
        """For messages: without the query."""
        return f"{self.scheme}://{self.host}/{self.key}" + (f"?{CUT}" if self.query else "")

    def child(self, name: str) -> Address:
        """A file or folder below."""
        return Address(self.scheme, self.host, f"{self.key}/{name}".lstrip("/"), self.query)

    def below(self, other: Address) -> PurePosixPath:
        """The path of another one within this folder."""
        return PurePosixPath(other.key[len(self.key) + 1 if self.key else 0 :])

    def contains(self, other: Address) -> bool:
        """Whether the other one is this folder, or lies in it."""
        same = (self.scheme, self.host) == (other.scheme, other.host)
        return same and f"{other.key}/".startswith(f"{self.key}/" if self.key else "")


def is_url(text: str) -> bool:
    return "://" in text


def parse_place(text: str) -> Path | Address:
    """A path, or the address of something remote; `file://` becomes a path.

    Raises UsageError for other schemes than `SCHEMES`, for addresses chained to others, and for those with a key or
    password in them.
    """
    if not is_url(text):
        return Path(text)
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES or is_url(rest.partition("?")[0]):
        wanted = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"{name_of_place(text)}: expected a path, or one address that begins with {wanted}")
    host, _, path = rest.partition("/")
    if "@" in host:
        raise UsageError(
            f"{name_of_place(text)}: an address with a user or password in it is not opened; give them in the "
            "environment or the store's own configuration"
        )
    if scheme == "file":
        return Path(unquote(f"/{path}"))
    if not host:
        raise UsageError(f"{name_of_place(text)}: expected {scheme}://NAME/PATH, found no name after {scheme}://")
    if scheme in STORES:
        if "=" in path.partition("?")[2]:
            raise UsageError(f"{name_of_place(text)}: the address of a store has no query; leave it out")
        return Address(scheme, host, path.strip("/"))
    path, _, query = path.partition("#")[0].partition("?")
    return Address(scheme, host, path.strip("/"), query)


def shown(place: str) -> str:
    """A path or address for messages that tell several apart: without keys, tokens and passwords."""
    if not is_url(place):
        return place
    try:
        return str(parse_place(place))
    except UsageError:
        return name_of_place(place)


def name_of_place(place: str | Path | Address) -> str:
    """The name of a path or address in messages: its last part, without keys, tokens and passwords."""
    address = (place.url if isinstance(place, Address) else str(place)).replace("\\", "/")
    if not is_url(address):
        return address.rsplit("/", 1)[-1]
    try:
        parts = urlsplit(address.rpartition("::")[2])
        return parts.path.rstrip("/").rsplit("/", 1)[-1] or parts.hostname or "the address"
    except ValueError:
        return "the address"
