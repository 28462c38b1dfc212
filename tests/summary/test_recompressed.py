"""Summaries whose JPEG streams are stored as JPEG XL: smaller, and otherwise the same to everything that reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from draw import draw_tissue, write_svs
from schema import VALIDATOR
from summaries import (
    KEPT,
    LENIENT,
    STUB,
    as_jpeg_xl,
    find_stub,
    shipped_encoder,
    sign_again,
    tiny_contents,
    unpack,
    write_tiny,
)

from wsisum_cli.archive.plan import changed_options
from wsisum_cli.errors import CodecError, SummaryError
from wsisum_cli.exports.export import export_summary
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.figures.pages.slide_page import slide_page
from wsisum_cli.figures.words import summary_lines
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.migrate import migrate_summary
from wsisum_cli.pipeline.product import summary_figures
from wsisum_cli.pipeline.reembed import reembed_summary
from wsisum_cli.pipeline.shared_budget import read_cuttable
from wsisum_cli.pipeline.trim import trim_summary
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary import pixels as stored_pixels
from wsisum_cli.summary.arrays import encode_array, encode_rows
from wsisum_cli.summary.inspection import inspect_summary
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.summary.stored import jpeg_rows
from wsisum_cli.summary.stored.jpeg_xl import transcode
from wsisum_cli.summary.writer import JPEG_BYTES, PIXELS, TILES, size_of, write_summary
from wsisum_cli.verification.verify import verify_summary

MODES = ("source", "jpeg")
each = pytest.mark.parametrize("mode", MODES)


def tools(threads: int = 2) -> Tools:
    return Tools(shipped_encoder(), threads)


def compress(folder: Path, name: str, threads: int = 2, **options: Any) -> Any:
    wanted = Options(**{"draws": 100, "thresholds": LENIENT, "recompress": "jxl", "keep": 12, **options})
    source = find_source(folder / "B12.svs")
    return compress_slide(Job(source, folder / name, "B12.svs"), wanted, tools(threads))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide, and summaries of it with and without recompression, in both modes of pixels."""
    found = tmp_path_factory.mktemp("drawn")
    write_svs(found / "B12.svs", draw_tissue(3000, 2500, 3), rgb_jpeg=True)
    for mode in MODES:
        compress(found, f"{mode}.ozx", pixels=mode)
        compress(found, f"{mode}-plain.ozx", pixels=mode, recompress=None)
    return found


def streams(summary: Summary) -> list[bytes]:
    return [summary.patches.shard.stream(row) for row in range(len(summary.patches.shard))]


def stored(summary: Summary) -> list[bytes]:
    return [summary.patches.shard.stored(row) for row in range(len(summary.patches.shard))]


def errors(path: Path, *arguments: Any) -> list[str]:
    found = verify_summary(path, *arguments).findings
    return [finding.code for finding in found if finding.severity == "error"]


@each
def test_it_is_smaller_and_otherwise_the_same(folder: Path, mode: str):
    with open_summary(folder / f"{mode}.ozx") as small, open_summary(folder / f"{mode}-plain.ozx") as plain:
        assert streams(small) == streams(plain)
        assert all(stream.startswith(jpeg.SOI) for stream in streams(small))
        assert sum(map(len, stored(small))) < 0.95 * sum(map(len, stored(plain)))
        assert small.size < plain.size
        assert all(np.array_equal(*pair) for pair in zip(small.patches, plain.patches, strict=True))
        assert np.array_equal(small.overview, plain.overview)
        lengths = small.patches.shard.jpeg_bytes
        assert lengths is not None
        assert lengths.tolist() == [len(stream) for stream in streams(plain)]
        assert small.attributes["pixels"] == {**plain.attributes["pixels"], "recompressed": "jxl"}
        assert small.attributes["options"] == {**plain.attributes["options"], "recompress": "jxl"}
        VALIDATOR.validate(small.attributes)
        VALIDATOR.validate(plain.attributes)
        differ = {"pixels", "options", "members"}
        assert all(small.attributes[name] == plain.attributes[name] for name in small.attributes.keys() - differ)
        changed = {name for name in small.members if name not in plain.members or small.read(name) != plain.read(name)}
        array = TILES if mode == "source" else PIXELS
        assert {name for name in changed if not name.startswith(array)} == {"zarr.json"}


