"""A remote archive is walked as the same folder would be."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dicoms import write_series
from files import put
from stores import S3, WebServer

from wsisum_cli.archive.remote.sites import open_archive, open_sites
from wsisum_cli.archive.remote.skeleton import is_plain
from wsisum_cli.archive.walk import find_slides
from wsisum_cli.errors import RemoteError, UsageError
from wsisum_cli.slides.remote.cache import Cache
from wsisum_cli.slides.remote.source import RemoteSource
from wsisum_cli.slides.remote.url import Address, parse_place
from wsisum_cli.slides.source import Source


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that a folder may hold; nothing in it can be opened."""
    folder = tmp_path_factory.mktemp("archive")
    for name in ("a.svs", "sub/b c#1.tiff", "sub/deep/ä.ndpi", "big.svs"):
        put(folder / name, name.encode() * 100)
    for name in ("notes.txt", ".hidden.svs", ".cache/x.svs", "lost+found/x.svs", "README", "1.2.840.99"):
        put(folder / name, b"x" * 300)
    put(folder / "m/B.mrxs", b"head")
    put(folder / "m/B/Data0000.dat", b"one")
    put(folder / "m/B/Slidedat.ini", b"two")
    put(folder / "v/a.vms", b"[Virtual]\nImageFile=a.jpg\nMapFile=a_map2.jpg\n")
    put(folder / "v/a.jpg", b"image")
    put(folder / "v/other.jpg", b"image")
    put(folder / "o/x.vsi", b"x")
    put(folder / "o/_x_/stack1/frame.ets", b"x")
    put(folder / "z.zarr/zarr.json", b"{}")
    put(folder / "z.zarr/0/c/0", b"x")
    pixels = np.full((64, 64, 3), 200, np.uint8)
    (folder / "dicom").mkdir()
    for number, path in enumerate(write_series(folder / "dicom", pixels).values()):
        path.rename(path.with_name(f"level{number}" + (".dcm" if number else "")))
    return folder


def found(sources: Sequence[Source], root: Path) -> list[tuple[tuple[str, ...], int]]:
    return [(tuple(file.relative_to(root).as_posix() for file in one.files), one.bytes) for one in sources]


def test_the_same_slides_and_outcomes_as_in_a_folder(archive: Path, tmp_path: Path, s3: S3):
    s3.upload(archive, s3.make_bucket("tree"), "hospital/")
    local, outcomes, others = find_slides(archive, tmp_path / "out")
    assert len(local) >= 8
    with open_archive(Address("s3", "tree", "hospital"), None, Cache(tmp_path / "cache", 10**9)) as there:
        remote, remote_outcomes, remote_others = find_slides(there.path, tmp_path / "out")
        attached = there.attach(remote)
        assert found(attached, there.root) == found(local, archive)
        assert all(isinstance(one, RemoteSource) for one in attached)
    assert remote_outcomes == outcomes
    assert remote_others == others
    for one, other in zip(attached, local, strict=True):
        with one.staged() as staged:
            assert staged.sha256 == other.sha256
            assert [file.name for file in staged.files] == [file.name for file in other.files]


@pytest.mark.parametrize("name", ["a.svs", "m/B.mrxs", "v/a.vms", "dicom/level1.dcm"])
def test_a_single_slide_comes_with_its_files(name: str, archive: Path, tmp_path: Path, s3: S3):
    bucket = s3.make_bucket(f"single-{name.replace('/', '-').lower()}")
    s3.upload(archive, bucket)
    (local,), _, _ = find_slides(archive / name, tmp_path / "out")
    with open_archive(Address("s3", bucket, name), None, Cache(tmp_path / "cache", 10**9)) as there:
        (remote,) = there.attach(find_slides(there.path, tmp_path / "out")[0])
        assert [file.name for file in remote.files] == [file.name for file in local.files]
        assert remote.sha256 == local.sha256


