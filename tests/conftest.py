from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Hundreds of tests start a process of their own: compiled once, the code loads in half of the time.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Threads of numerical libraries wait asleep, not awake: several processes of tests share the cores.
for _name, _value in {
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_THREAD_TIMEOUT": "4",
    "ORT_DISABLE_TELEMETRY": "1",
}.items():
    os.environ.setdefault(_name, _value)

from stores import KEYS, S3, running_s3  # noqa: E402 - after the settings of what they import

from wsisum_cli.slides.remote import store as remote_store  # noqa: E402
from wsisum_cli.slides.remote.store import open_store  # noqa: E402

#: Files that take longest begin first, so that no worker is left alone with one at the end.
LONG = (
    *("training/", "verification/test_verify.py", "pipeline/", "selection/", "archive/test_workers.py"),
    *("slides/test_slide.py", "archive/remote/", "archive/engines/", "archive/state/", "commands/", "test_smoke.py"),
    *("summary/test_re", "tissue/", "archive/scope/", "fuzz/", "quality/"),
)
SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return next((at for at, long in enumerate(LONG) if name.startswith(long)), len(LONG))

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real slides, features and tiles, which are no part of the repository."""
    if not SHARED.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("the folder of shared test data is missing")
        pytest.skip("needs the folder of shared test data")
    return SHARED


@pytest.fixture(scope="session")
def store() -> Iterator[S3]:
    """An S3 server on loopback, with a proxy before it."""
    with running_s3() as found:
        yield found


@pytest.fixture
def s3(store: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The same, found by this process, with no fault yet and no request noted."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": store.proxy.url}.items():
        monkeypatch.setenv(name, value)
    open_store.cache_clear()
    store.proxy.forget()
    yield store
    store.proxy.forget()
    open_store.cache_clear()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that fail are tried as often as ever, at once."""
    monkeypatch.setattr(remote_store, "WAITS", tuple(0.001 * number for number in range(1, 6)))
