"""The ZIP around a summary: every MUST and SHOULD of OME-NGFF RFC-9, and what a hostile ZIP may try."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from summaries import write_tiny

from wsisum_cli.errors import SummaryError
from wsisum_cli.summary import container
from wsisum_cli.summary.container import (
    MAX_MEMBERS,
    SUFFIX,
    container_parts,
    layout_differs,
    leftovers,
    member_order,
    read_member,
    read_members,
    this_host,
    write_container,
    writing_aside,
)

CONTENTS = {"zarr.json": b"{}", "a/zarr.json": b"{}", "a/b/zarr.json": b"{}", "a/b/c/0": b"pixels" * 50, "b/c/0": b""}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny(tmp_path_factory.mktemp("container") / "tiny.ozx").read_bytes()


def end_records(data: bytes) -> dict[str, int | bytes]:
    """The end record with its comment, the ZIP64 locator, and the ZIP64 end record, as APPNOTE 6.3.10 lays them out."""
    at = data.rindex(b"PK\5\6")
    disk, start_disk, here, total, size, offset, length = struct.unpack_from("<HHHHIIH", data, at + 4)
    assert at + 22 + length == len(data), "nothing follows the comment"
    assert data[at - 20 : at - 16] == b"PK\6\7", "the ZIP64 locator stands before the end record"
    record_disk, record, disks = struct.unpack_from("<IQI", data, at - 16)
    assert data[record : record + 4] == b"PK\6\6"
    fields = struct.unpack_from("<QHHIIQQQQ", data, record + 4)
    assert record + 12 + fields[0] == at - 20, "the ZIP64 end record ends where its locator begins"
    return {
        "comment": data[at + 22 :],
        "disks": disks,
        "disk numbers": disk + start_disk + record_disk + fields[3] + fields[4],
        "sentinels": (here, total, size, offset) == (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        "entries": fields[6],
        "size": fields[7],
        "offset": fields[8],
        "record": record,
    }


def central_entries(data: bytes) -> list[dict[str, int | str | bytes]]:
    end = end_records(data)
    at, entries = int(end["offset"]), []
    for _ in range(int(end["entries"])):
        assert data[at : at + 4] == b"PK\1\2"
        made, need, flags, method, time, date, crc, packed, size = struct.unpack_from("<HHHHHHIII", data, at + 4)
        lengths = struct.unpack_from("<HHHHHII", data, at + 28)
        name = data[at + 46 : at + 46 + lengths[0]].decode()
        extra = data[at + 46 + lengths[0] : at + 46 + lengths[0] + lengths[1]]
        entries.append(
            {
                "name": name,
                "need": need,
                "flags": flags,
                "method": method,
                "stamp": (date, time),
                "crc": crc,
                "sentinels": (packed, size, lengths[6]) == (0xFFFFFFFF,) * 3,
                "extra": extra,
                "disk": lengths[3],
                "made": made,
            }
        )
        at += 46 + lengths[0] + lengths[1] + lengths[2]
    assert at == int(end["offset"]) + int(end["size"]) == end["record"], "the directory has no gap and no rest"
    return entries


def zarr_nodes(data: bytes) -> dict[str, dict]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: json.loads(archive.read(name)) for name in archive.namelist() if name.endswith("zarr.json")}


def test_archive_root_is_the_only_zarr_hierarchy(tiny: bytes):
    nodes = zarr_nodes(tiny)
    assert nodes["zarr.json"]["node_type"] == "group"
    assert "multiscales" in nodes["zarr.json"]["attributes"]["ome"]
    assert [name for name, node in nodes.items() if "ome" in node["attributes"]] == ["zarr.json"]
    names = [entry["name"] for entry in central_entries(tiny)]
    folders = {name.removesuffix("zarr.json") for name in nodes}
    assert all(any(name.startswith(f"{folder}c/") for folder in folders) for name in names if name not in nodes)


def test_no_zip_is_embedded(tiny: bytes):
    with zipfile.ZipFile(io.BytesIO(tiny)) as archive:
        for name in archive.namelist():
            assert not name.endswith((".zip", SUFFIX))
            assert not zipfile.is_zipfile(io.BytesIO(archive.read(name)))


def test_archive_is_not_split(tiny: bytes):
    end = end_records(tiny)
    assert (end["disks"], end["disk numbers"]) == (1, 0)
    assert all(entry["disk"] == 0 for entry in central_entries(tiny))


def test_zip64_is_always_used(tiny: bytes):
    for entry in central_entries(tiny):
        assert (entry["need"], entry["sentinels"]) == (45, True)
        kind, length, size, packed, offset = struct.unpack("<HHQQQ", entry["extra"])
        assert (kind, length) == (1, 24)
        assert size == packed
        assert tiny[offset : offset + 4] == b"PK\3\4"


def test_members_are_stored_without_compression_dates_or_gaps(tiny: bytes):
    at = 0
    for entry in central_entries(tiny):
        size, _, offset = struct.unpack_from("<QQQ", entry["extra"], 4)
        assert offset == at, "local records follow each other in the order of the directory"
        need, flags, method, time, date, crc, packed32, size32, name, extra = struct.unpack_from(
            "<HHHHHIIIHH", tiny, at + 4
        )
        assert (need, flags, method, (date, time)) == (45, entry["flags"], 0, (0x21, 0))
        assert (entry["method"], entry["stamp"], entry["flags"]) == (0, (0x21, 0), 0x800)
        assert (packed32, size32) == (0xFFFFFFFF, 0xFFFFFFFF)
        assert tiny[at + 30 : at + 30 + name].decode() == entry["name"]
        assert struct.unpack_from("<HHQQ", tiny, at + 30 + name) == (1, 16, size, size)
        start = at + 30 + name + extra
        assert zlib.crc32(tiny[start : start + size]) == crc == entry["crc"]
        at = start + size
    assert at == end_records(tiny)["offset"]


def test_pixel_arrays_are_sharded_and_each_array_is_one_member(tiny: bytes):
    nodes, names = zarr_nodes(tiny), [str(entry["name"]) for entry in central_entries(tiny)]
    pixels = [node for name, node in nodes.items() if name.split("/")[-2:-1] in (["pixels"], ["tiles"])]
    assert pixels
    assert all(node["codecs"][0]["name"] == "sharding_indexed" for node in pixels)
    for name in (name for name, node in nodes.items() if node["node_type"] == "array"):
        assert len([n for n in names if n.startswith(name.removesuffix("zarr.json") + "c/")]) == 1


def test_metadata_come_first_in_breadth_first_order(tiny: bytes):
    names = [str(entry["name"]) for entry in central_entries(tiny)]
    metadata = [name for name in names if name.endswith("zarr.json")]
    assert names[: len(metadata)] == metadata
    assert names[0] == "zarr.json"
    depths = [name.count("/") for name in metadata]
    assert depths == sorted(depths)
    assert len(set(names)) == len(names)


def test_comment_is_json_with_the_ome_zarr_version(tiny: bytes):
    comment = json.loads(bytes(end_records(tiny)["comment"]).decode("utf-8"))
    assert comment == {"ome": {"version": "0.5", "zipFile": {"centralDirectory": {"jsonFirst": True}}}}
    assert comment["ome"]["version"] == zarr_nodes(tiny)["zarr.json"]["attributes"]["ome"]["version"]


def test_the_name_ends_with_ozx():
    assert SUFFIX == ".ozx"


def test_members_are_regular_readable_files(tiny: bytes):
    with zipfile.ZipFile(io.BytesIO(tiny)) as archive:
        assert archive.testzip() is None
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o100644}


NAMES = st.from_regex(r"[a-z0-9_]{1,8}(/[a-z0-9_.]{1,8}){0,3}", fullmatch=True).filter(
    lambda name: not {".", "..", ""} & set(name.split("/"))
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.dictionaries(NAMES, st.binary(max_size=60), min_size=1, max_size=8), st.data())
def test_archive_is_readable_by_us_and_by_zipfile(contents: dict[str, bytes], data: st.DataObject):
    packed = b"".join(container_parts(contents))
    file = io.BytesIO(packed)
    members = read_members(file, "x")
    assert {member.name: read_member(file, member) for member in members} == contents
    assert layout_differs(file, members) is None
    with zipfile.ZipFile(file) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == contents
    member = data.draw(st.sampled_from(members))
    start, size = data.draw(st.integers(0, 70)), data.draw(st.integers(0, 70))
    assert read_member(file, member, start, size) == contents[member.name][start : start + size]
    shuffled = dict(data.draw(st.permutations(list(contents.items()))))
    assert b"".join(container_parts(shuffled)) == packed


def test_order():
    names = ["zarr.json", "a/zarr.json", "b/zarr.json", "a/x/zarr.json", "a/c/0", "b/a/c/0"]
    mixed = [names[at] for at in (4, 2, 0, 5, 3, 1)]
    assert sorted(mixed, key=member_order) == names


# ------------------------------------------------------------------------------------- hostile and foreign ZIPs


def zip_of(contents: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return file


@pytest.mark.parametrize(
    "name",
    [
        *("../evil", "a/../../evil", "/etc/passwd", "a//b", "./a", "C:/evil", "C:evil", "..\\evil", "\\\\host\\evil"),
        *("a/b\nc", "a\x7f", "caf\u00e9", "a|b", "a?b", "a*b", '"', "<a>", ".."),
    ],
)
def test_names_pointing_outside_the_archive_are_refused(name: str):
    with pytest.raises(SummaryError, match="points outside the archive"):
        read_members(zip_of({"zarr.json": b"{}", name: b""}), "x.ozx")


def test_name_with_a_nul_byte_is_refused():
    file = io.BytesIO(zip_of({"zarr.json": b"{}", "a#../evil": b""}).getvalue().replace(b"a#..", b"a\0.."))
    with pytest.raises(SummaryError):
        read_members(file, "x.ozx")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zips_of_other_tools_are_readable_but_differ_in_layout(method: int):
    file = zip_of({"a/": b"", **CONTENTS}, method)
    members = read_members(file, "x.ozx")
    assert {member.name: read_member(file, member) for member in members} == CONTENTS
    long = next(member for member in members if member.name == "a/b/c/0")
    assert read_member(file, long, 6, 6) == b"pixels"
    assert layout_differs(file, members)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unsupported_compression_is_refused(method: int):
    with pytest.raises(SummaryError, match="unsupported method"):
        read_members(zip_of(CONTENTS, method), "x.ozx")


def test_encrypted_members_are_refused():
    data = bytearray(zip_of(CONTENTS).getvalue())
    data[data.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(SummaryError, match="encrypted"):
        read_members(io.BytesIO(data), "x.ozx")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("field", ["size", "both"])
def test_impossible_sizes_are_refused_before_allocation(method: int, field: str):
    data = bytearray(zip_of(CONTENTS, method).getvalue())
    at = data.index(b"PK\1\2")
    struct.pack_into("<I", data, at + 24, 0xF0000000)
    if field == "both":
        struct.pack_into("<I", data, at + 20, 0xF0000000)
    tracemalloc.start()
    try:
        with pytest.raises(SummaryError, match="claims"):
            read_members(io.BytesIO(data), "x.ozx")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_members_that_begin_before_the_file_are_refused():
    data = bytearray(b"".join(container_parts(CONTENTS)))
    end = data.rindex(b"PK\6\6")
    struct.pack_into("<Q", data, end + 48, struct.unpack_from("<Q", data, end + 48)[0] + 4096)  # of the directory
    with pytest.raises(SummaryError):
        read_members(io.BytesIO(data), "x.ozx")


def test_members_that_share_their_bytes_are_refused():
    data = bytearray(zip_of({"zarr.json": b"{}", "a": b"1"}).getvalue())
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 4)
    struct.pack_into("<I", data, second + 42, 0)
    with pytest.raises(SummaryError, match="claim the same bytes"):
        read_members(io.BytesIO(data), "x.ozx")


def test_a_list_of_too_many_members_is_refused():
    parts = container_parts({f"m/{number}": b"" for number in range(MAX_MEMBERS + 1)})
    with pytest.raises(SummaryError, match="expected at most 1000 members"):
        read_members(io.BytesIO(b"".join(parts)), "x.ozx")


def test_inflation_stops_at_the_stated_size():
    data = bytearray(zip_of({"zarr.json": bytes(10_000_000)}, zipfile.ZIP_DEFLATED).getvalue())
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, 100_000)
    file = io.BytesIO(data)
    (member,) = read_members(file, "x.ozx")
    assert len(read_member(file, member)) == 100_000


def test_damaged_deflate_data_are_refused():
    data = bytearray(zip_of({"zarr.json": bytes(1000)}, zipfile.ZIP_DEFLATED).getvalue())
    data[39] = 0xFF
    file = io.BytesIO(data)
    with pytest.raises(SummaryError, match="inflated"):
        read_member(file, read_members(file, "x.ozx")[0])


@pytest.mark.parametrize("data", [b"", b"PK", b"slide,mpp\n", b"II*\0" + bytes(300), bytes(4096)])
def test_file_that_is_not_a_zip_is_refused(data: bytes):
    with pytest.raises(SummaryError, match="not a readable ZIP file"):
        read_members(io.BytesIO(data), "x.ozx")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"#!" + data,
        lambda data: data + b"\0",
        lambda data: data.replace(b"jsonFirst", b"jsonfirst"),
        lambda data: data.replace(b"\x21\x00", b"\x22\x00", 1),
    ],
    ids=["prepended", "appended", "comment", "date"],
)
def test_every_byte_between_members_is_checked(change):
    file = io.BytesIO(change(b"".join(container_parts(CONTENTS))))
    try:
        members = read_members(file, "x.ozx")
    except SummaryError:
        return
    assert layout_differs(file, members)


# ------------------------------------------------------------------------------------------- writing to the disk


def test_failed_write_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "B12.ozx"
    path.write_bytes(b"before")

    def fail() -> None:
        with writing_aside(path) as aside:
            write_container(aside, CONTENTS)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    with writing_aside(path) as aside:
        assert aside.parent == path.parent
        write_container(aside, CONTENTS)
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"".join(container_parts(CONTENTS))
    assert list(tmp_path.iterdir()) == [path]


def test_errors_name_the_requested_file(tmp_path: Path):
    (tmp_path / "folder.ozx").mkdir()
    for path in (tmp_path / "none" / "B12.ozx", tmp_path / "folder.ozx"):
        with pytest.raises(OSError) as raised, writing_aside(path) as aside:  # noqa: PT011 - its kind is the system's
            write_container(aside, CONTENTS)
        assert raised.value.filename == str(path)
        assert str(raised.value).endswith(f": {str(path)!r}")


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path):
    for name in ("B[12].ozx", "other.ozx"):
        with writing_aside(tmp_path / name) as aside:
            left = aside.with_name(aside.name.replace(str(os.getpid()), "999999"))
            aside.write_bytes(b"whole")
        left.write_bytes(b"half")
    with writing_aside(tmp_path / "B[12].ozx") as aside:
        write_container(aside, CONTENTS)
    assert sorted(os.listdir(tmp_path)) == sorted([left.name, "B[12].ozx", "other.ozx"])


def test_longest_file_name_can_be_written(tmp_path: Path):
    path = tmp_path / ("n" * 251 + ".ozx")
    with writing_aside(path) as aside:
        write_container(aside, CONTENTS)
    assert path.is_file()


#: Writes a file aside, and goes on when told to.
WRITER = """
import sys
from pathlib import Path
from wsisum_cli.summary.container import writing_aside
with writing_aside(Path(sys.argv[1])) as aside:
    aside.write_bytes(b"theirs")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_two_processes_that_write_one_file_leave_each_other_alone(tmp_path: Path):
    path = tmp_path / "B12.ozx"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        with writing_aside(path) as aside:
            aside.write_bytes(b"ours")
        assert path.read_bytes() == b"ours"
        other.communicate("\n")
    assert other.returncode == 0
    assert path.read_bytes() == b"theirs"  # who finishes last
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_unknown_owners_stay_until_they_are_old(tmp_path: Path):
    path = tmp_path / "B12.ozx"
    with writing_aside(path) as aside:
        aside.write_bytes(b"whole")
    elsewhere = aside.with_name(aside.name.replace(this_host(), "0" * 8))
    alive = aside.with_name(aside.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-"))
    earlier = aside.with_name(f"{aside.name.partition('-')[0][:18]}4711.part")  # as earlier versions wrote it
    for left in (elsewhere, alive, earlier):
        left.write_bytes(b"half")
    assert leftovers(path) == []
    long_ago = time.time() - 3 * 24 * 3600
    os.utime(elsewhere, (long_ago, long_ago))
    os.utime(earlier, (long_ago, long_ago))
    assert set(leftovers(path)) == {elsewhere, earlier}


def test_a_folder_that_is_slow_to_list_is_not_listed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    listed = []
    monkeypatch.setattr(container, "QUICK", -1.0)
    monkeypatch.setattr(container, "LISTING_SHARE", 1e-9)
    monkeypatch.setattr(container.os, "listdir", lambda folder: listed.append(folder) or [])
    for _ in range(3):
        leftovers(tmp_path / "a.ozx")
    assert listed == [tmp_path]
