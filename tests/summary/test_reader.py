"""Summaries written and read again: by us, by zarr-python, by OME-Zarr tools; lazily; always the same bytes."""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import io
import json
import os
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import obstore
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc, zstd
from ome_zarr.io import ZarrLocation
from ome_zarr.reader import Reader
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v05 import Image
from places import SCHEMA, SUPPORT
from schema import VALIDATOR
from stores import WebServer
from summaries import (
    DIMS,
    KEPT,
    SIDE,
    compress,
    compress_drawn,
    shipped_encoder,
    sign_again,
    tiny_contents,
    tiny_models,
    unpack,
    write_tiny,
)
from zarr.storage import FsspecStore, ZipStore

import wsisum_cli
from wsisum_cli.errors import SummaryError, UnreachableError
from wsisum_cli.features.vectors import as_half
from wsisum_cli.selection.prefixes import Prefixes, join
from wsisum_cli.slides import jpeg
from wsisum_cli.summary import container
from wsisum_cli.summary.attribute_checks import wrong_attributes
from wsisum_cli.summary.container import write_container
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.summary.writer import (
    FORMAT_VERSION,
    PORTABLE,
    PatchArrays,
    SummaryContents,
    TissueMap,
    reference_of,
    write_summary,
)
from wsisum_cli.verification.verify import verify_summary

