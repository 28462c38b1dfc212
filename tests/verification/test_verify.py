"""For each kind of damage: that it is found, by which tier, and under which code."""

from __future__ import annotations

import copy
import io
import json
import random
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_forged
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import expected_embedding
from PIL import ImageCms
from summaries import (
    DIMS,
    KEPT,
    LENIENT,
    STUB,
    TISSUE,
    compress_drawn,
    find_stub,
    shipped_encoder,
    shipped_models_like,
    sign_again,
    tiny_contents,
    tiny_models,
    unpack,
    write_changed,
    write_tiny,
)

from wsisum_cli.errors import ModelError, SummaryError
from wsisum_cli.quality.guarantee import guaranteed
from wsisum_cli.quality.verdict import compare_with_chance, read_thresholds
from wsisum_cli.slides import jpeg
from wsisum_cli.summary.arrays import encode_array, encode_rows
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.container import container_parts, write_container
from wsisum_cli.summary.inspection import inspect_summary
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.summary.writer import write_summary
from wsisum_cli.verification.finding import CODES, Verification
from wsisum_cli.verification.verify import is_whole, verify_summary

Members = dict[str, bytes]
Raw = dict[str, Any]
Change = Callable[[Members, Raw], None]
MODES = ("source", "jpeg")
NOT_RECOMPUTED = {"features-not-recomputed", "embedding-not-recomputed"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {mode: write_tiny(folder / f"{mode}.ozx", mode) for mode in (*MODES, "models")}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return compress_drawn(tmp_path_factory.mktemp("drawn"))


def verify(path: Path, tier: str = "full", source: Path | None = None) -> Verification:
    """With the tiny models; whatever is found has the form of a finding, and is no failure of ours."""
    result = verify_summary(path, find_stub, tier, source, 1, find_summarizer, find_slide_encoder)
    for finding in result.findings:
        assert finding.code in CODES
        assert finding.severity in ("error", "warning", "info")
        assert finding.message
        assert finding.code != "internal", finding.message
    json.dumps(result.as_dict(), allow_nan=False)
    return result


def find_summarizer(_card: Any) -> Any:
    return tiny_models().summarizer


def find_slide_encoder(_card: Any) -> Any:
    return tiny_models().slide_encoder


def codes(result: Verification) -> set[str]:
    return {finding.code for finding in result.findings}


@pytest.mark.parametrize("mode", [*MODES, "models"])
@pytest.mark.parametrize("tier", ["quick", "full"])
def test_valid_summary_has_no_findings(tiny: dict[str, Path], mode: str, tier: str):
    result = verify(tiny[mode], tier)
    assert result.ok
    assert result.findings == []
    assert (tier == "quick") == (result.measured == {})
    assert is_whole(tiny[mode])


# ---------------------------------------------------------------------------------------------- single flipped bits


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


@contextmanager
def flipped_in_place(path: Path, bit: int) -> Iterator[None]:
    """The same for a file, which is as before afterwards."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(bit >> 3)
        (before,) = file.read(1)
        for value in (before ^ 1 << (bit & 7), before):
            file.seek(bit >> 3)
            file.write(bytes([value]))
            if value != before:
                yield


@pytest.mark.parametrize("mode", [*MODES, "models"])
def test_any_flipped_bit_is_an_error(tiny: dict[str, Path], tmp_path: Path, mode: str):
    data, path = tiny[mode].read_bytes(), tmp_path / "x.ozx"
    bits = random.Random(mode).sample(range(8 * len(data)), 1000)
    path.write_bytes(data)
    for bit in bits:
        with flipped_in_place(path, bit):
            findings = verify(path).findings
        assert any(finding.severity == "error" for finding in findings), bit
    assert path.read_bytes() == data


def test_quick_tier_detects_any_flipped_header_bit(tiny: dict[str, Path], tmp_path: Path):
    data, path = tiny["jpeg"].read_bytes(), tmp_path / "x.ozx"
    directory = data.index(b"PK\1\2")
    rng = random.Random(2)
    everywhere = [8 * at + rng.randrange(8) for at in (*range(0, 2000, 2), *range(directory, len(data), 8))]
    end = range(8 * data.index(b"PK\6\6"), 8 * len(data), 3)
    path.write_bytes(data)
    for bit in (*everywhere, *end):
        with flipped_in_place(path, bit):
            assert not verify(path, "quick").ok, bit


@pytest.mark.parametrize("mode", MODES)
def test_quick_tier_checks_structure_not_data(tiny: dict[str, Path], tmp_path: Path, mode: str):
    data, path = tiny[mode].read_bytes(), tmp_path / "x.ozx"
    seen = {"root": 0, "header": 0, "directory": 0, "data": 0}
    with open_summary(tiny[mode]) as summary:
        member = summary.members["patches/features/c/0/0"]
        places = {
            "root": summary.members["zarr.json"].start + 100,
            "header": member.offset + 14,
            "directory": data.index(b"PK\1\2") + 20,
            "data": member.start + 3,
        }
    for place, at in places.items():
        path.write_bytes(flipped(data, 8 * at))
        seen[place] = not verify(path, "quick").ok
        assert not verify(path, "full").ok
    assert seen == {"root": True, "header": True, "directory": True, "data": False}


@pytest.mark.parametrize("mode", MODES)
def test_damaged_pixels_name_the_lost_patches(tiny: dict[str, Path], tmp_path: Path, mode: str):
    data = tiny[mode].read_bytes()
    with open_summary(tiny[mode]) as summary:
        shard = summary.patches.shard
        row = 3 if mode == "jpeg" else summary.patches._rows[summary.patches.reading.tiles(*summary.coords[3])[2]]
        start, size = shard._index[row]
        first = summary.members[shard.member].start + start
    for at in (first, first + size // 2, first + size - 1):
        (tmp_path / "x.ozx").write_bytes(flipped(data, 8 * at + 1))
        lost = [finding for finding in verify(tmp_path / "x.ozx").findings if finding.code == "patch-damaged"]
        assert [finding.message.split(":")[0] for finding in lost] == ["patch 3"]
        with open_summary(tmp_path / "x.ozx") as summary:
            assert len([summary.patches[row] for row in range(KEPT) if row != 3]) == KEPT - 1
            with pytest.raises(SummaryError):
                summary.patches[3]


# ------------------------------------------------------------------------------------------------- changed containers


@pytest.mark.parametrize("mode", MODES)
def test_any_truncation_is_an_error(tiny: dict[str, Path], tmp_path: Path, mode: str):
    data, path = tiny[mode].read_bytes(), tmp_path / "x.ozx"
    lengths = {0, 1, 21, 22, *range(len(data) - 200, len(data)), *range(0, len(data), len(data) // 150)}
    for length in lengths:
        path.write_bytes(data[:length])
        for tier in ("quick", "full"):
            result = verify(path, tier)
            assert codes(result) <= {"unreadable", "layout"}, length
            assert not result.ok, length


def with_extra_member(path: Path, name: str = "extra/c/0") -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"data")


def with_duplicate(path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("patches/weights/c/0", archive.read("patches/coords/c/0/0"))


def zipped_anew(path: Path, method: int = zipfile.ZIP_DEFLATED, folders: bool = True) -> None:
    """As `zip -r` does, or `zip -0 -r`."""
    members = unpack(path)
    with zipfile.ZipFile(path, "w", method) as archive:
        for folder in sorted({f"{parent}/" for name in members for parent in Path(name).parents if parent.name}):
            if folders:
                archive.mkdir(folder)
        for name, data in sorted(members.items()):
            archive.writestr(name, data)


def without(path: Path, name: str) -> None:
    members = unpack(path)
    del members[name]
    write_container(path, members)


def with_swapped(path: Path, one: str, other: str) -> None:
    members = unpack(path)
    members[one], members[other] = members[other], members[one]
    write_container(path, members)


def renamed(path: Path, old: str, new: str) -> None:
    write_container(path, {new if name == old else name: data for name, data in unpack(path).items()})


def with_longer(path: Path) -> None:
    members = unpack(path)
    write_container(path, members | {"patches/weights/c/0": members["patches/weights/c/0"] + b"\0"})


def with_name(path: Path, old: bytes, new: bytes) -> None:
    assert len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old, new))


def as_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


STRUCTURE: list[tuple[str, set[str], Callable[[Path], None]]] = [
    ("missing", {"unreadable"}, lambda path: path.unlink()),
    ("folder", {"unreadable"}, lambda path: (path.unlink(), path.mkdir())[1]),
    ("empty", {"unreadable"}, as_bytes(lambda data: b"")),
    ("text", {"unreadable"}, as_bytes(lambda data: b"slide,mpp\nB12.svs,0.25\n" * 400)),
    ("appended", {"layout"}, as_bytes(lambda data: data.replace(b"e}}}}", b"e}}}}") + b"\0\0")),
    ("prepended", {"layout"}, as_bytes(lambda data: b"#!/bin/sh\n" + data)),
    ("another zip in front", {"layout"}, as_bytes(lambda data: data[:-300] + data)),
    ("extra member", {"layout", "unlisted-member"}, with_extra_member),
    ("extra folder", {"layout"}, lambda path: with_extra_member(path, "extra/")),
    ("missing member", {"missing-member"}, lambda path: without(path, "tissue/similarity/c/0")),
    ("missing metadata", {"missing-member"}, lambda path: without(path, "patches/zarr.json")),
    ("missing root", {"unreadable"}, lambda path: without(path, "zarr.json")),
    ("duplicate", {"layout", "checksum"}, with_duplicate),
    (
        "swapped",
        {"checksum", "member-size"},
        lambda path: with_swapped(path, "patches/cluster/zarr.json", "tissue/cluster/zarr.json"),
    ),
    ("longer", {"member-size", "checksum"}, with_longer),
    ("deflated", {"layout"}, zipped_anew),
    ("stored anew", {"layout"}, lambda path: zipped_anew(path, zipfile.ZIP_STORED)),
    ("without folders", {"layout"}, lambda path: zipped_anew(path, zipfile.ZIP_STORED, folders=False)),
    ("bzip2", {"unreadable"}, lambda path: zipped_anew(path, zipfile.ZIP_BZIP2)),
    ("climbs out", {"unreadable"}, lambda path: with_name(path, b"tissue/zarr.json", b"../../../ro.json")),
    ("absolute", {"unreadable"}, lambda path: with_name(path, b"tissue/zarr.json", b"/etc/passwd.json")),
    ("backslash", {"unreadable"}, lambda path: with_name(path, b"tissue/zarr.json", b"tissue\\zarr.json")),
    ("drive", {"unreadable"}, lambda path: with_name(path, b"tissue/zarr.json", b"C:ssue/zarr.json")),
    ("renamed", {"missing-member", "unlisted-member"}, lambda path: renamed(path, "0/c/0/0/0", "9/c/0/0/0")),
]


@pytest.mark.parametrize(("expected", "damage"), [row[1:] for row in STRUCTURE], ids=[row[0] for row in STRUCTURE])
def test_changed_containers_are_found(
    tiny: dict[str, Path], tmp_path: Path, expected: set[str], damage: Callable[[Path], None]
):
    path = tmp_path / "x.ozx"
    path.write_bytes(tiny["jpeg"].read_bytes())
    damage(path)
    result = verify(path)
    assert codes(result) - {"patch-damaged"} == expected or codes(result) == {"unreadable"} == expected
    assert not result.ok
    assert expected - {"checksum"} <= codes(verify(path, "quick"))
    try:
        assert not is_whole(path)
    except SummaryError:
        assert expected == {"unreadable"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_rezipped_summary_keeps_its_content(tiny: dict[str, Path], tmp_path: Path, method: int):
    path = tmp_path / "x.ozx"
    path.write_bytes(tiny["source"].read_bytes())
    zipped_anew(path, method)
    assert [finding.code for finding in verify(path).findings] == ["layout"]
    with open_summary(path) as anew, open_summary(tiny["source"]) as before:
        assert np.array_equal(np.stack(anew.patches), np.stack(before.patches))


def test_huge_sizes_are_refused_before_allocation(tiny: dict[str, Path], tmp_path: Path):
    members = unpack(tiny["jpeg"])
    metadata = json.loads(members["tissue/similarity/zarr.json"])
    metadata["shape"] = metadata["chunk_grid"]["configuration"]["chunk_shape"] = [10**9]
    huge = {
        "tissue/similarity/zarr.json": json.dumps(metadata).encode(),
        "tissue/similarity/c/0": b"\2\1\x21\2" + (2 * 10**9).to_bytes(4, "little") + b"\0\0\0\1\x10\0\0\0",
    }
    path = sign_again(tmp_path / "x.ozx", members | huge)
    bomb = jpeg.encode(np.zeros((8, 8, 3), np.uint8))
    frame = bomb.index(b"\xff\xc0")
    bomb = bomb[: frame + 5] + b"\xff\xff\xff\xff" + bomb[frame + 9 :]
    jpegs = encode_rows("patches/pixels", [bomb] * KEPT, "patch")
    other = sign_again(tmp_path / "y.ozx", {**members, **jpegs})
    verify(tiny["jpeg"])  # whatever is loaded once is loaded
    tracemalloc.start()
    try:
        assert codes(verify(path)) == {"array-damaged"}
        assert codes(verify(other)) == {"patch-damaged"}
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


# --------------------------------------------------------------------------- changes by somebody who signs them again


def array(name: str, change: Callable[[np.ndarray], Any]) -> Change:
    """Replace an array by what `change` makes of it."""

    def apply(members: Members, _attributes: Raw) -> None:
        with opened(members) as summary:
            values = summary.array(name)
        values = np.asarray(change(values))
        members |= encode_array(name, values, ["x"] * values.ndim)

    return apply


def opened(members: Members) -> Summary:
    return Summary(io.BytesIO(b"".join(container_parts(members))), "x.ozx")


def put(index: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[index] = value
        return values

    return change


def attribute(path: str, value: Any) -> Change:
    def apply(_members: Members, attributes: Raw) -> None:
        *parents, name = path.split(".")
        for parent in parents:
            attributes = attributes[parent]
        attributes[name] = value

    return apply


def metadata(name: str, *keys: Any, value: Any) -> Change:
    """Replace a value in an array's zarr.json."""

    def apply(members: Members, _attributes: Raw) -> None:
        root = at = json.loads(members[f"{name}/zarr.json"])
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        members[f"{name}/zarr.json"] = json.dumps(root).encode()

    return apply


def data(name: str, change: Callable[[bytes], bytes]) -> Change:
    def apply(members: Members, _attributes: Raw) -> None:
        members[name] = change(members[name])

    return apply


def streams(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    """Replace the JPEG streams of the patches."""

    def apply(members: Members, _attributes: Raw) -> None:
        with opened(members) as summary:
            shard = summary.patches.shard
            found = change([shard.stream(row) for row in range(len(shard))])
        members |= encode_rows("patches/pixels", found, "patch")

    return apply


def lengths(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Replace the lengths of the patches' streams."""

    def apply(members: Members, _attributes: Raw) -> None:
        with opened(members) as summary:
            found = change(summary.array("patches/pixels_bytes"))
        members |= encode_array("patches/pixels_bytes", found, ["patch"])

    return apply


def dropped(name: str) -> Change:
    """Take an array away."""

    def apply(members: Members, _attributes: Raw) -> None:
        for member in [member for member in members if member.startswith(f"{name}/")]:
            del members[member]

    return apply


def several(*changes: Change) -> Change:
    def apply(members: Members, attributes: Raw) -> None:
        for change in changes:
            change(members, attributes)

    return apply


def move_weight(weights: np.ndarray) -> np.ndarray:
    weights[[0, 1]] += (0.01, -0.01)
    return weights


SHARD = "patches/pixels/c/0/0"
GREY = jpeg.encode(np.full((32, 32, 3), 128, np.uint8))
TAMPERED: list[tuple[str, str, str, Change]] = [
    ("quality-differs", "weight moved", "jpeg", array("patches/weights", move_weight)),
    ("weights", "weights doubled", "jpeg", array("patches/weights", lambda w: 2 * w)),
    ("values", "map changed", "jpeg", array("tissue/representative", lambda r: r[::-1] * 0)),
    ("weights", "counts", "jpeg", array("patches/counts", lambda c: c[::-1])),
    ("quality-differs", "composition", "jpeg", attribute("quality.composition", 0.9)),
    ("quality-differs", "slide cosine", "models", attribute("quality.slide_cosine", 0.9)),
    ("quality-differs", "guaranteed area", "jpeg", attribute("guarantee.area_mm2", 0.0001)),
    ("quality-differs", "guaranteed areas", "jpeg", attribute("guarantee.areas_mm2", {"0.9": 0.0001})),
    ("attributes", "percentile", "jpeg", attribute("verdict.chance.percentile", 101)),
    ("verdict-differs", "chance", "jpeg", attribute("verdict.chance.percentile", 3)),
    ("verdict-differs", "verdict", "jpeg", attribute("verdict.verdict", "FAIL")),
    ("verdict-differs", "answer", "jpeg", attribute("verdict.well_chosen", "FAIL")),
    ("attributes", "represented share", "jpeg", attribute("represented.share", 0.12)),
    ("attributes", "represented area", "jpeg", attribute("represented.mm2", 0.001)),
    ("attributes", "unrepresented areas", "jpeg", attribute("represented.region_count", 7)),
    ("quality-differs", "lower yardstick", "jpeg", attribute("represented.cosine", 0.1)),
    ("quality-differs", "unread tissue", "jpeg", attribute("represented.unread", 7)),
    ("quality-differs", "fewest patches", "jpeg", attribute("represented.needed", 1)),
    ("attributes", "yardstick", "jpeg", attribute("represented.cosine", 2)),
    ("draws-differ", "draws", "jpeg", array("reference/draws", lambda d: d * 0)),
    ("verdict-differs", "draws of fewer", "jpeg", attribute("draws.keep", [1, 2, 4, KEPT - 1])),
    ("values", "draws do not ascend", "jpeg", array("reference/draws", lambda d: d[..., ::-1])),
    ("values", "draws not numbers", "models", array("reference/model_draws", put((0, 3), np.nan))),
    ("values", "earlier pick out of range", "jpeg", array("tissue/earlier_representative", put(0, KEPT))),
    ("values", "earlier cosine", "jpeg", array("tissue/earlier_similarity", put(0, np.nan))),
    ("values", "earlier ones not as many", "jpeg", array("tissue/earlier_count", put(0, KEPT - 1))),
    ("values", "earlier picks of nobody", "jpeg", array("tissue/earlier_representative", lambda p: p * 0 + KEPT - 1)),
    ("values", "earlier picks reversed", "jpeg", array("tissue/earlier_representative", lambda p: p[::-1])),
    ("values", "earlier cosines too high", "jpeg", array("tissue/earlier_similarity", lambda s: s * 0 + 1)),
    ("attributes", "slide cosine by nothing", "jpeg", attribute("quality.slide_cosine", 0.9)),
    ("attributes", "trimmed from fewer", "jpeg", attribute("trimmed_from", 3)),
    ("attributes", "number beyond all", "jpeg", attribute("verdict.thresholds.values", {"coverage": 10**400})),
    ("verdict-differs", "reasons", "jpeg", attribute("verdict.reasons", ["coverage is beyond doubt"])),
    ("values", "counts negative", "jpeg", array("patches/counts", put(0, -1))),
    ("array-damaged", "no draws", "jpeg", dropped("reference/draws")),
    ("array-damaged", "no draws by models", "models", dropped("reference/model_draws")),
    ("array-damaged", "no earlier ones", "jpeg", dropped("tissue/earlier_similarity")),
    ("attributes", "no verdict", "jpeg", attribute("verdict", {})),
    ("attributes", "verdict is none", "jpeg", attribute("verdict.verdict", "GOOD")),
    ("attributes", "composition above 1", "jpeg", attribute("quality.composition", 1.5)),
    ("attributes", "draws do not ascend", "jpeg", attribute("draws.keep", [8, 8])),
    ("values", "negative weight", "jpeg", array("patches/weights", put(0, -0.1))),
    ("values", "weight not a number", "jpeg", array("patches/weights", put(0, np.nan))),
    ("values", "representative out of range", "jpeg", array("tissue/representative", put(5, KEPT))),
    ("values", "representative negative", "jpeg", array("tissue/representative", put(5, -1))),
    ("values", "feature not a number", "jpeg", array("patches/features", put((2, 3), np.nan))),
    ("values", "feature infinite", "jpeg", array("patches/features", put((2, 3), np.inf))),
    ("values", "similarity not a number", "jpeg", array("tissue/similarity", put(0, np.nan))),
    ("values", "similarity above 1", "jpeg", array("tissue/similarity", put(0, 7))),
    ("values", "mean infinite", "jpeg", array("reference/mean", put(0, -np.inf))),
    ("values", "variance negative", "jpeg", array("reference/variances", put(0, -1))),
    ("values", "cluster negative", "jpeg", array("tissue/cluster", put(0, -1))),
    ("values", "kept patch not of the tissue", "jpeg", array("patches/coords", put((0, 0), 3))),
    ("coords-outside", "negative", "jpeg", array("patches/coords", put((0, 0), -1))),
    ("coords-outside", "beyond", "source", array("tissue/coords", put((0, 1), 2**31 - 1))),
    ("attributes", "slide smaller", "jpeg", attribute("source.width", 100)),
    ("quality-differs", "coverage", "jpeg", attribute("quality.coverage", 0.999)),
    ("quality-differs", "5th percentile", "jpeg", attribute("quality.coverage_p05", 0.999)),
    ("quality-differs", "minimum", "jpeg", attribute("quality.coverage_min", 0.999)),
    ("quality-differs", "weighted cosine", "jpeg", attribute("quality.weighted_cosine", 0.9)),
    ("quality-differs", "similarities", "jpeg", array("tissue/similarity", lambda s: s * 0 + 1)),
    ("quality-differs", "embedding cosine", "models", attribute("quality.embedding_cosine", 0.9)),
    ("quality-differs", "embedding", "models", array("reference/embedding", lambda e: -e)),
    ("values", "embedding not a number", "models", array("reference/embedding", put(0, np.nan))),
    ("values", "slide embedding infinite", "models", array("reference/slide_embedding", put(0, np.inf))),
    ("values", "prototype not a number", "models", array("reference/prototypes", put((1, 1), np.nan))),
    (
        "values",
        "share negative",
        "models",
        array("reference/prototype_weights", lambda w: w - np.float32([0.6, 0, -0.6])),
    ),
    ("values", "share not a number", "models", array("reference/prototype_weights", put(1, np.nan))),
    ("values", "shares of more than all", "models", array("reference/prototype_weights", lambda w: 2 * w)),
    ("values", "candidate twice", "models", array("reference/candidates", put(1, 0))),
    ("values", "candidate negative", "models", array("reference/candidates", put(0, -1))),
    ("values", "candidate out of range", "models", array("reference/candidates", put(-1, TISSUE))),
    ("card-differs", "encoder of another name", "jpeg", attribute("encoder.name", "another")),
    ("card-differs", "encoder that needs other pixels", "jpeg", attribute("encoder.mpp", 0.4)),
    ("card-differs", "summarizer of another licence", "models", attribute("summarizer.licence", "MIT")),
    ("card-differs", "slide encoder of another version", "models", attribute("slide_encoder.version", "99")),
    ("overview-differs", "black", "jpeg", array("0", lambda o: o * 0)),
    ("overview-differs", "white", "jpeg", array("0", lambda o: o * 0 + 255)),
    ("overview-differs", "upside down", "jpeg", array("0", lambda o: o[:, ::-1])),
    ("attributes", "of a kilometre", "jpeg", several(attribute("source.width", 2**31 - 1))),
    ("attributes", "more tissue than there is room", "jpeg", attribute("tissue_patches", 101)),
    ("attributes", "overview of another shape", "jpeg", array("0", lambda o: o[:, :20])),
    ("features-differ", "one feature", "jpeg", array("patches/features", lambda f: put((3, 1), f[3, 1] + 0.01)(f))),
    ("features-differ", "patches swapped", "jpeg", streams(lambda s: [s[1], s[0], *s[2:]])),
    ("features-differ", "grey patch", "jpeg", streams(lambda s: [*s[:-1], GREY])),
    ("features-differ", "tiles moved", "source", array("patches/tile_positions", lambda p: p[::-1])),
    (
        "patch-damaged",
        "of another size",
        "jpeg",
        streams(lambda s: [jpeg.encode(np.zeros((16, 32, 3), np.uint8)), *s[1:]]),
    ),
    ("patch-damaged", "no JPEG", "jpeg", streams(lambda s: [b"II*\0" * 9, *s[1:]])),
    ("patch-damaged", "cut short", "jpeg", streams(lambda s: [s[0][:-60], *s[1:]])),
    ("array-damaged", "one more", "jpeg", streams(lambda s: [*s, GREY])),
    ("array-damaged", "one less", "jpeg", streams(lambda s: s[:-1])),
    ("patch-damaged", "index outside", "jpeg", data(SHARD, lambda d: reindexed(d, 10**15, 30))),
    ("patch-damaged", "index overflows", "jpeg", data(SHARD, lambda d: reindexed(d, 2**64 - 1, 2**64 - 1))),
    ("patch-damaged", "index points into itself", "jpeg", data(SHARD, lambda d: reindexed(d, len(d) - 60, 50))),
    ("patch-damaged", "text behind a stream", "jpeg", lengths(lambda found: found - 9)),
    ("array-damaged", "lengths of another type", "jpeg", lengths(lambda found: found.astype(np.float32))),
    (
        *("patch-damaged", "index in front", "jpeg"),
        metadata("patches/pixels", "codecs", 0, "configuration", "index_location", value="start"),
    ),
    ("patch-damaged", "rows of other numbers", "jpeg", metadata("patches/pixels", "data_type", value="int32")),
    (
        *("attributes", "migrated from nothing", "jpeg"),
        several(attribute("format_version", "1.4"), attribute("migrated_from", "1.0")),
    ),
    ("patch-damaged", "rows in an old format", "jpeg", attribute("format_version", "1.4")),
    ("patch-damaged", "index checksum", "jpeg", data(SHARD, lambda d: flipped(d, 8 * len(d) - 1))),
    ("patch-damaged", "shard cut short", "jpeg", data(SHARD, lambda d: d[-50:])),
    ("patch-damaged", "shard empty", "jpeg", data(SHARD, lambda d: b"")),
    ("patch-damaged", "shard of other codecs", "jpeg", metadata("patches/pixels", "codecs", value=[{"name": "bytes"}])),
    ("patch-damaged", "huge rows", "jpeg", metadata("patches/pixels", "shape", value=[KEPT, 2**31 - 1])),
    ("patch-damaged", "grey shape", "jpeg", metadata("patches/pixels", "shape", value=[KEPT, 32, 32, 1])),
    ("patch-damaged", "tiles twice", "source", array("patches/tile_positions", lambda p: p * 0)),
    ("patch-damaged", "tile size", "source", several(attribute("patch.reading.tile_width", 8))),
    ("array-damaged", "fewer tissue patches", "jpeg", attribute("tissue_patches", TISSUE - 1)),
    ("array-damaged", "fewer patches", "jpeg", attribute("patches", KEPT - 1)),
    ("array-damaged", "other dims", "jpeg", attribute("encoder.dims", 13)),
    ("array-damaged", "other type", "jpeg", array("tissue/similarity", lambda s: s.astype(np.float32))),
    ("array-damaged", "other rank", "jpeg", array("patches/weights", lambda w: w[:, None])),
    ("array-damaged", "shape contradicts data", "jpeg", metadata("patches/weights", "shape", value=[9])),
    ("array-damaged", "negative shape", "jpeg", metadata("patches/weights", "shape", value=[-8])),
    ("array-damaged", "no shape", "jpeg", metadata("patches/weights", "shape", value=None)),
    (
        "array-damaged",
        "big-endian",
        "jpeg",
        metadata("patches/weights", "codecs", 0, "configuration", value={"endian": "big"}),
    ),
    ("array-damaged", "unknown type", "jpeg", metadata("patches/weights", "data_type", value="complex128")),
    ("array-damaged", "chunk cut short", "jpeg", data("patches/weights/c/0", lambda d: d[:-1])),
    ("array-damaged", "chunk empty", "jpeg", data("patches/weights/c/0", lambda d: b"")),
    ("array-damaged", "no JSON", "jpeg", data("patches/weights/zarr.json", lambda d: b"\0")),
    ("array-damaged", "nested deeply", "jpeg", data("patches/weights/zarr.json", lambda d: b"[" * 10**5)),
    ("array-damaged", "group is none", "jpeg", data("patches/zarr.json", lambda d: b"{}")),
    ("array-damaged", "more variances", "jpeg", array("reference/variances", lambda v: v[:-1])),
    ("array-damaged", "profile of another type", "jpeg", array("icc_profile", lambda p: p.astype(np.int32))),
    ("array-damaged", "no embedding", "models", dropped("reference/embedding")),
    ("array-damaged", "no candidates", "models", dropped("reference/candidates")),
    ("array-damaged", "no prototypes", "models", dropped("reference/prototypes")),
    ("array-damaged", "other embedding dims", "models", attribute("summarizer.embedding_dims", 99)),
    ("array-damaged", "other number of prototypes", "models", attribute("slide_encoder.prototypes", 99)),
    ("array-damaged", "shares of another type", "models", array("reference/prototype_weights", np.float64)),
    ("attributes", "summarizer hushed up", "models", attribute("summarizer", None)),
    ("attributes", "summarizer of other features", "models", attribute("summarizer.dims", 13)),
    ("attributes", "slide encoder of other features", "models", attribute("slide_encoder.dims", 13)),
    ("attributes", "slide encoder without sha256", "models", attribute("slide_encoder.sha256", "")),
    ("attributes", "slide encoder is none", "models", attribute("slide_encoder", [])),
    ("attributes", "no embedding cosine", "models", attribute("quality.embedding_cosine", None)),
    ("attributes", "reconstruction is none", "models", attribute("quality.reconstruction", 2)),
    ("attributes", "reconstruction by nothing", "jpeg", attribute("quality.reconstruction", 0.9)),
    ("attributes", "no members", "jpeg", attribute("members", {})),
    ("attributes", "members of other types", "jpeg", attribute("members", [1])),
    ("attributes", "reading contradicts", "jpeg", attribute("patch.reading.side", 31)),
    ("attributes", "huge patches", "source", attribute("patch.reading.side", 10**6)),
    ("attributes", "patch size contradicts", "jpeg", attribute("patch.patch_size", 64)),
    ("attributes", "mpp contradicts", "jpeg", attribute("source.mpp", 0.5)),
    ("attributes", "more kept than there are", "jpeg", attribute("patches", TISSUE + 1)),
    ("attributes", "encoder of another size", "jpeg", attribute("encoder.patch_size", 33)),
    ("attributes", "boolean for a number", "jpeg", attribute("source.bytes", True)),
    ("unreadable", "later format", "jpeg", attribute("format_version", "3.0")),
    ("unreadable", "no format", "jpeg", attribute("format_version", None)),
]


def reindexed(shard: bytes, offset: int, size: int) -> bytes:
    """The shard with another place for its first chunk, and the index signed again."""
    from wsisum_cli.summary.chunks import checksum

    index = bytearray(shard[-16 * KEPT - 4 : -4])
    index[:16] = offset.to_bytes(8, "little") + size.to_bytes(8, "little")
    return shard[: -16 * KEPT - 4] + bytes(index) + checksum(bytes(index))


#: Codes that another brings along.
SEEN_TOO = {"features-differ": {"overview-differs"}, "overview-differs": {"tissue-differs"}}


@pytest.mark.parametrize(
    ("code", "mode", "change"),
    [(code, mode, change) for code, _, mode, change in TAMPERED],
    ids=[f"{code}: {what}" for code, what, _, _ in TAMPERED],
)
def test_changes_with_updated_checksums_are_found(
    tiny: dict[str, Path], tmp_path: Path, code: str, mode: str, change: Change
):
    members = unpack(tiny[mode])
    before = json.loads(members["zarr.json"])["attributes"]["wsisum"]
    attributes = copy.deepcopy(before)
    change(members, attributes)
    changed = {key: value for key, value in attributes.items() if value != before.get(key) or type(value) is bool}
    path = sign_again(tmp_path / "x.ozx", members, lambda attributes: attributes.update(changed))
    result = verify(path)
    assert codes(result) - SEEN_TOO.get(code, set()) == {code}, [finding.message for finding in result.findings]
    assert not result.ok


def test_nan_in_the_attributes_is_invalid_json(tiny: dict[str, Path], tmp_path: Path):
    path = sign_again(tmp_path / "x.ozx", unpack(tiny["jpeg"]), attribute_in_place("quality.coverage", float("nan")))
    assert codes(verify(path)) == {"unreadable"}


def attribute_in_place(path: str, value: Any) -> Callable[[Raw], None]:
    return lambda attributes: attribute(path, value)({}, attributes)


# -------------------------------------------------------------------------------------------------------- junk


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON document there is something to replace."""
    if at:
        yield at
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*at, key))


JUNK = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.integers(-3, 3), st.text(max_size=5)),
        *(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([10**400, 1e308, -1, 0, "", "1.0", 2**63])),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


#: Stands for a key that is taken away.
MISSING = object()


def replaced(document: Any, at: tuple[Any, ...], junk: Any) -> Any:
    node = document
    for key in at[:-1]:
        node = node[key]
    if junk is MISSING:
        del node[at[-1]]
    else:
        node[at[-1]] = junk
    return document


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from([*MODES, "models"]), st.one_of(JUNK, st.just(MISSING)), st.data())
def test_junk_in_the_attributes_never_fails_verification(
    tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, mode: str, junk: Any, draw: st.DataObject
):
    members = unpack(tiny[mode])
    document = json.loads(members["zarr.json"])["attributes"]["wsisum"]
    at = draw.draw(st.sampled_from([place for place in places(document) if place[0] != "members" or len(place) < 4]))
    path = tmp_path_factory.getbasetemp() / "junk.ozx"
    sign_again(path, members, lambda attributes: replaced(attributes, at, junk) and None)
    for tier in ("quick", "full", "source"):
        verify(path, tier, path)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from([*MODES, "models"]), st.one_of(JUNK, st.just(MISSING)), st.data())
def test_junk_in_any_metadata_never_fails_verification(
    tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, mode: str, junk: Any, draw: st.DataObject
):
    members = unpack(tiny[mode])
    name = draw.draw(st.sampled_from([name for name in members if name.endswith("/zarr.json")]))
    document = json.loads(members[name])
    at = draw.draw(st.sampled_from(list(places(document))))
    members[name] = json.dumps(replaced(document, at, junk)).encode()
    path = tmp_path_factory.getbasetemp() / "junk.ozx"
    verify(sign_again(path, members))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from([*MODES, "models"]), st.data())
def test_junk_in_any_member_never_fails_verification(
    tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, mode: str, draw: st.DataObject
):
    members = unpack(tiny[mode])
    name = draw.draw(st.sampled_from([name for name in members if name != "zarr.json"]))
    old = members[name]
    start = draw.draw(st.integers(0, len(old)))
    junk = draw.draw(st.binary(max_size=30))
    members[name] = old[:start] + junk + draw.draw(st.sampled_from([old[start + len(junk) :], old[start:], b""]))
    path = tmp_path_factory.getbasetemp() / "junk.ozx"
    verify(sign_again(path, members))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_a_junk_root_never_fails_verification(
    tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, junk: bytes
):
    path = tmp_path_factory.getbasetemp() / "junk.ozx"
    write_container(path, {**unpack(tiny["jpeg"]), "zarr.json": junk})
    assert codes(verify(path)) == {"unreadable"}


# ------------------------------------------------------------------------------------------------------ the encoder


def test_features_are_not_recomputed_without_the_encoder(tiny: dict[str, Path]):
    result = verify_summary(tiny["jpeg"])
    assert [(finding.code, finding.severity) for finding in result.findings] == [("features-not-recomputed", "info")]
    assert result.ok
    assert "stub" in result.findings[0].message


def test_model_figures_are_not_recomputed_without_models(tiny: dict[str, Path]):
    result = verify_summary(tiny["models"], find_stub)
    assert {finding.code for finding in result.findings} == {"embedding-not-recomputed"}
    messages = [finding.message for finding in result.findings]
    assert "summarizer tiny-summarizer; pass that model as --summarizer" in messages[0]
    assert "slide encoder tiny-slide-encoder; pass that model as --slide-encoder" in messages[1]
    assert result.ok
    assert {"embedding_cosine", "slide_cosine"}.isdisjoint(result.measured)


def test_models_for_other_features_recompute_nothing(tiny: dict[str, Path]):
    other = tiny_models(DIMS + 1)
    result = verify_summary(tiny["models"], find_stub, find_summarizer=lambda card: other.summarizer)
    assert codes(result) == {"embedding-not-recomputed"}
    assert any("expected features (N, 13)" in finding.message for finding in result.findings)


def test_embedding_cosines_are_measured_from_kept_patches(tiny: dict[str, Path]):
    measured = verify(tiny["models"]).measured
    with open_summary(tiny["models"]) as summary:
        assert measured["embedding_cosine"] == pytest.approx(
            summary.provenance["quality"]["embedding_cosine"], abs=1e-4
        )
        assert summary.slide_embedding is not None
        of_kept = expected_embedding(summary.features.astype(np.float32))
        norms = np.linalg.norm(of_kept) * np.linalg.norm(summary.slide_embedding)
        assert measured["slide_cosine"] == pytest.approx(of_kept @ summary.slide_embedding / norms, abs=1e-5)
    assert 0 < measured["slide_cosine"] < 1


def test_summaries_of_format_1_0_stay_valid(tmp_path: Path):
    """They know no models that see whole slides; should such an attribute be there, it means nothing."""
    contents = tiny_contents()
    added = ("summarizer", "slide_encoder", "draws", "verdict", "guarantee", "trimmed_from", "represented")
    figures = ("coverage", "coverage_p05", "coverage_min", "weighted_cosine")
    quality = contents.attributes.quality.model_dump(include=set(figures))
    attributes: dict[str, Any] = {"migrated_from": "1.0", "quality": quality}
    for more in ({}, {"summarizer": {"name": "of another meaning"}}):
        lost = [name for name in added if name not in more]
        write_changed(tmp_path / "x.ozx", contents, {**attributes, **more}, lost)
        assert verify(tmp_path / "x.ozx").findings == []
    with open_summary(tmp_path / "x.ozx") as summary:
        assert (summary.summarizer_embedding, summary.slide_embedding) == (None, None)
        assert summary.reference.candidates is None
        shown = inspect_summary(summary).as_json()
    later = ("reconstruction", "embedding_cosine", "composition", "slide_cosine")
    assert shown["quality"] == {**attributes["quality"], **dict.fromkeys(later)}
    assert (shown["verdict"], shown["guarantee"]) == (None, None)
    write_changed(tmp_path / "y.ozx", contents, {**attributes, "migrated_from": "1.1"}, added)
    assert codes(verify(tmp_path / "y.ozx")) == {"attributes"}


class OtherCard:
    name, sha256, patch_size, mpp, dims = "other", "00" * 32, 64, 0.5, 12


class Failing:
    card, provider, batch_size = STUB.card, "CPUExecutionProvider", 1

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, _pixels: np.ndarray) -> np.ndarray:
        raise self.error


def test_unsuitable_or_failing_encoder_recomputes_nothing(tiny: dict[str, Path]):
    other: Any = Failing(ModelError("the model gives NaN"))
    result = verify_summary(tiny["jpeg"], lambda card: other)
    assert codes(result) == {"features-not-recomputed"}
    assert "gives NaN" in result.findings[0].message
    other.card = OtherCard
    assert codes(verify_summary(tiny["jpeg"], lambda card: other)) == {"features-not-recomputed"}


def test_internal_errors_become_a_finding(tiny: dict[str, Path]):
    failing: Any = Failing(KeyError("bug"))
    result = verify_summary(tiny["jpeg"], lambda card: failing)
    assert codes(result) == {"internal"}
    assert not result.ok


def given_features(scale: float) -> dict[str, Any]:
    """Attributes and features of a summary whose features somebody else computed."""
    contents = tiny_contents()
    origin = {"origin": "given", "encoder": "conch", "sha256": "ef" * 32, "left_out": 0}
    attributes = Attributes.model_validate(
        {
            **contents.attributes.as_json(),
            "encoder": {"name": "conch"},
            "provider": "none",
            "features": {**origin, "patch_encoder_sha256": "ab" * 32},
        }
    )
    noise = np.random.default_rng(0).standard_normal(contents.kept.features.shape) * scale
    features = (contents.kept.features + noise).astype(np.float32)
    return {"attributes": attributes, "kept": replace(contents.kept, features=features)}


@pytest.mark.parametrize(("scale", "expected"), [(0.0, set()), (0.01, set()), (1.0, {"features-differ"})])
def test_existing_features_may_differ_slightly(tmp_path: Path, scale: float, expected: set[str]):
    write_summary(tmp_path / "x.ozx", replace(tiny_contents(), **given_features(scale)))
    assert codes(verify(tmp_path / "x.ozx")) - {"quality-differs"} == expected


# ------------------------------------------------------------------------------------------------------- the source


def verify_drawn(drawn: dict[str, Path], mode: str, source: Path) -> Verification:
    return verify_summary(drawn[mode], lambda card: shipped_encoder(), "source", source)


@pytest.mark.parametrize("mode", MODES)
def test_summary_matches_its_source(drawn: dict[str, Path], mode: str):
    result = verify_drawn(drawn, mode, drawn["slide"])
    assert result.ok
    assert result.findings == []
    measured = result.measured
    assert measured["source_coverage"] == pytest.approx(measured["coverage"], abs=2e-3)
    assert measured["feature_cosine_min"] > 0.99999
    if mode == "jpeg":
        assert 30 < measured["psnr_min"] < 60
        assert 0.9 < measured["ssim_min"] < 1
    else:
        with open_summary(drawn[mode]) as summary:
            assert measured["tiles_compared"] == len(summary.patches.shard)


def test_another_slide_is_reported(drawn: dict[str, Path], tmp_path: Path):
    other = tmp_path / "other.svs"
    other.write_bytes(flipped(drawn["slide"].read_bytes(), 10**6))
    result = verify_drawn(drawn, "source", other)
    assert codes(result) == {"source-differs"}
    (finding,) = result.findings
    assert len(str(finding.expected)) == len(str(finding.found)) == 64
    assert finding.expected != finding.found


def test_a_missing_source_is_a_finding(drawn: dict[str, Path], tmp_path: Path):
    assert codes(verify_drawn(drawn, "source", tmp_path / "gone.svs")) == {"source-missing"}
    assert codes(verify_drawn(drawn, "jpeg", tmp_path)) == {"source-missing"}


def tampered(drawn: dict[str, Path], path: Path, mode: str, change: Change) -> Path:
    members = unpack(drawn[mode])
    change(members, {})
    return sign_again(path, members)


def test_foreign_tiles_are_found(drawn: dict[str, Path], tmp_path: Path):
    def shift(members: Members, attributes: Raw) -> None:
        array("patches/tile_spliced", lambda s: s + 1)(members, attributes)

    path = tampered(drawn, tmp_path / "x.ozx", "source", shift)
    result = verify_summary(path, lambda card: None, "source", drawn["slide"])
    assert codes(result) == {"pixels-differ", "features-not-recomputed"}


def test_tiles_beyond_the_slide_are_found(drawn: dict[str, Path], tmp_path: Path):
    path = tampered(drawn, tmp_path / "x.ozx", "source", array("patches/tile_positions", put((0, 0), 10**6)))
    result = verify_summary(path, lambda card: None, "source", drawn["slide"])
    assert "pixels-differ" in codes(result)
    assert "internal" not in codes(result)


def test_pixels_worse_than_one_jpeg_generation_are_found(drawn: dict[str, Path], tmp_path: Path):
    def blur(members: Members, _attributes: Raw) -> None:
        with open_summary(drawn["jpeg"]) as summary:
            found = [jpeg.encode(patch, 3 if row == 1 else 90) for row, patch in enumerate(summary.patches)]
        members |= encode_rows("patches/pixels", found, "patch")

    path = tampered(drawn, tmp_path / "x.ozx", "jpeg", blur)
    result = verify_summary(path, lambda card: None, "source", drawn["slide"])
    lossy = [finding for finding in result.findings if finding.code == "pixels-lossy"]
    assert [(finding.severity, finding.message.split()[1]) for finding in lossy] == [("warning", "1")]
    assert not result.ok


def test_another_overview_is_not_the_slides(drawn: dict[str, Path], tmp_path: Path):
    """Blanked where no kept patch lies, it agrees with all that the summary holds."""
    with open_summary(drawn["jpeg"]) as summary:
        overview = np.moveaxis(summary.array("0"), 0, 2).copy()
        side = summary.attributes["patch"]["patch_size_level0"] * overview.shape[1] / 3000
        far = overview.copy()
        for x, y in summary.coords * overview.shape[1] / 3000:
            far[int(y) : int(y + side) + 2, int(x) : int(x + side) + 2] = 255
        spot = np.argwhere(far.min(axis=2) < 160)[0]
    overview[spot[0] : spot[0] + 12, spot[1] : spot[1] + 12] = (20, 20, 200)
    path = tampered(drawn, tmp_path / "x.ozx", "jpeg", array("0", lambda _: np.moveaxis(overview, 2, 0)))
    assert verify_summary(path, lambda card: shipped_encoder(), "full").ok
    assert codes(verify_summary(path, lambda card: None, "source", drawn["slide"])) >= {"overview-differs"}


def test_tissue_that_the_map_leaves_out_is_found(shared: Path):
    """Half of the tissue, called blank: figures and draws agree with what is left."""
    path = shared / "problems/hostile/tissue_hidden.ozx"
    assert codes(verify_summary(path)) == {"tissue-differs", *NOT_RECOMPUTED}
    source = shared / "fixtures/CMU-1-Small-Region.svs"
    found = verify_summary(path, tier="source", source=source).findings
    assert [finding.message for finding in found if finding.code == "tissue-differs"] == [
        "the tissue map leaves out tissue that the overview shows",
        "the tissue map leaves out tissue that the slide shows",
    ]


def test_another_colour_profile_is_found(drawn: dict[str, Path], tmp_path: Path):
    profile = np.frombuffer(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), np.uint8)

    def add(members: Members, _attributes: Raw) -> None:
        members |= encode_array("icc_profile", profile, ["byte"])

    path = tampered(drawn, tmp_path / "x.ozx", "jpeg", add)
    assert codes(verify_summary(path, lambda card: None, "source", drawn["slide"])) >= {"icc-differs"}


@pytest.mark.parametrize(
    ("path", "value"),
    [("patch.reading.level", 7), ("patch.reading.level", 1), ("source.width", 3001), ("patch.reading.width", 1400)],
)
def test_wrong_reading_is_found(drawn: dict[str, Path], tmp_path: Path, path: str, value: int):
    changed = sign_again(tmp_path / "x.ozx", unpack(drawn["jpeg"]), attribute_in_place(path, value))
    result = verify_summary(changed, lambda card: None, "source", drawn["slide"])
    assert "attributes" in codes(result)
    assert "internal" not in codes(result)


def test_wrong_quality_is_found(drawn: dict[str, Path], tmp_path: Path):
    """Somebody changes similarities and figures together: the slide does not agree with them."""
    members = unpack(drawn["jpeg"])
    array("tissue/similarity", lambda s: s * 0 + 1)(members, {})

    def boast(attributes: Raw) -> None:
        attributes["quality"] |= {"coverage": 1.0, "coverage_p05": 1.0, "coverage_min": 1.0}
        all_of_it = {"share": 1.0, "mm2": attributes["represented"]["tissue_mm2"], "region_count": 0, "regions": []}
        attributes["represented"] |= all_of_it
        attributes["guarantee"] = guaranteed(
            tissue.coords, size, attributes["source"]["mpp"], tissue.similarity * 0 + 1
        )

    with open_summary(drawn["jpeg"]) as summary:
        tissue, size = summary.tissue, summary.attributes["patch"]["patch_size_level0"]

    changed = sign_again(tmp_path / "x.ozx", members, boast)
    with open_summary(changed) as summary:
        draws, prefixes, yardstick = summary.draws, summary.prefixes, summary.attributes["represented"]["cosine"]
        assert draws is not None
        assert prefixes is not None
        chance = compare_with_chance(prefixes, yardstick, draws, summary.record.patches)
        assert chance is not None
    sign_again(changed, unpack(changed), attribute_in_place("verdict.chance", chance.as_dict()))
    encoder = shipped_encoder()
    assert codes(verify_summary(changed, lambda card: encoder)) <= {"draws-differ"}  # by how tight the bounds are
    result = verify_summary(changed, lambda card: encoder, "source", drawn["slide"])
    assert codes(result) >= {"quality-differs"}


def verify_embedded(drawn: dict[str, Path], path: Path) -> Verification:
    models = shipped_models_like()
    return verify_summary(
        path,
        lambda card: shipped_encoder(),
        "source",
        drawn["slide"],
        1,
        lambda card: models.summarizer,
        lambda card: models.slide_encoder,
    )


def test_model_outputs_match_the_source(drawn: dict[str, Path]):
    result = verify_embedded(drawn, drawn["models"])
    assert result.findings == []
    with open_summary(drawn["models"]) as summary:
        recorded = summary.provenance["quality"]
    for name in ("reconstruction", "embedding_cosine"):
        assert result.measured[f"source_{name}"] == pytest.approx(recorded[name], abs=2e-3)


@pytest.mark.parametrize("name", ["embedding", "slide_embedding"])
def test_foreign_embeddings_are_found(drawn: dict[str, Path], tmp_path: Path, name: str):
    """Somebody changes an embedding and the figure together: the file agrees with itself, the slide does not."""
    members = unpack(drawn["models"])
    array(f"reference/{name}", lambda e: e + np.abs(e).max() * np.arange(len(e), dtype=np.float32))(members, {})
    changed = sign_again(tmp_path / "x.ozx", members)
    if name == "embedding":
        now = verify_embedded(drawn, changed).measured["embedding_cosine"]
        sign_again(changed, members, attribute_in_place("quality.embedding_cosine", now))
    result = verify_embedded(drawn, changed)
    assert "embedding-differs" in codes(result)
    assert codes(result) <= {"embedding-differs", "quality-differs", "verdict-differs"}
    (finding,) = [finding for finding in result.findings if finding.code == "embedding-differs"]
    assert finding.member == f"reference/{name}"


def test_wrong_reconstruction_is_found(drawn: dict[str, Path], tmp_path: Path):
    path = sign_again(tmp_path / "x.ozx", unpack(drawn["models"]), attribute_in_place("quality.reconstruction", 1.0))
    result = verify_embedded(drawn, path)
    found = {finding.code: finding.message for finding in result.findings}
    assert found.keys() <= {"quality-differs", "verdict-differs"}
    assert found["quality-differs"].startswith("reconstruction")


@pytest.mark.parametrize(
    ("threshold", "verdict", "ok"),
    [
        ("chance=100/100", "FAIL", False),
        ("chance=100/0", "REVIEW", True),
        ("chance=0/0", "PASS", True),
    ],
)
def test_verdict_uses_given_thresholds(tiny: dict[str, Path], threshold: str, verdict: str, ok: bool):
    texts = [*LENIENT, threshold]
    result = verify_summary(tiny["jpeg"], find_stub, thresholds=read_thresholds(texts))
    assert [finding.code for finding in result.findings] == ([] if ok else ["verdict-fail"])
    assert result.ok == ok
    assert result.verdict is not None
    assert result.verdict.well_chosen == verdict
    assert any(reason.startswith("the patches are") for reason in result.verdict.reasons) == (verdict != "PASS")
    assert result.as_dict()["verdict"]["well_chosen"] == verdict


# -------------------------------------------------------------------------------------------------------- the codes


SIGNING = Path(__file__).parents[1] / "commands/test_signing.py"
LEFT_OUT = Path(__file__).parent / "test_left_out.py"
ELSEWHERE = {  # code -> the test above that produces it
    "source-missing": test_a_missing_source_is_a_finding,
    "source-differs": test_another_slide_is_reported,
    "tissue-differs": test_tissue_that_the_map_leaves_out_is_found,
    "tissue-left-out": LEFT_OUT,
    "broken-tiles-differ": LEFT_OUT,
    "icc-differs": test_another_colour_profile_is_found,
    "pixels-differ": test_foreign_tiles_are_found,
    "pixels-lossy": test_pixels_worse_than_one_jpeg_generation_are_found,
    "features-not-recomputed": test_features_are_not_recomputed_without_the_encoder,
    "embedding-not-recomputed": test_model_figures_are_not_recomputed_without_models,
    "embedding-differs": test_foreign_embeddings_are_found,
    "kept-differs": test_forged.test_clusters_that_contradict_each_other_are_found,
    "patch-empty": test_forged.test_a_single_patch_painted_over_is_found,
    "ome-differs": test_forged.test_other_metadata_for_viewers_are_found,
    "signature": SIGNING,
    "verdict-fail": test_verdict_uses_given_thresholds,
    "internal": test_internal_errors_become_a_finding,
}


def test_every_finding_code_is_tested():
    produced = {code for _, expected, _ in STRUCTURE for code in expected} | {code for code, *_ in TAMPERED}
    assert SIGNING.is_file()
    assert LEFT_OUT.is_file()
    assert produced | ELSEWHERE.keys() == CODES.keys()