@each
def test_it_verifies_in_every_tier(folder: Path, mode: str):
    path = folder / f"{mode}.ozx"
    assert not errors(path, lambda card: shipped_encoder(), "source", folder / "B12.svs")
    assert not errors(path, lambda card: None, "full")
    assert not errors(path, lambda card: None, "quick")
    found = verify_summary(path, tier="source", source=folder / "B12.svs")
    assert found.measured.get("tiles_compared" if mode == "source" else "psnr_min")


@each
def test_the_same_slide_gives_the_same_bytes(folder: Path, mode: str):
    done = compress(folder, "again.ozx", threads=1, pixels=mode)
    assert done.output.read_bytes() == (folder / f"{mode}.ozx").read_bytes()
    assert done.bytes_out == done.output.stat().st_size


def test_the_most_bytes_are_those_that_are_stored(folder: Path):
    most = (folder / "jpeg-plain.ozx").stat().st_size
    done = compress(folder, "most.ozx", pixels="jpeg", keep=None, max_bytes=most)
    plain = compress(folder, "most-plain.ozx", pixels="jpeg", keep=None, max_bytes=most, recompress=None)
    assert done.bytes_out <= most
    assert done.attributes.patches > plain.attributes.patches


@each
def test_the_size_is_counted_as_it_is_stored(folder: Path, mode: str):
    contents = as_jpeg_xl(tiny_contents(mode))
    write_summary(folder / "tiny.ozx", contents)
    assert size_of(contents) == (folder / "tiny.ozx").stat().st_size
    cuttable = read_cuttable(folder / f"{mode}.ozx")
    trimmed = trim_summary(folder / f"{mode}.ozx", folder / "cut.ozx", 6, force=True)
    assert cuttable.cost(6) == pytest.approx(trimmed.bytes_out, rel=0.05)


@each
def test_trimming_keeps_what_is_stored(folder: Path, mode: str, tmp_path: Path):
    trim_summary(folder / f"{mode}.ozx", tmp_path / "a.ozx", 5)
    trim_summary(folder / f"{mode}-plain.ozx", tmp_path / "plain.ozx", 5)
    assert not errors(tmp_path / "a.ozx", lambda card: shipped_encoder(), "source", folder / "B12.svs")
    with open_summary(tmp_path / "a.ozx") as cut, open_summary(tmp_path / "plain.ozx") as plain:
        assert streams(cut) == streams(plain)
        assert cut.attributes["pixels"] == {**plain.attributes["pixels"], "recompressed": "jxl"}
        with open_summary(folder / f"{mode}.ozx") as before:
            assert set(stored(cut)) <= set(stored(before))
        VALIDATOR.validate(cut.attributes)


@each
def test_migration_and_further_features_keep_it(folder: Path, mode: str, tmp_path: Path):
    path = folder / f"{mode}.ozx"
    migrate_summary(path, tmp_path / "copy.ozx")
    assert (tmp_path / "copy.ozx").read_bytes() == path.read_bytes()
    card = shipped_encoder().card.model_copy(update={"sha256": "12" * 32, "name": "other"})

    class Other:
        provider, batch_size = "CPUExecutionProvider", 4

        def __init__(self) -> None:
            self.card = card

        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            return shipped_encoder()(pixels)

    other: Any = Other()
    reembed_summary(path, tmp_path / "more.ozx", other)
    with open_summary(tmp_path / "more.ozx") as summary, open_summary(path) as before:
        assert stored(summary) == stored(before)
        np.testing.assert_allclose(summary.reembedded[0], before.features, atol=0.02)


@each
def test_pages_and_words_show_it(folder: Path, mode: str):
    with open_summary(folder / f"{mode}.ozx") as small, open_summary(folder / f"{mode}-plain.ozx") as plain:
        facts = inspect_summary(small)
        assert "stored as JPEG XL" in summary_lines(facts, None, False)["patches"]
        assert facts.as_json()["pixel_storage"]["recompressed"] == "jxl"
        assert "stored as JPEG XL" not in summary_lines(inspect_summary(plain), None, False)["patches"]
        page = slide_page(small)
        assert page.count("data:image/jpeg;base64,") == slide_page(plain).count("data:image/jpeg;base64,")
        assert "image/jxl" not in page


