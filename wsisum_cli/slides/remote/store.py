"""Object stores and web servers, through obstore: list, read in ranges, fetch and put.

Messages hold names alone: the errors of obstore quote addresses, keys and what servers answer, so they are read for
their kind and dropped. A request that fails is tried again as `WAITS` says, and so is what remains of a body that
ends early.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wsisum_cli.errors import AccessError, ChangedSlideError, RemoteError
from wsisum_cli.slides.remote.url import SERVERS, Address

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Found = TypeVar("Found")

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)  # s, before each further try of a request
FEW_WAITS = 1  # of these where no credentials are found: asking for them takes long where nobody answers
PART = 8 << 20  # bytes asked for at a time when a whole file is fetched
TOGETHER = 4  # such requests
PAGE = 1000  # files listed at a time
#: s without a byte, after which a read is tried again; until a connection stands; and of a whole request.
SILENCE, CONNECTING, WHOLE = "30s", "10s", "600s"
SECOND = 10**9  # ns
MAX_IN_MEMORY = 1 << 30  # bytes of a file on a server that does not serve parts of it

#: What stores and their clients say where credentials are the reason.
NO_CREDENTIALS = re.compile(
    r"169\.254\.\d+\.\d+|metadata\.google|token request|Account must be specified|AssumeRole|CredentialsError|"
    r"credential provider",
    re.IGNORECASE,
)
REFUSED = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|InvalidSecurity|AuthenticationFailed|"
    r"InvalidAuthenticationInfo|RequestTimeTooSkewed|AuthorizationHeaderMalformed|NotSignedUp|AccountProblem"
)
EXPIRED = re.compile(r"ExpiredToken|TokenRefreshRequired|RequestExpired|Request has expired")
IMPOSSIBLE = re.compile(r"empty path segment|illegal character sequence|InvalidPath|BadSegment|EmptySegment")
PERMANENT = re.compile(r"status code: 4(?!08|29)")


class BusyError(Exception):
    """What may work at the next try. Holds the error to raise if it never does."""

    def __init__(self, final: Exception, waits: int = len(WAITS)) -> None:
        super().__init__(str(final))
        self.final, self.waits = final, waits


class ConflictError(Exception):
    """The file to be put is there, or not the one that was to be replaced."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as a store lists it."""

    address: Address
    bytes: int
    modified: int  # ns since 1970; 0 where the server does not say
    e_tag: str | None = None
    version: str | None = None

    @property
    def stamp(self) -> int:
        """Time of the last change, ns since 1970; what is less than a second tells versions apart.

        Stores count in seconds, so these digits come from the e-tag. Of a server that tells nothing it is the time of
        the question, which equals no other.
        """
        if not self.is_versioned:
            return time.time_ns()
        digits = hashlib.sha256(f"{self.modified} {self.e_tag} {self.version}".encode()).hexdigest()
        return self.modified - self.modified % SECOND + int(digits[:12], 16) % SECOND

    @property
    def is_versioned(self) -> bool:
        """Whether it can be told from what may come in its place."""
        return self.e_tag is not None or self.modified > 0


def find_file(address: Address) -> RemoteFile | None:
    """What is stored there; None where nothing is. Raises RemoteError, AccessError."""
    import obstore

    def look() -> RemoteFile:
        if address.scheme not in SERVERS:
            return described(address, obstore.head(*place(address)))
        # A signed address often allows GET alone.
        found = obstore.get(*place(address), options={"range": (0, 1)})
        return described(address, found.meta)

    try:
        return tried(address, look)
    except RemoteError as error:
        if error.reason == NOT_FOUND:
            return None
        if error.reason == NO_PARTS:
            return tried(address, lambda: described(address, obstore.get(*place(address)).meta))
        raise


def list_files(folder: Address) -> Iterator[RemoteFile]:
    """Everything below a folder of a store, page by page. Raises RemoteError, AccessError."""
    import obstore

    store, key = place(folder)
    pages: Iterator[Any] | None = None
    last: str | None = None  # of what arrived, behind which a listing that failed goes on

    def next_page() -> Any:
        nonlocal pages
        pages = pages or iter(obstore.list(store, prefix=key or None, offset=last, chunk_size=PAGE))
        try:
            return next(pages, None)
        except BaseException:
            pages = None  # it would end as if nothing were left
            raise

    while page := tried(folder, next_page, verb="listed"):
        yield from (described(Address(folder.scheme, folder.host, meta["path"]), meta) for meta in page)
        last = page[-1]["path"]