MODES = ("source", "jpeg")


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tiny(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.ozx", mode)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A drawn slide and its summary in each mode of pixels."""
    return compress_drawn(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def drawn(mode: str, both: dict[str, Path]) -> Path:
    return both[mode]


# -------------------------------------------------------------------------------------------------- round trip


def test_all_arrays_are_read_back(mode: str, tiny: Path):
    contents = tiny_contents(mode)
    with open_summary(tiny) as summary:
        assert np.array_equal(summary.coords, contents.kept.coords)
        assert np.array_equal(summary.features, contents.kept.features.astype(np.float16))
        assert np.array_equal(summary.weights, contents.kept.weights)
        assert np.array_equal(summary.cluster, contents.kept.cluster)
        assert np.array_equal(summary.embedding, contents.reference.mean)
        assert np.array_equal(summary.tissue.coords, contents.tissue.coords)
        assert np.array_equal(summary.tissue.representative, contents.tissue.representative)
        assert np.array_equal(summary.tissue.similarity, contents.tissue.similarity.astype(np.float16))
        assert np.array_equal(summary.reference.components, contents.reference.components)
        assert np.array_equal(summary.reference.variances, contents.reference.variances)
        assert summary.icc_profile == b"a colour profile"
        assert summary.overview.shape == (40, 40, 3)
        assert summary.provenance == contents.attributes.as_json()
        assert summary.features.flags.writeable


def test_model_outputs_are_read_back(tmp_path: Path):
    contents = tiny_contents(models=tiny_models())
    path = write_tiny(tmp_path / "x.ozx", "models")
    with open_summary(path) as summary:
        assert np.array_equal(summary.summarizer_embedding, contents.reference.embedding)
        assert np.array_equal(summary.slide_embedding, contents.reference.slide_embedding)
        for name in ("candidates", "embedding", "slide_embedding", "prototypes", "prototype_weights"):
            assert np.array_equal(getattr(summary.reference, name), getattr(contents.reference, name))
        assert summary.embedding.shape == (DIMS,)  # the mean, which is always there
        assert summary.provenance["summarizer"]["name"] == "tiny-summarizer"
        assert summary.provenance == contents.attributes.as_json()
    with open_summary(write_tiny(tmp_path / "y.ozx")) as summary:
        assert (summary.summarizer_embedding, summary.slide_embedding) == (None, None)
        assert summary.reference.prototypes is None
        assert summary.provenance["slide_encoder"] is None


def test_large_overview_is_stored_as_jpeg(tmp_path: Path):
    contents = tiny_contents()
    large = np.tile(contents.overview, (30, 20, 1))
    write_summary(tmp_path / "x.ozx", replace(contents, overview=large))
    with open_summary(tmp_path / "x.ozx") as summary:
        assert summary.overview.shape == large.shape
        assert np.abs(summary.overview.astype(int) - large).mean() < 8
        assert max(summary.array(PORTABLE).shape) == 512
        assert summary.provenance == contents.attributes.as_json()
    with zarr_store(tmp_path / "x.ozx") as store:
        root = zarr.open_group(store, mode="r")
        scale = root.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
        assert scale == [1.0, pytest.approx(contents.overview_mpp * 1200 / 512), pytest.approx(scale[1])]


ATTRIBUTES = tiny_contents().attributes


def drawn_prefixes(stand_in: np.ndarray, similarity: np.ndarray, rng: np.random.Generator) -> Prefixes:
    """Any number of earlier picks before the last of each patch."""
    earlier = rng.integers(0, stand_in + 1)
    picks, cosines = rng.integers(0, 6, earlier.sum()), rng.uniform(-1, 1, earlier.sum())
    return join(earlier, picks.astype(np.int32), cosines.astype(np.float16), stand_in, similarity)


@st.composite
def any_contents(draw: st.DrawFn) -> SummaryContents:
    """Summaries of random arrays, which need not agree with each other."""
    kept, more, dims = draw(st.integers(1, 6)), draw(st.integers(0, 20)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    features = rng.standard_normal((kept + more, dims)) * draw(st.sampled_from([0.0, 1e-6, 1.0, 1e4, 1e6, 1e30]))
    features = features.astype(np.float32)
    coords = rng.integers(-(2**31), 2**31, (kept + more, 2)).astype(np.int32)
    cluster = rng.integers(-1, 2**15, kept + more).astype(np.int16)
    stand_in = rng.integers(0, kept, kept + more).astype(np.int32)
    similarity = rng.uniform(-1, 1, kept + more).astype(np.float16)
    side = draw(st.integers(1, 20))
    patch = ATTRIBUTES.patch.model_copy(update={"patch_size": side})
    attributes = ATTRIBUTES.model_copy(update={"patches": kept, "tissue_patches": kept + more, "patch": patch})
    streams = [jpeg.encode(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(kept)]
    overview = rng.integers(0, 256, (draw(st.integers(1, 30)), draw(st.integers(1, 600)), 3), dtype=np.uint8)
    return SummaryContents(
        attributes,
        overview,
        draw(st.floats(0.1, 100)),
        PatchArrays(
            coords[:kept], features[:kept], rng.dirichlet(np.ones(kept)), rng.integers(0, 9, kept), cluster[:kept]
        ),
        streams,
        TissueMap(coords, stand_in, similarity, cluster, drawn_prefixes(stand_in, similarity, rng)),
        reference_of(features),
        draw(st.one_of(st.none(), st.binary(min_size=1, max_size=50))),
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(any_contents())
def test_reading_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, contents: SummaryContents):
    path = tmp_path_factory.getbasetemp() / "round.ozx"
    write_summary(path, contents)
    with open_summary(path) as summary:
        assert summary.provenance == contents.attributes.as_json()
        assert summary.icc_profile == contents.icc_profile
        for name in ("coords", "weights", "counts", "cluster"):
            assert np.array_equal(getattr(summary, name), getattr(contents.kept, name))
        assert np.array_equal(summary.features, as_half(contents.kept.features))
        assert np.allclose(summary.features, contents.kept.features, rtol=1e-3, atol=1e-7)
        for part in ("tissue", "reference"):
            for name, values in vars(getattr(contents, part)).items():
                if name == "prefixes":
                    found = vars(summary.prefixes)
                    assert all(np.array_equal(column, found[key]) for key, column in vars(values).items())
                    continue
                assert np.array_equal(getattr(getattr(summary, part), name), values), (part, name)
        assert [summary.patches.shard.stream(row) for row in range(len(summary.patches))] == contents.pixels
        assert summary.overview.shape == contents.overview.shape


def test_features_overflowing_float16_stay_float32(tmp_path: Path):
    assert as_half(np.array([[65504.0]], np.float32)).dtype == np.float16
    assert as_half(np.array([[-65505.0]], np.float32)).dtype == np.float32
    contents = tiny_contents()
    features = contents.kept.features * 1e6
    write_summary(tmp_path / "x.ozx", replace(contents, kept=replace(contents.kept, features=features)))
    with open_summary(tmp_path / "x.ozx") as summary:
        assert np.array_equal(summary.features, features)


def test_the_reference_describes_the_spread_of_the_features():
    features = np.random.default_rng(0).standard_normal((500, 3)) * [1, 5, 0.1] + [1, 2, 3]
    reference = reference_of(features)
    assert np.allclose(reference.mean, features.mean(axis=0))
    assert np.allclose(reference.variances, np.linalg.eigvalsh(np.cov(features.T, bias=True))[::-1], rtol=1e-5)
    assert abs(reference.components[0]).argmax() == 1
    assert (reference.components[np.arange(3), np.abs(reference.components).argmax(axis=1)] > 0).all()


# ------------------------------------------------------------------------------------------------ the same bytes


@pytest.mark.parametrize("threads", ["1", "4"])
def test_bytes_depend_only_on_the_contents(mode: str, tiny: Path, tmp_path: Path, threads: str):
    assert write_tiny(tmp_path / "again.ozx", mode).read_bytes() == tiny.read_bytes()
    script = (
        "import sys; from pathlib import Path; from numcodecs import blosc; from summaries import write_tiny;"
        f"blosc.set_nthreads({threads}); blosc.use_threads = True; write_tiny(Path(sys.argv[1]), sys.argv[2])"
    )
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")
    environment = {**os.environ, **dict.fromkeys(variables, threads), "PYTHONHASHSEED": threads, "TZ": "Asia/Tokyo"}
    environment["PYTHONPATH"] = str(SUPPORT)
    subprocess.run([sys.executable, "-c", script, tmp_path / "other.ozx", mode], env=environment, check=True)
    assert (tmp_path / "other.ozx").read_bytes() == tiny.read_bytes()


def test_attributes_list_checksums_of_all_other_members(tiny: Path):
    members = unpack(tiny)
    with open_summary(tiny) as summary:
        listed = summary.attributes["members"]
    assert listed.keys() == members.keys() - {"zarr.json"}
    for name, entry in listed.items():
        assert entry == {"bytes": len(members[name]), "sha256": hashlib.sha256(members[name]).hexdigest()}


# ------------------------------------------------------------------------------------------------ other programs


class zarr_store:  # noqa: N801 - reads like the context manager it is
    def __init__(self, path: Path) -> None:
        self.store = ZipStore(path, mode="r")

    def __enter__(self) -> ZipStore:
        return self.store

    def __exit__(self, *_: object) -> None:
        self.store.close()


def test_zarr_python_reads_every_array(mode: str, tiny: Path):
    with zarr_store(tiny) as store, open_summary(tiny) as summary:
        root = zarr.open_group(store, mode="r")
        arrays = dict(root.members(max_depth=None))
        names = {name for name, node in arrays.items() if isinstance(node, zarr.Array)}
        pixels = "patches/tiles" if mode == "source" else "patches/pixels"
        assert pixels in names
        for name in names:
            assert np.array_equal(root[name][...], summary.array(name)), name
        shard = summary.patches.shard
        assert np.array_equal(root[pixels][3], shard.padded(3))
        assert root[pixels][3].tobytes().startswith(shard.stream(3))
        assert np.array_equal(cv2.imdecode(root[pixels][3], cv2.IMREAD_COLOR)[..., ::-1], shard.decoded(3))
        assert root.attrs["wsisum"] == summary.attributes


def test_zarr_python_can_write_with_our_codec():
    from wsisum_cli.summary.arrays import JpegCodec

    pixels = np.full((2, 16, 16, 3), 77, np.uint8)
    array = zarr.create_array({}, shape=pixels.shape, dtype="uint8", chunks=(1, 16, 16, 3), serializer=JpegCodec(95))
    array[...] = pixels
    assert np.abs(array[...].astype(int) - 77).max() <= 1
    assert array.metadata.to_dict()["codecs"][0] == {"name": "imagecodecs_jpeg", "configuration": {"level": 95}}


def test_ome_zarr_py_reads_the_overview(tiny: Path):
    location = ZarrLocation(FsspecStore.from_url(f"zip://::{tiny}"))  # it takes no ZipStore, but any of fsspec's
    assert location.exists()
    (node,) = Reader(location)()
    with open_summary(tiny) as summary:
        assert np.array_equal(np.asarray(node.data[0]), summary.array(PORTABLE))
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "y", "x"]


def test_ome_zarr_models_finds_a_valid_image(tiny: Path):
    with zarr_store(tiny) as store:
        group = zarr.open_group(store, mode="r")
        image = Image.from_zarr(group)
        assert isinstance(open_ome_zarr(group), Image)
    (multiscale,) = image.attributes.ome.multiscales
    assert [axis.unit for axis in multiscale.axes] == [None, "micrometer", "micrometer"]


def read_patch_by_the_book(archive: zipfile.ZipFile, attributes: dict[str, Any], row: int) -> np.ndarray:
    """A patch of source tiles as docs/format.md says to put it together, with nothing of ours."""

    def array(name: str, dtype: str, columns: int) -> np.ndarray:
        return np.frombuffer(blosc.decompress(archive.read(name)), dtype).reshape(-1, columns)

    r = attributes["patch"]["reading"]
    shard = archive.read("patches/tiles/c/0/0")
    count = attributes["pixels"]["tiles"]
    index = np.frombuffer(shard[-16 * count - 4 : -4], "<u8").reshape(count, 2).tolist()
    at = {tuple(place): i for i, place in enumerate(array("patches/tile_positions/c/0/0", "<i4", 2).tolist())}
    x, y = array("patches/coords/c/0/0", "<i4", 2)[row].tolist()
    left = max(0, min(round(x / r["scale"]), r["width"] - r["side"]))
    upper = max(0, min(round(y / r["scale"]), r["height"] - r["side"]))
    columns, rows = -(-r["width"] // r["tile_width"]), -(-r["height"] // r["tile_height"])
    plane = np.full((rows * r["tile_height"], columns * r["tile_width"], 3), 255, np.uint8)
    for (column, line), i in at.items():
        offset, size = index[i]
        stream = zstd.decompress(shard[offset : offset + size - 4])  # the zeros behind it do no harm
        tile = cv2.imdecode(np.frombuffer(stream, np.uint8), SHRUNK[r["shrink"]])
        x0, y0 = column * r["tile_width"], line * r["tile_height"]
        plane[y0 : y0 + r["tile_height"], x0 : x0 + r["tile_width"]] = tile[..., ::-1]
    square = plane[upper : upper + r["side"], left : left + r["side"]]
    method = cv2.INTER_AREA if r["side"] > r["patch_size"] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (r["patch_size"], r["patch_size"]), interpolation=method))


#: OpenCV decodes smaller inside the inverse DCT, as libjpeg does.
SHRUNK = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}


def test_independent_reader_gets_the_same_patches(both: dict[str, Path]):
    with open_summary(both["source"]) as summary, zipfile.ZipFile(both["source"]) as archive:
        attributes = json.loads(archive.read("zarr.json"))["attributes"]["wsisum"]
        assert attributes["patch"]["reading"]["shrink"] > 1
        for row in (0, 3, len(summary.patches) - 1):
            assert np.array_equal(read_patch_by_the_book(archive, attributes, row), summary.patches[row])


# ------------------------------------------------------------------------------------------- the public door


class Counting(io.BytesIO):
    """Counts the bytes that are read, and where."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []

    def read(self, size: int | None = -1) -> bytes:
        at = self.tell()
        data = super().read(size)
        self.reads.append((at, len(data)))
        return data

    @property
    def count(self) -> int:
        return sum(length for _, length in self.reads)


END_RECORD = (1 << 16) + 22  # bytes in which any ZIP reader has to look for the end record


def test_opening_reads_only_directory_and_attributes(drawn: Path):
    data = drawn.read_bytes()
    file = Counting(data)
    with Summary(file, "x.ozx") as summary:
        root, directory = summary.members["zarr.json"], data.index(b"PK\1\2")
        assert len(data) > 2 * END_RECORD
        assert all(at >= min(directory, len(data) - END_RECORD) or at == root.start for at, _ in file.reads)
        assert file.count <= root.size + 2 * (len(data) - directory) + END_RECORD


def test_one_patch_reads_only_its_own_bytes(mode: str, drawn: Path):
    file = Counting(drawn.read_bytes())
    with Summary(file, "x.ozx") as summary:
        patches = summary.patches
        file.reads.clear()
        patch = patches[2]
        shard = patches.shard
        rows = [2] if mode == "jpeg" else [patches._rows[at] for at in patches.reading.tiles(*summary.coords[2])]
        assert file.count == sum(shard._index[row][1] for row in rows)
        assert patch.shape == (256, 256, 3)
        file.reads.clear()
        assert summary.weights.shape == (len(patches),)
        assert file.count < 1000


def test_a_folder_of_summaries_is_read_one_by_one(tiny: Path, tmp_path: Path):
    for name in ("b/x.ozx", "a.ozx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tiny.read_bytes())
    seen = []
    for summary in wsisum_cli.iter_summaries(tmp_path):
        seen.append(summary.name)
        assert summary.coords.shape == (KEPT, 2)
    assert seen == ["a.ozx", "x.ozx"]
    assert summary.file.closed


def test_a_summary_says_what_it_is(tiny: Path, tmp_path: Path):
    with open_summary(tiny) as summary:
        said = repr(summary)
    assert said.startswith(f"<Summary {tiny.name}: {KEPT} of 80 patches of tiny.svs, ")
    assert said.endswith(f"format {FORMAT_VERSION}>")
    path = sign_again(tmp_path / "x.ozx", unpack(tiny), lambda attributes: attributes.pop("source"))
    with open_summary(path) as summary:
        assert repr(summary) == "<Summary x.ozx: its attributes are damaged>"


class Checker(HTMLParser):
    """Collects elements and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_notebook_shows_a_table_and_the_overview(tiny: Path, tmp_path: Path):
    name = '<script>"&.svs'
    path = sign_again(tmp_path / "x.ozx", unpack(tiny), lambda attributes: attributes["source"].update(name=name))
    with open_summary(path) as summary:
        page = summary._repr_html_()
    checker = Checker()
    checker.feed(page)
    assert {tag for tag, _ in checker.found} == {"div", "img", "table", "caption", "tr", "th", "td"}
    assert html.escape(name) in page
    (picture,) = [attributes["src"] or "" for tag, attributes in checker.found if tag == "img"]
    assert picture.startswith("data:image/jpeg;base64,")
    assert jpeg.decode(base64.b64decode(picture.partition(",")[2])).shape == (40, 40, 3)
    assert f"{KEPT} of 80" in page
    assert "http" not in page
    damaged = sign_again(tmp_path / "y.ozx", unpack(tiny), lambda attributes: attributes.pop("source"))
    with open_summary(damaged) as summary:
        assert summary._repr_html_().startswith("<p>y.ozx: ")


def test_patches_are_a_sequence(tiny: Path):
    with open_summary(tiny) as summary:
        patches = summary.patches
        assert len(patches) == KEPT
        everything = list(patches)
        assert all(patch.shape == (SIDE, SIDE, 3) and patch.dtype == np.uint8 for patch in everything)
        assert np.array_equal(patches[-1], everything[KEPT - 1])
        assert np.array_equal(patches[np.int64(1)], everything[1])
        assert patches[2:5].shape == (3, SIDE, SIDE, 3)
        assert patches[5:2].shape == (0, SIDE, SIDE, 3)
        assert np.array_equal(patches[2:5], everything[2:5])
        assert np.array_equal(patches[::-3], everything[::-3])
        for row in (KEPT, -KEPT - 1, 10**30):
            with pytest.raises(IndexError):
                patches[row]
        for row in (1.0, "1", None):
            with pytest.raises(TypeError):
                patches[row]


def test_patches_match_the_features(mode: str, drawn: Path):
    with open_summary(drawn) as summary:
        assert summary.provenance["pixels"]["mode"] == mode
        features = shipped_encoder()(np.stack(summary.patches))
        assert np.array_equal(features.astype(np.float16), summary.features)


@pytest.fixture
def served(tiny: Path) -> Iterator[WebServer]:
    """A web server with the summary as `B12.ozx`."""
    server = WebServer({"folder/B12.ozx": tiny.read_bytes()})
    yield server
    server.close()


def test_urls_open_like_paths(tiny: Path, served: WebServer):
    url = f"{served.url}/folder/B12.ozx"
    with open_summary(tiny) as here:
        for place in (str(tiny), tiny.as_uri(), url, f"{url}?signature=x"):
            with open_summary(place) as there:
                assert np.array_equal(there.features, here.features)
                assert np.array_equal(there.patches[0], here.patches[0])
        with open_summary(url) as there:
            assert there.name == "B12.ozx"
    served.parts = False
    with open_summary(tiny) as here, open_summary(url) as there:
        assert np.array_equal(there.features, here.features)


def test_a_summary_that_is_replaced_while_it_is_read_is_an_error(drawn: Path):
    server = WebServer({"x.ozx": drawn.read_bytes()})
    with open_summary(f"{server.url}/x.ozx") as summary:
        server.files["x.ozx"] = drawn.read_bytes()[:-1] + b"!"
        with pytest.raises(SummaryError, match=r"x\.ozx: .* another one was put in its place"):
            list(summary.patches)
    server.close()


@pytest.mark.parametrize("place", ["nowhere.ozx", "file:///nowhere/x.ozx"])
def test_unopenable_file_is_a_summary_error(place: str):
    with pytest.raises(SummaryError, match=f"{place.rsplit('/', 1)[-1]}: cannot be opened"):
        open_summary(place)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_answer_is_unreachable():
    with pytest.raises(UnreachableError, match=r"x\.ozx: cannot be fetched: 6 tries"):
        open_summary("http://127.0.0.1:9/x.ozx")


def test_a_missing_remote_summary_is_said_to_be_missing(served: WebServer):
    with pytest.raises(UnreachableError, match=r"x\.ozx: not found; check the address"):
        open_summary(f"{served.url}/x.ozx")


@pytest.mark.parametrize(
    "place",
    [
        "reference://x.ozx",
        "simplecache::file://x.ozx",
        "zip://x.ozx::file:///tmp/a.zip",
        "memory://x.ozx",
        "ftp://user:secret@host/x.ozx",
        "github://owner:repo@main/x.ozx",
        "nothing://x.ozx",
    ],
)
def test_other_addresses_are_not_opened(place: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(container, "RemoteSummaryFile", lambda *_: pytest.fail("was opened"))
    with pytest.raises(
        SummaryError, match="expected a path, or one address that begins with file://, http://"
    ) as caught:
        open_summary(place)
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "address",
    [
        "https://user:SECRET@127.0.0.1:9/x.ozx",
        "https://127.0.0.1:9/x.ozx?X-Amz-Signature=SECRET",
        "https://127.0.0.1:9/x.ozx#SECRET",
        "https://user:SECRET@127.0.0.1:9",
        "http://[SECRET/x.ozx",
        "s3://KEY:SECRET@bucket/x.ozx",
        "s3://bucket/x.ozx?X-Amz-Signature=SECRET",
    ],
)
def test_keys_in_an_address_are_in_no_message(address: str):
    with pytest.raises(SummaryError) as caught:
        open_summary(address)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value)).replace(address, "")
    result = verify_summary(address)
    assert [finding.code for finding in result.findings] == ["unreadable"]
    assert "SECRET" not in json.dumps(result.as_dict())