# ------------------------------------------------------------------------------------------------------- exports


def files_of(folder: Path) -> dict[str, bytes]:
    if folder.is_file():
        return {folder.name: folder.read_bytes()}
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@each
@pytest.mark.parametrize("target", ["h5", "geojson", "tiff", "patches"])
def test_exports_are_those_of_plain_jpeg(folder: Path, tmp_path: Path, mode: str, target: str):
    for name in (mode, f"{mode}-plain"):
        options = ExportOptions(name="B12")
        export_summary(folder / f"{name}.ozx", tmp_path / name, TARGETS[target], options)
    found, plain = (files_of(tmp_path / name) for name in (mode, f"{mode}-plain"))
    if (tmp_path / mode).is_file():
        found, plain = ({"": next(iter(files.values()))} for files in (found, plain))
    assert found == plain
    if target == "patches" and mode == "jpeg":
        with open_summary(folder / "jpeg.ozx") as summary:
            assert set(streams(summary)) <= set(found.values())
    if target == "tiff" and mode == "source":
        with open_summary(folder / "source.ozx") as summary:
            assert all(stream in next(iter(found.values())) for stream in streams(summary))


@each
def test_a_folder_of_zarr_holds_plain_jpeg(folder: Path, tmp_path: Path, mode: str):
    export_summary(folder / f"{mode}.ozx", tmp_path / "a.zarr", TARGETS["zarr"])
    found, plain = files_of(tmp_path / "a.zarr"), unpack(folder / f"{mode}-plain.ozx")
    assert {name: data for name, data in found.items() if name != "zarr.json"} == {
        name: data for name, data in plain.items() if name != "zarr.json"
    }
    attributes, wanted = (json.loads(files["zarr.json"])["attributes"]["wsisum"] for files in (found, plain))
    assert {name: attributes[name] for name in ("members", "pixels")} == {
        name: wanted[name] for name in ("members", "pixels")
    }


def test_zarr_lists_every_array(folder: Path):
    script = (
        "import sys, zarr; from zarr.storage import ZipStore\n"
        "sys.modules['wsisum_cli'] = None\n"
        "root = zarr.open_group(ZipStore(sys.argv[1], mode='r'), mode='r')\n"
        "arrays = {name: node[...] for name, node in root.members(max_depth=None) if hasattr(node, 'shape')}\n"
        "print(len(arrays), arrays['patches/tiles'][0][:12].tobytes().hex(), *arrays['patches/tiles_jpeg_bytes'])"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(folder / "source.ozx")]
    count, first, *sizes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(count) > 15
    assert first == "0000000c4a584c200d0a870a"
    with open_summary(folder / "source.ozx") as summary:
        assert [int(size) for size in sizes] == [len(stream) for stream in streams(summary)]


# ---------------------------------------------------------------------------------------- what does not come back


@each
def test_one_stream_that_does_not_come_back_leaves_all_plain(folder: Path, mode: str, monkeypatch: pytest.MonkeyPatch):
    with open_summary(folder / f"{mode}-plain.ozx") as plain:
        bad = streams(plain)[-1]
    monkeypatch.setattr(stored_pixels, "transcode", lambda stream: None if stream == bad else transcode(stream))
    done = compress(folder, "kept.ozx", pixels=mode)
    assert "patches are stored as JPEG: " in summary_figures(done.attributes)["message"]
    with open_summary(done.output) as summary, open_summary(folder / f"{mode}-plain.ozx") as plain:
        assert summary.attributes["pixels"] == plain.attributes["pixels"]
        assert summary.patches.shard.jpeg_bytes is None
        assert stored(summary) == stored(plain)
        assert not any(JPEG_BYTES in name for name in summary.members)
    assert not errors(done.output)


def test_what_saves_nothing_stays_plain(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stored_pixels, "transcode", lambda stream: stream + b"more")
    done = compress(folder, "kept.ozx", pixels="jpeg")
    assert done.attributes.pixels.recompressed is None