def read_range(file: RemoteFile, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of the file as it was found.

    Raises ChangedSlideError where it has changed since, RemoteError, AccessError.
    """
    import obstore

    if stop <= start:
        return b""

    def read() -> bytes:
        options = {"range": (start, stop), **as_found(file)}
        found = obstore.get(*place(file.address), options=options)  # type: ignore[arg-type]
        data = bytes(found.bytes())
        return complete(file, data, min(stop, file.bytes) - start, found.meta["size"])

    return tried(file.address, read)


def read_end(address: Address, count: int) -> tuple[RemoteFile, bytes]:
    """The file as it is now, and its last `count` bytes or all of them. Raises RemoteError, AccessError."""
    import obstore

    def read() -> tuple[RemoteFile, bytes]:
        found = obstore.get(*place(address), options={"range": {"suffix": count}})
        file = described(address, found.meta)
        return file, complete(file, bytes(found.bytes()), min(count, file.bytes), file.bytes)

    return tried(address, read)


def read_whole(address: Address) -> tuple[RemoteFile, bytes]:
    """For servers that do not serve parts of a file. Raises RemoteError, AccessError."""
    import obstore

    def read() -> tuple[RemoteFile, bytes]:
        found = obstore.get(*place(address))
        file = described(address, found.meta)
        if file.bytes > MAX_IN_MEMORY:
            raise RemoteError(
                f"{address.name}: {file.bytes} bytes on a server that does not serve parts of a file; download it first"
            )
        return file, complete(file, bytes(found.bytes()), file.bytes, file.bytes)

    return tried(address, read)


def fetch(file: RemoteFile, path: Path, listen: Callable[[int], None] = lambda count: None) -> None:
    """Write the file as it was found to `path`; `listen` hears how many bytes each part brought.

    Raises ChangedSlideError where it has changed since, RemoteError, AccessError, OSError.
    """
    with open(path, "wb", buffering=0) as target:
        if not ranges_work(file):
            target.write(read_whole(file.address)[1])
            listen(file.bytes)
            return
        writing = threading.Lock()

        def fetch_part(start: int) -> int:
            data = read_range(file, start, min(start + PART, file.bytes))
            with writing:
                os.lseek(target.fileno(), start, os.SEEK_SET)
                view = memoryview(data)
                while view:
                    view = view[target.write(view) or 0 :]
            return len(data)

        with ThreadPoolExecutor(TOGETHER) as pool:
            jobs = [pool.submit(fetch_part, start) for start in range(0, file.bytes, PART)]
            try:
                for job in jobs:
                    listen(job.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def ranges_work(file: RemoteFile) -> bool:
    """Whether parts of the file can be read; raises as `read_range`."""
    if file.address.scheme not in SERVERS or file.bytes == 0:
        return True
    try:
        read_range(file, 0, 1)
        return True
    except RemoteError as error:
        if error.reason != NO_PARTS:
            raise
        return False


def put(address: Address, data: bytes, replaces: RemoteFile | None) -> None:
    """Store `data` in one request: in place of `replaces`, or where nothing is if that is None.

    Raises ConflictError where something else is there by now, RemoteError, AccessError.
    """
    import obstore

    mode: Any = "create"
    if replaces is not None:
        known = {"e_tag": replaces.e_tag, "version": replaces.version}
        mode = {name: text for name, text in known.items() if text is not None} or "overwrite"

    def store() -> None:
        where, key = place(address, writing=True)
        try:
            obstore.put(where, key, data, mode=mode, use_multipart=False)
        except obstore.exceptions.NotSupportedError:  # a store without conditional writes
            obstore.put(where, key, data, use_multipart=False)

    tried(address, store, verb="stored")


def overwrite(address: Address, data: bytes) -> None:
    """Store `data` in one request, whatever is there. Raises RemoteError, AccessError."""
    import obstore

    def store() -> None:
        obstore.put(*place(address, writing=True), data, use_multipart=False)

    tried(address, store, verb="stored")


def as_found(file: RemoteFile) -> dict[str, Any]:
    """The options that make a store refuse to read another version of the file."""
    return {"if_match": file.e_tag} if file.e_tag is not None else {}


def complete(file: RemoteFile, data: bytes, expected: int, size: int) -> bytes:
    """The data, unless the file has another size than it had, or bytes are missing."""
    if size != file.bytes:
        raise changed(file.address)
    if len(data) != expected:
        raise BusyError(RemoteError(f"{file.address.name}: the store sent {len(data)} of {expected} bytes; run again"))
    return data


def described(address: Address, meta: Any) -> RemoteFile:
    modified = round(meta["last_modified"].timestamp() * 1_000_000) * 1000
    return RemoteFile(address, meta["size"], max(0, modified), meta["e_tag"], meta["version"])


def changed(address: Address) -> ChangedSlideError:
    return ChangedSlideError(
        f"{address.name}: expected a file that stays as it is while it is read, but another one was put in its place; "
        "run again once nothing writes to it"
    )


def tried(address: Address, request: Callable[[], Found], verb: str = "fetched") -> Found:
    """The result of a request, tried again where that may help. Raises as `translated`."""
    for wait in (*WAITS, None):
        try:
            with translated(address, verb):
                return request()
        except BusyError as error:
            if wait is None or WAITS.index(wait) >= error.waits:
                raise error.final from None
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


NOT_FOUND, NO_PARTS = "not found", "no ranges"


@contextmanager
def translated(address: Address, verb: str) -> Iterator[None]:
    """Turn errors of obstore into ours. Their text holds addresses and what servers answered, and is dropped."""
    from obstore import exceptions

    name = address.name
    try:
        yield
    except FileNotFoundError as error:
        raise_without_bucket(address, error)
        raise RemoteError(f"{name}: not found; check the address", NOT_FOUND) from None
    except exceptions.PreconditionError:
        if verb == "stored":
            raise ConflictError from None
        raise changed(address) from None
    except exceptions.AlreadyExistsError:
        raise ConflictError from None
    except exceptions.NotSupportedError:
        raise RemoteError(f"{name}: cannot be {verb}: the store does not support such requests", NO_PARTS) from None
    except (exceptions.BaseError, ValueError) as error:
        raise kind_of(address, error, verb) from None


def raise_without_bucket(address: Address, error: Exception) -> None:
    if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
        raise RemoteError(
            f"{address.name}: there is no bucket {address.host}; check the address", "no bucket"
        ) from None


def kind_of(address: Address, error: Exception, verb: str) -> Exception:
    """What an error of obstore means."""
    from obstore import exceptions

    raise_without_bucket(address, error)
    text, name = str(error), address.name
    where = f"{address.scheme}://{address.host}"
    if EXPIRED.search(text):
        return AccessError(f"{where}: the credentials have expired; renew them and run the same command again")
    if isinstance(error, exceptions.UnauthenticatedError) or REFUSED.search(text):
        return AccessError(f"{where}: the credentials are refused; check them, the region and the clock, and run again")
    if NO_CREDENTIALS.search(text):
        final = AccessError(f"{where}: no credentials found; {WHERE_CREDENTIALS.get(address.scheme, 'give some')}")
        return BusyError(final, FEW_WAITS)
    if isinstance(error, exceptions.PermissionDeniedError):
        return RemoteError(f"{name}: access is denied; ask for the permission to have it {verb}", "access denied")
    if verb == "listed" and IMPOSSIBLE.search(text):
        return RemoteError(
            f"{name}: holds a file whose name has an empty part (//), or . or .. as one, so that it cannot be listed; "
            "rename that file, or give a folder without it",
            "name not possible",
        )
    if PERMANENT.search(text) or isinstance(error, (exceptions.InvalidPathError, ValueError)):
        return RemoteError(f"{name}: cannot be {verb}: the store refuses the request; check the address")
    tries = len(WAITS) + 1
    return BusyError(
        RemoteError(f"{name}: cannot be {verb}: {tries} tries in {sum(WAITS):.0f} s failed; run again later")
    )


WHERE_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}


def place(address: Address, writing: bool = False) -> tuple[ObjectStore, str]:
    """The store that holds a file, and the file's path in it."""
    if address.scheme in SERVERS:
        return open_store(address.scheme, address.url, writing), ""
    return open_store(address.scheme, address.host, writing), address.key


@lru_cache(maxsize=64)
def open_store(scheme: str, host: str, writing: bool) -> ObjectStore:
    """`host` is the bucket or container, of a server the whole address. Credentials are those of the environment."""
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

    # A store is reached without TLS only where the environment names such an address for it.
    options: Any = {"connect_timeout": CONNECTING, "timeout": WHOLE, "allow_http": scheme != "https"}
    if not writing:
        options["read_timeout"] = SILENCE  # it would run during an upload as well
    settings: Any = {"client_options": options, "retry_config": {"max_retries": 0}}
    if scheme in SERVERS:
        return HTTPStore(host, **settings)
    if scheme == "s3":
        return S3Store(host, **settings, **profile())
    return (GCSStore if scheme == "gs" else AzureStore)(host, **settings)


def profile() -> dict[str, Any]:
    """Credentials of AWS profiles and single sign-on, which boto3 finds if it is installed."""
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return {"credential_provider": Boto3CredentialProvider()}
    except (ImportError, ValueError):  # no boto3, or it finds none
        return {}