def test_a_listing_has_all_its_pages(tmp_path: Path, s3: S3):
    bucket = s3.make_bucket("many")
    for number in range(1_100):
        s3.client.put_object(Bucket=bucket, Key=f"s/{number:05}.svs", Body=b"x")
    with open_archive(Address("s3", bucket, "s"), None, Cache(tmp_path / "cache", 10**9)) as there:
        assert len(find_slides(there.path, tmp_path / "out")[0]) == 1_100


def test_names_that_no_file_can_have_are_outcomes(tmp_path: Path, s3: S3):
    bucket = s3.make_bucket("names")
    for key in ("s/a.svs", "s/a.svs/b.svs", "s/folder/c.svs", "s/" + "n" * 300 + ".svs", "s/odd/"):
        s3.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    s3.client.put_object(Bucket=bucket, Key="s/folder/", Body=b"")
    with open_archive(Address("s3", bucket, "s"), None, Cache(tmp_path / "cache", 10**9)) as there:
        assert [(one.source[:12], one.reason) for one in there.outcomes] == [
            ("a.svs/b.svs", "name not possible"),
            ("nnnnnnnnnnnn", "name not possible"),
            ("odd", "not found"),
        ]


@pytest.mark.parametrize("name", ["../a", "a/../b", "/a", "a//b", "a/./b", "a\0b", "n" * 256])
def test_names_that_lead_elsewhere_are_not_laid_out(name: str):
    assert not is_plain(name)
    assert is_plain("a/b c/ä#1.svs")


def test_the_output_folder_is_no_part_of_the_archive(tmp_path: Path, s3: S3):
    bucket = s3.make_bucket("within")
    for key in ("a.svs", "out/a.tiff", "outer/b.svs"):
        s3.client.put_object(Bucket=bucket, Key=key, Body=b"x")
    cache = Cache(tmp_path / "cache", 10**9)
    with open_sites(f"s3://{bucket}", f"s3://{bucket}/out", cache) as sites:
        assert [file for files, _ in found(*walked(sites.archive.path, tmp_path)) for file in files] == [
            "a.svs",
            "outer/b.svs",
        ]
    with (
        pytest.raises(UsageError, match="would share this folder"),
        open_sites(f"s3://{bucket}", f"s3://{bucket}/", cache),
    ):
        pass
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["locks"]


def walked(root: Path, out: Path) -> tuple[list[Source], Path]:
    return find_slides(root, out / "out")[0], root


def test_places_that_cannot_serve_are_refused(tmp_path: Path, s3: S3):
    bucket, cache = s3.make_bucket("refused"), Cache(tmp_path / "cache", 10**9)
    cases = [
        (f"s3://{bucket}", str(tmp_path / "out"), UsageError, "no such file or folder"),
        ("s3://no-such-bucket", str(tmp_path / "out"), RemoteError, "there is no bucket no-such-bucket"),
        (str(tmp_path), "https://host/out", UsageError, "a server cannot be written to"),
        (str(tmp_path), "s3://no-such-bucket/out", RemoteError, "there is no bucket no-such-bucket"),
        ("ftp://host/a", str(tmp_path / "out"), UsageError, "expected a path, or one address"),
    ]
    for source, output, kind, message in cases:
        with pytest.raises(kind, match=message), open_sites(source, output, cache):
            pass


@pytest.mark.parametrize("parts", [True, False])
def test_a_slide_on_a_web_server(parts: bool, tmp_path: Path):
    server = WebServer({"folder/a b.svs": b"pixels" * 1000}, parts)
    address = parse_place(f"{server.url}/folder/a%20b.svs?signature=SECRET")
    assert isinstance(address, Address)
    with open_archive(address, None, Cache(tmp_path / "cache", 10**9)) as there:
        (slide,) = there.attach(find_slides(there.path, tmp_path / "out")[0])
        assert slide.path.name == "a b.svs"
        with slide.staged() as staged:
            assert staged.path.read_bytes() == b"pixels" * 1000
    with (
        pytest.raises(UsageError, match="no such file on the server"),
        open_archive(Address("http", address.host, "folder"), None, Cache(tmp_path / "cache", 10**9)),
    ):
        pass
    server.close()
    shutil.rmtree(tmp_path / "cache")