def test_more_px_than_readers_make_room_for_stay_plain(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jpeg_rows, "FREE_RESTORED", 0)
    monkeypatch.setattr(jpeg_rows, "PX_PER_BYTE", 1)
    done = compress(folder, "kept.ozx", pixels="source")
    assert done.attributes.pixels.recompressed is None


def test_asking_for_it_makes_a_summary_again(folder: Path):
    request: Any = type("Request", (), {})()
    job: Any = type("Job", (), {"mask": None})()
    asked = {"draws": 100, "thresholds": LENIENT, "keep": 12, "pixels": "source"}
    for recompress, name, wanted in (
        ("jxl", "source-plain", ["recompress default -> jxl"]),
        (None, "source", ["recompress jxl -> default"]),
        ("jxl", "source", []),
        (None, "source-plain", []),
    ):
        request.options = Options(**{**asked, "recompress": recompress})
        with open_summary(folder / f"{name}.ozx") as summary:
            assert changed_options(request, job, summary.record) == wanted


# ------------------------------------------------------------------------------------------------ damage, and lies

Members = dict[str, bytes]
Change = Callable[[Members, dict[str, Any]], None]


def with_rows(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    """Other rows of patches, with checksums that fit."""

    def apply(members: Members, _: dict[str, Any]) -> None:
        files = as_jpeg_xl(tiny_contents("jpeg")).pixels
        assert isinstance(files, list)
        members |= encode_rows(PIXELS, change(files), "patch")

    return apply


def with_sizes(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Other bytes of the JPEG streams."""

    def apply(members: Members, _: dict[str, Any]) -> None:
        sizes = as_jpeg_xl(tiny_contents("jpeg")).jpeg_bytes
        assert sizes is not None
        members |= encode_array(f"{PIXELS}{JPEG_BYTES}", change(sizes), ["patch"])

    return apply


def without_sizes(members: Members, _: dict[str, Any]) -> None:
    for name in [name for name in members if name.startswith(f"{PIXELS}{JPEG_BYTES}")]:
        del members[name]


def stated(**changes: Any) -> Change:
    def apply(_: Members, attributes: dict[str, Any]) -> None:
        attributes["pixels"] |= changes

    return apply


def unstated(_: Members, attributes: dict[str, Any]) -> None:
    del attributes["pixels"]["recompressed"]


def flip(row: bytes) -> bytes:
    return row[:-20] + bytes((row[-20] ^ 8,)) + row[-19:]


def other_image(_: bytes) -> bytes:
    return transcode(jpeg.encode(np.full((64, 32, 3), 90, np.uint8))) or b""


LIES: dict[str, tuple[Change, str]] = {
    "a flipped bit": (with_rows(lambda rows: [*rows[:-1], flip(rows[-1])]), "patch-damaged"),
    "no JPEG XL": (with_rows(lambda rows: [b"\xff\xd8\xff\xd9", *rows[1:]]), "patch-damaged"),
    "an image of another size": (with_rows(lambda rows: [other_image(rows[0]), *rows[1:]]), "patch-damaged"),
    "patches in another order": (with_rows(lambda rows: rows[::-1]), "patch-damaged"),
    "a size too large": (with_sizes(lambda sizes: sizes + 1), "patch-damaged"),
    "a size of gigabytes": (with_sizes(lambda sizes: np.full_like(sizes, 2**31 - 1)), "patch-damaged"),
    "a size of nothing": (with_sizes(lambda sizes: sizes * 0), "patch-damaged"),
    "a size less": (with_sizes(lambda sizes: sizes[:-1]), "array-damaged"),
    "sizes of another type": (with_sizes(lambda sizes: sizes.astype(np.float64)), "array-damaged"),
    "no sizes": (without_sizes, "array-damaged"),
    "rows that are not stated": (unstated, "patch-damaged"),
    "another codec": (stated(recompressed="avif"), "attributes"),
    "no codec": (stated(recompressed=True), "attributes"),
}


def write_lie(path: Path, change: Change) -> Path:
    write_summary(path, as_jpeg_xl(tiny_contents("jpeg")))
    return resigned(path, unpack(path), change)


def resigned(path: Path, members: Members, change: Change) -> Path:
    root = json.loads(members["zarr.json"])
    change(members, root["attributes"]["wsisum"])
    return sign_again(path, {**members, "zarr.json": json.dumps(root).encode()})


@pytest.mark.parametrize("name", LIES)
def test_lies_with_fitting_checksums_are_found(name: str, tmp_path: Path):
    change, code = LIES[name]
    path = write_lie(tmp_path / "a.ozx", change)
    assert code in errors(path, find_stub)
    with pytest.raises(SummaryError, match=r"a\.ozx"):
        export_summary(path, tmp_path / "out", TARGETS["patches"])
    with pytest.raises(SummaryError, match=r"a\.ozx"):
        trim_summary(path, tmp_path / "b.ozx", 3)


def test_lengths_beside_plain_streams_are_found(tmp_path: Path):
    write_summary(tmp_path / "plain.ozx", tiny_contents("jpeg"))
    members = unpack(tmp_path / "plain.ozx")
    members |= encode_array(f"{PIXELS}{JPEG_BYTES}", np.full(KEPT, 9, np.int32), ["patch"])
    sign_again(tmp_path / "plain.ozx", members)
    assert "array-damaged" in errors(tmp_path / "plain.ozx", find_stub)


def test_a_library_without_the_codec_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """What it cannot decode is not damaged."""
    monkeypatch.setattr(imagecodecs.JPEGXL, "available", False)
    with open_summary(folder / "jpeg.ozx") as summary, pytest.raises(CodecError, match="expected one with JPEG XL"):
        _ = summary.patches[0]
    with pytest.raises(CodecError, match="expected one with JPEG XL"):
        transcode(b"")


def test_another_picture_that_comes_back_whole_is_found(tmp_path: Path):
    """Its size may be right, too."""
    contents = as_jpeg_xl(tiny_contents("jpeg"))
    assert isinstance(contents.pixels, list)
    assert contents.jpeg_bytes is not None
    grey = jpeg.encode(np.full((32, 32, 3), 90, np.uint8))
    sizes = contents.jpeg_bytes.copy()
    sizes[0] = len(grey)
    write_summary(
        tmp_path / "a.ozx", replace(contents, pixels=[transcode(grey) or b"", *contents.pixels[1:]], jpeg_bytes=sizes)
    )
    assert "features-differ" in errors(tmp_path / "a.ozx", find_stub)


def test_a_plain_summary_that_is_said_to_be_recompressed_is_refused(tmp_path: Path):
    path = write_tiny(tmp_path / "a.ozx")
    resigned(path, unpack(path), stated(recompressed="jxl"))
    assert errors(path) == ["array-damaged"]


@each
def test_any_flipped_bit_of_a_row_is_an_error(mode: str, tmp_path: Path):
    write_summary(tmp_path / "a.ozx", as_jpeg_xl(tiny_contents(mode)))
    with open_summary(tmp_path / "a.ozx") as summary:
        member = summary.members[summary.patches.shard.member]
    data = (tmp_path / "a.ozx").read_bytes()
    for at in np.random.default_rng(0).integers(member.start, member.start + member.size, 20).tolist():
        (tmp_path / "b.ozx").write_bytes(data[:at] + bytes((data[at] ^ 16,)) + data[at + 1 :])
        assert "checksum" in errors(tmp_path / "b.ozx")


def test_one_damaged_row_costs_one_patch(tmp_path: Path):
    path = write_lie(tmp_path / "a.ozx", LIES["a flipped bit"][0])
    with open_summary(path) as summary:
        assert len(summary.patches) == KEPT
        assert STUB(np.stack(summary.patches[:-1])).shape == (KEPT - 1, STUB.card.dims)
        with pytest.raises(SummaryError, match=r"chunk 7 of patches/pixels/c/0/0 cannot be restored"):
            summary.patches[-1]


def test_a_file_of_an_earlier_format_is_not_recompressed(tmp_path: Path):
    path = Path(__file__).parents[1] / "data" / "formats" / "1.4-jpeg.ozx"
    resigned(tmp_path / "a.ozx", unpack(path), stated(recompressed="jxl"))
    assert "attributes" in errors(tmp_path / "a.ozx")