@pytest.mark.usefixtures("impatient")
def test_keys_are_in_no_message_when_reading_ends_early(drawn: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise obstore.exceptions.GenericError("GET https://host/x?sig=SECRET")

    server = WebServer({"B12.ozx": drawn.read_bytes()})
    opened = open_summary(f"{server.url}/B12.ozx?sig=SECRET")
    monkeypatch.setattr(obstore, "get", fail)
    with pytest.raises(UnreachableError, match=r"B12\.ozx: cannot be fetched") as caught:
        _ = list(opened.patches)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    server.close()


def write_root(tiny: Path, path: Path, root: bytes) -> Path:
    write_container(path, {**unpack(tiny), "zarr.json": root})
    return path


@pytest.mark.parametrize(
    "root",
    [
        *(b"", b"null", b"[]", b'{"attributes": {}}', b'{"attributes": {"wsisum": []}}', b"\xff", b"[" * 100_000),
        *(b'{"attributes": {"wsisum": {"format_version": %s}}}' % v for v in (b"1", b"null", b'"3.0"', b'"x"')),
        b'{"attributes": {"wsisum": {"format_version": "1.0", "mpp": NaN}}}',
    ],
)
def test_other_zarr_roots_are_refused(tiny: Path, tmp_path: Path, root: bytes):
    with pytest.raises(SummaryError, match=r"not a summary slide|update wsisum"):
        open_summary(write_root(tiny, tmp_path / "x.ozx", root))


def test_later_minor_versions_are_read(tiny: Path, tmp_path: Path):
    def change(attributes: dict[str, Any]) -> None:
        attributes["format_version"] = "2.7"
        attributes["patch"]["reading"]["added_later"] = 1

    path = sign_again(tmp_path / "x.ozx", unpack(tiny), change)
    with open_summary(path) as summary:
        assert summary.patches[0].shape == (SIDE, SIDE, 3)
    assert verify_summary(path).ok


# ------------------------------------------------------------------------------------ source tiles, byte for byte


def check_stored_tiles(slide: Path, path: Path) -> list[int]:
    """That each stored stream is the source's when what was spliced is taken out; gives back how much that was."""
    original = slide.read_bytes()
    with open_summary(path) as summary:
        spliced: list[int] = summary.array("patches/tile_spliced").tolist()
        assert len(spliced) == len(summary.patches.shard) == summary.provenance["pixels"]["tiles"]
        for row, inserted in enumerate(spliced):
            stream = summary.patches.shard.stream(row)
            assert stream[:2] + stream[2 + inserted :] in original
    return spliced


def test_stored_tiles_are_the_scanners_own_bytes(both: dict[str, Path]):
    check_stored_tiles(both["slide"], both["source"])


def test_rgb_tiles_are_the_scanners_own_bytes(tmp_path: Path):
    drawn = compress_drawn(tmp_path, rgb_jpeg=True)
    check_stored_tiles(drawn["slide"], drawn["source"])


def test_spliced_tables_can_be_removed_from_tiles(shared: Path, tmp_path: Path):
    slide = shared / "fixtures" / "CMU-1-Small-Region.svs"
    spliced = check_stored_tiles(slide, compress(slide, tmp_path / "x.ozx", "source"))
    assert min(spliced) > 100


# ------------------------------------------------------------------------------------------------------ the schema


def attributes_of(path: Path) -> dict[str, Any]:
    with open_summary(path) as summary:
        return summary.attributes


def test_the_schema_is_valid_and_strict():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"

    def objects(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if node.get("type") == "object" and "properties" in node:
                yield node
            for value in node.values():
                yield from objects(value)
        elif isinstance(node, list):
            for value in node:
                yield from objects(value)

    assert all(node["additionalProperties"] is False for node in objects(SCHEMA))


@pytest.mark.parametrize("which", ["source", "jpeg", "models"])
def test_real_attributes_fit_the_schema(both: dict[str, Path], which: str):
    VALIDATOR.validate(attributes_of(both[which]))


def test_the_schema_knows_every_version(both: dict[str, Path]):
    attributes = attributes_of(both["jpeg"])
    VALIDATOR.validate(attributes)
    answers = {"representative", "well_chosen", "chance"}
    verdict = {name: value for name, value in attributes["verdict"].items() if name not in answers}
    attributes = {**attributes, "verdict": verdict}
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(attributes)
    added = {
        "1.3": ("represented",),
        "1.2": ("suspect",),
        "1.1": ("draws", "verdict", "guarantee", "trimmed_from", "bound", "target_reached"),
        "1.0": ("summarizer", "slide_encoder"),
    }
    for version, names in added.items():
        newer, attributes = attributes, attributes | {"format_version": version}
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(attributes)  # which knows none of these
        attributes = {name: value for name, value in attributes.items() if name not in names}
        VALIDATOR.validate(attributes)
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(attributes | {"format_version": newer["format_version"]})


def test_tiny_attributes_pass_verification(tiny: Path):
    assert list(wrong_attributes(attributes_of(tiny))) == []


def leaves(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, apart from the many of members and versions."""
    if isinstance(document, dict) and path[:1] not in {("members",), ("versions",)}:
        for name, value in document.items():
            yield (*path, name)
            yield from leaves(value, (*path, name))


#: Junk of every type: none of them is a good value of more than a few keys.
JUNK = (..., -1.5, [None], "\n", True, {"nobody": 1})


@pytest.mark.parametrize("which", ["source", "models"])
def test_schema_and_verification_agree_on_damage(both: dict[str, Path], which: str):
    whole, refused = attributes_of(both[which]), 0
    for path in leaves(whole):
        for junk in JUNK:
            attributes = copy.deepcopy(whole)
            *parents, name = path
            section = attributes
            for parent in parents:
                section = section[parent]
            section.pop(name) if junk is ... else section.__setitem__(name, junk)
            wrong, valid = list(wrong_attributes(attributes)), VALIDATOR.is_valid(attributes)
            assert valid or wrong, f"the schema alone refuses {junk!r} as {'.'.join(path)}"
            refused += not valid
    assert refused > 400


@pytest.mark.parametrize(("path", "junk"), [(("source", "sha256"), "AB"), (("patches",), 0), (("quality",), {})])
def test_messages_about_attributes_are_plain(both: dict[str, Path], path: tuple[str, ...], junk: Any):
    attributes = attributes_of(both["jpeg"])
    section = attributes
    for parent in path[:-1]:
        section = section[parent]
    section[path[-1]] = junk
    messages = " ".join(wrong_attributes(attributes))
    assert ".".join(path) in messages
    assert "Input should" not in messages
    assert "pydantic" not in messages


def test_schema_refuses_unknown_keys(both: dict[str, Path]):
    sections = ("source", "quality", "pixels", "options", "summarizer", "slide_encoder")
    for section in ((), ("patch",), ("patch", "reading"), *((name,) for name in sections)):
        attributes = attributes_of(both["models"])
        at = attributes
        for name in section:
            at = at[name]
        at["patient"] = "DOE^JANE"
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(attributes)
