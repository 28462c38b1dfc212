"""DICOM: every file has the outcome a person would give it, and every slide the pixels of another reader."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dicoms
import draw
import imagecodecs
import numpy as np
import pydicom
import pytest
from dicoms import MM, Slide, write_level, write_series
from references import Reference, by_openslide, by_pydicom, by_tifffile, by_wsidicom
from running import wsisum

from wsisum_cli.archive.walk import find_slides
from wsisum_cli.errors import NotASlideError, SlideError, TileError
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.dicom import decode, elements
from wsisum_cli.slides.dicom.series import find_series, group_series, is_dicom, read_header
from wsisum_cli.slides.pixels import resize
from wsisum_cli.slides.slide import Slide as OpenSlide
from wsisum_cli.slides.slide import open_pyramid, open_slide, read_level
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.reader import SourcePatches, open_summary

SVS = "fixtures/CMU-1-Small-Region.svs"
SERIES = "problems/dicom-series-wsidicomizer"
NOT_A_SLIDE = ("skipped", "not a slide")
GLASS = 255


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return draw.draw_tissue(300, 200, seed=1, kinds=("stroma", "tumour"))


def whole(slide: OpenSlide, level: int = 0) -> np.ndarray:
    return read_level(slide.pyramid, level, 1, Damage(), threads=1)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(np.float64) - other).mean())


# --- real files


def by_svs(path: Path) -> np.ndarray:
    """Of the file that the series was made from."""
    return by_tifffile(path.parents[2] / SVS)


@dataclass(frozen=True)
class Row:
    """A real file: what a run says of it, and who else reads its pixels."""

    outcome: tuple[str, str]
    size: tuple[int, int] = (0, 0)
    reference: Reference | None = None


FULL = "1.2.826.0.1.3680043.8.498.97963801135812001762319957333241243671.dcm"
FIRST = "1.2.826.0.1.3680043.8.498.20948288197375030995537649587582005417.dcm"
LABEL = "1.2.826.0.1.3680043.8.498.16002950605385772808783281158949739388.dcm"
OVERVIEW = "1.2.826.0.1.3680043.8.498.909474732237742558097465075753392947.dcm"
THUMBNAIL = "1.2.826.0.1.3680043.8.498.15119489506680091540713869644520651170.dcm"
LEVELS = tuple(
    f"1.2.826.0.1.3680043.8.498.{uid}.dcm"
    for uid in (
        "52996881847535865600352635920495083677",
        "57177848439501430267956259703982435378",
        "97963801135812001762319957333241243671",
        "9853613571209237061960722411247364162",
    )
)
PART = ("skipped", "part of a slide")
TABLE: dict[str, Row] = {
    "fixtures/camelyon-jpeg.dcm": Row(("failed", "implausible pixel size"), (1152, 700), by_wsidicom),
    "fixtures/camelyon-jpeg2000.dcm": Row(("failed", "implausible pixel size"), (1696, 812), by_openslide),
    "fixtures/boxes_0.dcm": Row(("skipped", "too small"), (16, 16), by_openslide),
    "fixtures/boxes_1.dcm": Row(("skipped", "thumbnail image")),
    "fixtures/small_dicom.dcm": Row(("failed", "no pixel size"), (3236, 2638), by_pydicom),
    "fixtures/dicom-label-image.dcm": Row(("skipped", "label image")),
    "problems/dicom-with-annotation/sm_image_control.dcm": Row(("skipped", "too small"), (50, 50), by_openslide),
    "problems/dicom-with-annotation/sm_annotations.dcm": Row(NOT_A_SLIDE),
    "problems/philips-ufs-j2k-ybrict.dcm": Row(("failed", "too coarse for the encoder"), (1216, 2368), by_wsidicom),
    "problems/wsi-jpegls.dcm": Row(("skipped", "too small"), (50, 50), by_wsidicom),
    "problems/ct-not-a-slide.dcm": Row(NOT_A_SLIDE),
    f"{SERIES}/{FIRST}": Row(("written", ""), (2220, 2967), by_svs),
    f"{SERIES}/{LABEL}": Row(("skipped", "label image")),
    f"{SERIES}/{OVERVIEW}": Row(("skipped", "overview image")),
    f"{SERIES}/{THUMBNAIL}": Row(("skipped", "thumbnail image")),
    **{f"{SERIES}/{name}": Row(PART) for name in LEVELS},
}


def test_the_table_names_every_file(shared: Path):
    found = [path for folder in ("fixtures", "problems") for path in (shared / folder).rglob("*.dcm")]
    assert {path.relative_to(shared).as_posix() for path in found} == set(TABLE)


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, str]], str]:
    """Output, rows of the report by path in the shared folder, and what was printed."""
    folder = tmp_path_factory.mktemp("dicom")
    for name in (*TABLE, SVS):
        link = folder / "slides" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(shared / name)
    done = wsisum("compress", folder / "slides", "-o", folder / "out", "--pixels", "source")
    report = json.loads((folder / "out" / "report.json").read_text())
    return folder / "out", {row["source"]: row for row in report["slides"]}, done.stdout + done.stderr


@pytest.mark.parametrize("name", TABLE)
def test_outcome(name: str, run: tuple[Path, dict[str, dict[str, str]], str]):
    row = run[1][name]
    assert (row["status"], row["reason"]) == TABLE[name].outcome, row["message"]


def test_the_written_one_is_verified_against_its_series(run: tuple[Path, dict[str, dict[str, str]], str], shared: Path):
    summary, same = run[0] / SERIES / FIRST, run[0] / SVS
    summary, same = summary.with_suffix(".ozx"), same.with_suffix(".ozx")
    assert set(run[0].rglob("*.ozx")) == {summary, same}
    label = shared / SERIES / LABEL  # which stands for its series
    done = wsisum("verify", summary, "--source", label, "--require", "review")  # it is small: chance comes near
    assert done.returncode == 0, done.stdout + done.stderr
    with open_summary(summary) as dicom, open_summary(same) as svs:
        assert dicom.attributes["source"]["files"] == 5
        colours = [one.overview.mean((0, 1)) for one in (dicom, svs)]
        assert np.abs(colours[0] - colours[1]).max() < 2  # here of a lower level, there of level 0
        patches = dicom.patches
        assert isinstance(patches, SourcePatches)
        streams = [patches.shard.stream(index) for index in range(len(patches.shard))]
        spliced = dicom.array("patches/tile_spliced").tolist()
    original = (shared / SERIES / FULL).read_bytes()
    assert streams
    assert all(stream[:2] + stream[2 + more :] in original for stream, more in zip(streams, spliced, strict=True))


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.reference])
def test_pixels(name: str, shared: Path):
    row, path = TABLE[name], shared / name
    assert row.reference is not None
    with open_slide(path, 0.5) if "small_dicom" in name else opened(path) as slide:
        assert (slide.levels[0].width, slide.levels[0].height) == row.size
        found = read_level(slide.pyramid, 0, 1, Damage(), threads=1)
        assert difference(found, row.reference(path)) < 0.01
        for index in range(1, len(slide.levels)):
            lower = read_level(slide.pyramid, index, 1, Damage(), threads=1)
            assert difference(lower, resize(found, *lower.shape[:2])) < 8  # of the same colours and content


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.reference is None and row.outcome != PART])
def test_the_others_are_never_opened(name: str, shared: Path):
    with pytest.raises(NotASlideError):
        open_pyramid(shared / name)


class opened:  # noqa: N801 - reads as open_slide does
    """A slide of whatever pixel size."""

    def __init__(self, path: Path) -> None:
        self._pyramid = open_pyramid(path)

    def __enter__(self) -> OpenSlide:
        return OpenSlide(self._pyramid.path.name, self._pyramid, 1.0, "")

    def __exit__(self, *_: object) -> None:
        self._pyramid.close()


@pytest.mark.parametrize("name", [FULL, LABEL, OVERVIEW, THUMBNAIL])
def test_any_image_of_a_series_stands_for_its_slide(name: str, shared: Path):
    source = find_source(shared / SERIES / name)
    assert source.path.name == FIRST
    assert {file.name for file in source.files} == {FIRST, *LEVELS}


# --- what is a slide, and which files are one


def sources_of(folder: Path) -> tuple[list[list[str]], dict[str, str]]:
    found, outcomes, _ = find_slides(folder, folder / "no output")
    return [[file.name for file in source.files] for source in found], {o.source: o.message for o in outcomes}


def test_a_series_is_one_slide_and_nothing_else_is(image: np.ndarray, tmp_path: Path):
    files = write_series(tmp_path, image)
    slides, outcomes = sources_of(tmp_path)
    assert ["a-2.dcm", "a-3.dcm"] in slides
    assert sorted(len(slide) for slide in slides) == [1, 1, 1, 1, 2]
    assert outcomes == {"a-3.dcm": "belongs to a-2.dcm"}
    for name in ("label", "overview", "thumbnail", "annotations"):
        with pytest.raises(NotASlideError):
            open_pyramid(files[name])
        assert read_header(files[name]).kind is not None
    with open_slide(files["half"]) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2]
        assert slide.size == (300, 200)
        assert slide.mpp == pytest.approx(0.25)
        assert difference(whole(slide), image) < 2
        assert difference(whole(slide, 1), image[::2, ::2]) < 3


def test_named_annotations_stand_for_no_slide(image: np.ndarray, tmp_path: Path):
    files = write_series(tmp_path, image)
    assert find_source(files["annotations"]).files == (files["annotations"],)
    assert find_source(files["label"]).files == (files["half"], files["full"])


@pytest.mark.parametrize(
    "other", [Slide("b"), Slide(patient="P2"), Slide(container="C2"), Slide(frame_of_reference="x")]
)
def test_two_slides_in_one_folder_stay_apart(other: Slide, image: np.ndarray, tmp_path: Path):
    for number, slide in enumerate((Slide(), other)):
        write_level(tmp_path / f"{number}-full.dcm", image, slide)
        write_level(tmp_path / f"{number}-half.dcm", image[::2, ::2], slide, spacing=2 * MM)
    assert sources_of(tmp_path)[0] == [["0-full.dcm", "0-half.dcm"], ["1-full.dcm", "1-half.dcm"]]


def test_a_label_of_two_slides_stands_for_neither(image: np.ndarray, tmp_path: Path):
    label = write_series(tmp_path, image)["label"]
    write_level(tmp_path / "other.dcm", image, Slide(frame_of_reference="x"))
    assert find_source(label).files == (label,)


def test_dicom_needs_no_suffix(image: np.ndarray, tmp_path: Path):
    for name in ("1.2.840.99", "IM0001", "slide.tif"):
        write_level(tmp_path / name / name, image, Slide(name))
        assert is_dicom(tmp_path / name / name)
    (tmp_path / "notes").write_text("DICM is no DICOM")
    slides, _ = sources_of(tmp_path)
    assert slides == [["1.2.840.99"], ["IM0001"], ["slide.tif"]]
    with open_slide(tmp_path / "slide.tif" / "slide.tif") as slide:
        assert slide.pyramid.vendor == "dicom"


def test_a_suffix_makes_no_dicom(tmp_path: Path):
    (tmp_path / "a.dcm").write_bytes(b"II*\0" + bytes(200))
    assert not is_dicom(tmp_path / "a.dcm")
    with pytest.raises(SlideError, match="expected DICM at byte 128, found none"):
        open_pyramid(tmp_path / "a.dcm")


def test_an_image_that_may_show_the_label_is_no_slide(image: np.ndarray, tmp_path: Path):
    for kind, changes in {
        "image with its label": {"SpecimenLabelInImage": "YES"},
        "label image": {"SpecimenLabelInImage": "YES", "ImageType": None},
        "image of unstated type": {"SpecimenLabelInImage": None, "ImageType": None},
    }.items():
        with pytest.raises(NotASlideError, match=kind):
            open_pyramid(write_level(tmp_path / "a.dcm", image, **changes))
    with open_slide(write_level(tmp_path / "a.dcm", image, ImageType=None)) as slide:
        assert slide.size == (300, 200)


def test_copies_of_a_file_count_once(image: np.ndarray, tmp_path: Path):
    write_level(tmp_path / "1.dcm", image)
    (tmp_path / "2.dcm").write_bytes((tmp_path / "1.dcm").read_bytes())
    assert group_series([tmp_path / "1.dcm", tmp_path / "2.dcm"]) == [[tmp_path / "1.dcm", tmp_path / "2.dcm"]]
    with open_slide(tmp_path / "1.dcm") as slide:
        assert len(slide.levels) == 1


OTHER_GEOMETRY: dict[str, dict[str, Any]] = {
    "directions": {"ImageOrientationSlide": [1, 0, 0, 0, 1, 0]},
    "areas of different size": {"spacing": 3 * MM},
    "same size": {"size": (300, 200), "spacing": MM},
    "different areas": {"origin": (20.0, 20.0)},
}


@pytest.mark.parametrize("why", OTHER_GEOMETRY)
def test_images_of_one_series_that_are_no_levels_of_one_slide_are_refused(why: str, image: np.ndarray, tmp_path: Path):
    changes = dict(OTHER_GEOMETRY[why])
    origin, size = changes.pop("origin", None), changes.pop("size", (150, 100))
    for name, at in (("full.dcm", (1.0, 1.0)), ("half.dcm", origin or (1.0, 1.0))):
        corner = pydicom.Dataset()
        corner.XOffsetInSlideCoordinateSystem, corner.YOffsetInSlideCoordinateSystem = at
        options: dict[str, Any] = {"TotalPixelMatrixOriginSequence": [corner]}
        if name == "half.dcm":
            options |= {"spacing": 2 * MM, "SOPInstanceUID": "1.2.3"} | changes
        pixels = image if name == "full.dcm" else resize(image, size[1], size[0])
        write_level(tmp_path / name, pixels, **options)
    with pytest.raises(SlideError, match=why):
        open_pyramid(tmp_path / "full.dcm")


def test_levels_that_are_filled_up_to_whole_tiles_belong(image: np.ndarray, tmp_path: Path):
    write_level(tmp_path / "full.dcm", image)
    low = np.pad(image[::8, ::8], ((0, 64 - 25), (0, 64 - 38), (0, 0)), constant_values=240)
    write_level(tmp_path / "low.dcm", low, spacing=8 * MM)
    with open_slide(tmp_path / "full.dcm") as slide:
        assert [level.downsample for level in slide.levels] == [1, 8]


# --- frames

TABLES = ("basic", "extended", "none", "fragments", "fragments none")
STORED = [
    (codec, table)
    for codec in dicoms.CODECS
    for table in (TABLES[:1] if codec.startswith("raw") else TABLES)
    if (codec, table) != ("rle", "fragments none")  # where nothing says which fragments are one frame
]


@pytest.mark.parametrize(("codec", "table"), STORED)
def test_codecs_and_tables(codec: str, table: str, image: np.ndarray, tmp_path: Path):
    path = write_level(tmp_path / "a.dcm", image, codec=codec, table=table)
    with open_slide(path) as slide:
        found = whole(slide)
        assert difference(found, image) < (1 if codec.startswith("jpeg") and "2000" not in codec else 1e-9)
        half = read_level(slide.pyramid, 0, 2, Damage(), threads=2)
        assert difference(half, resize(found, 100, 150)) < 2
        assert slide.pyramid.copies_jpeg(0) == (codec.startswith("jpeg") and codec[4:5] in ("", "-"))


@pytest.mark.parametrize("codec", ["jpeg", "jpeg-444", "jpeg-rgb", "jpeg-mislabelled"])
def test_jpeg_frames_are_handed_out_as_they_are_stored(codec: str, image: np.ndarray, tmp_path: Path):
    path = write_level(tmp_path / "a.dcm", image, codec=codec)
    with open_slide(path) as slide:
        encoded = slide.pyramid.encoded_tile(0, 1, 2)
        assert encoded is not None
        assert encoded.stream[:2] + encoded.stream[2 + encoded.spliced :] in path.read_bytes()
        np.testing.assert_array_equal(jpeg.decode(encoded.stream), slide.pyramid.tile(0, 1, 2))


def test_a_jp2_file_as_a_frame_is_read(image: np.ndarray, tmp_path: Path):
    frames = [imagecodecs.jpeg2k_encode(tile, level=0, codecformat="jp2") for tile in dicoms.cut_tiles(image, 64)]
    assert not frames[0].startswith(decode.JPEG2000_START)
    dataset = dicoms.image_of(Slide(), (300, 200), 64)
    with open_slide(dicoms.save(tmp_path / "a.dcm", dataset, frames, dicoms.CODECS["jpeg2000"][0])) as slide:
        np.testing.assert_array_equal(whole(slide), image)


def test_files_without_a_series_stand_alone(image: np.ndarray, tmp_path: Path):
    for name in ("1.dcm", "2.dcm"):
        write_level(tmp_path / name, image, SeriesInstanceUID=None)
    assert sources_of(tmp_path)[0] == [["1.dcm"], ["2.dcm"]]
    assert find_series(tmp_path / "1.dcm") == [tmp_path / "1.dcm"]


def test_the_colour_rule():
    tile = np.zeros((16, 16, 3), np.uint8)
    rgb, ycbcr = dicoms.jpeg(tile, rgb=True), dicoms.jpeg(tile, subsampling="420")
    bare = jpeg.redeclare_colour(dicoms.jpeg(tile), rgb=True).replace(jpeg.ADOBE_RGB, b"")
    assert decode.holds_rgb(rgb, "RGB")
    assert decode.holds_rgb(bare, "RGB")
    assert not decode.holds_rgb(rgb, "YBR_FULL_422")
    assert not decode.holds_rgb(dicoms.jpeg(tile), "RGB")  # with a JFIF marker
    assert not decode.holds_rgb(jpeg.redeclare_colour(ycbcr, rgb=True), "RGB")  # subsampled
    assert not decode.holds_rgb(bare[:2] + jpeg.ADOBE_RGB[:-1] + b"\1" + bare[2:], "RGB")  # Adobe's mark for YCbCr


def test_a_file_that_overrules_its_streams_on_colour_is_not_copied(image: np.ndarray, tmp_path: Path):
    tiles = [jpeg.redeclare_colour(dicoms.jpeg(tile), rgb=True) for tile in dicoms.cut_tiles(image, 64)]
    dataset = dicoms.image_of(Slide(), (300, 200), 64, "YBR_FULL")
    path = dicoms.save(tmp_path / "a.dcm", dataset, tiles, dicoms.CODECS["jpeg"][0])
    with open_slide(path) as slide:
        assert not slide.pyramid.copies_jpeg(0)
        assert difference(whole(slide), image) < 1
        with pytest.raises(TileError, match="contradict"):
            slide.pyramid.encoded_tile(0, 0, 0)


def test_sparse_frames_lie_where_the_file_says(image: np.ndarray, tmp_path: Path):
    """In any order; where there is none there is glass; of focal planes the middle one is read."""
    tiles = dicoms.cut_tiles(image, 64)
    stored = [(7, 0.0), (3, 5.0), (3, -5.0), (3, 0.0), (0, 1.0)]
    marks = [tiles[index] if z != 5.0 else tiles[0] for index, z in stored]
    dataset = dicoms.image_of(Slide(), (300, 200), 64)
    dicoms.place(dataset, [(index % 5 * 64, index // 5 * 64) for index, _ in stored], [z for _, z in stored])
    path = dicoms.save(tmp_path / "a.dcm", dataset, [tile.tobytes() for tile in marks], dicoms.CODECS["raw"][0])
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.pyramid.tile(0, 2, 1), tiles[7])
        np.testing.assert_array_equal(slide.pyramid.tile(0, 3, 0), tiles[3])
        assert slide.pyramid.tile(0, 1, 1) is None
        assert (whole(slide)[64:128, 64:128] == GLASS).all()


@pytest.mark.parametrize("corner", [(10, 0), (0, 320), (-64, 0)])
def test_frames_beside_the_grid_are_refused(corner: tuple[int, int], tmp_path: Path):
    dataset = dicoms.image_of(Slide(), (300, 200), 64)
    dicoms.place(dataset, [(0, 0), corner])
    path = dicoms.save(tmp_path / "a.dcm", dataset, [bytes(64 * 64 * 3)] * 2, dicoms.CODECS["raw"][0])
    with pytest.raises(SlideError, match="odd places"):
        open_pyramid(path)


def test_of_focal_planes_in_order_the_middle_one_is_read(image: np.ndarray, tmp_path: Path):
    planes = [np.zeros_like(image), image, np.zeros_like(image)]
    frames = [tile.tobytes() for plane in planes for tile in dicoms.cut_tiles(plane, 64)]
    dataset = dicoms.image_of(Slide(), (300, 200), 64)
    dataset.TotalPixelMatrixFocalPlanes = 3
    with open_slide(dicoms.save(tmp_path / "a.dcm", dataset, frames, dicoms.CODECS["raw"][0])) as slide:
        np.testing.assert_array_equal(whole(slide), image)
        assert slide.pyramid.focal_plane == (2, 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("sparse", [False, True])
def test_a_concatenation_is_one_level(sparse: bool, image: np.ndarray, tmp_path: Path):
    files = write_concatenation(tmp_path, image, sparse)
    assert group_series(files) == [files]
    with open_slide(files[2]) as slide:
        assert len(slide.levels) == 1
        np.testing.assert_array_equal(whole(slide), image)
    files[1].unlink()
    with pytest.raises(SlideError, match="concatenation are missing"):
        open_pyramid(files[0])


def write_concatenation(folder: Path, image: np.ndarray, sparse: bool) -> list[Path]:
    """Three files whose names are not in the order of their frames."""
    tiles, files = dicoms.cut_tiles(image, 64), []
    for name, first, last in (("b.dcm", 0, 5), ("a.dcm", 5, 11), ("c.dcm", 11, 20)):
        dataset = dicoms.image_of(Slide(), (300, 200), 64)
        dataset.SOPInstanceUID = f"1.2.{first}"
        dataset.ConcatenationUID = "1.2.3"
        dataset.ConcatenationFrameOffsetNumber, dataset.InConcatenationTotalNumber = first, 3
        if sparse:
            dicoms.place(dataset, [(index % 5 * 64, index // 5 * 64) for index in range(first, last)])
        frames = [tile.tobytes() for tile in tiles[first:last]]
        files.append(dicoms.save(folder / name, dataset, frames, dicoms.CODECS["raw"][0]))
    return sorted(files)


# --- what is refused


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "16 bit": ("not brightfield RGB", {"BitsAllocated": 16, "BitsStored": 16}),
    "grey": ("not brightfield RGB", {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}),
    "palette": ("not brightfield RGB", {"PhotometricInterpretation": "PALETTE COLOR"}),
    "several stains": ("not brightfield RGB", {"OpticalPathSequence": [pydicom.Dataset(), pydicom.Dataset()]}),
    "a huge matrix": ("unreadable", {"TotalPixelMatrixColumns": 2**31, "TotalPixelMatrixRows": 2**31}),
    "huge frames": ("unreadable", {"Rows": 65535, "Columns": 65535}),
    "no rows": ("unreadable", {"Rows": 0}),
    "too few frames": ("unreadable", {"TotalPixelMatrixRows": 900}),
    "no size": ("unreadable", {"TotalPixelMatrixRows": None}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, image: np.ndarray, tmp_path: Path):
    reason, changes = REFUSED[what]
    path = write_level(tmp_path / "a.dcm", image, **changes)
    with pytest.raises(SlideError) as refused:
        open_pyramid(path)
    assert refused.value.reason == reason
    assert str(refused.value).startswith("a.dcm: ")


def test_many_frames_in_a_small_file_are_refused(image: np.ndarray, tmp_path: Path):
    path = write_level(tmp_path / "a.dcm", image, tile=1, codec="raw", TotalPixelMatrixRows=2000)
    replaced = path.read_bytes().replace(b"60000 ", b"600000", 1)
    assert replaced != path.read_bytes()
    path.write_bytes(replaced)
    with pytest.raises(SlideError):
        open_pyramid(path)


def test_a_compressed_header_is_not_inflated(image: np.ndarray, tmp_path: Path):
    path = write_level(tmp_path / "a.dcm", image)
    deflated = path.read_bytes().replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.1.99", 1)
    path.write_bytes(deflated)
    with pytest.raises(SlideError, match="Deflated Explicit VR Little Endian is not read"):
        open_pyramid(path)


def test_a_header_of_many_bytes_is_refused(image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(elements, "MAX_BYTES", 500)
    with pytest.raises(SlideError, match="larger than any header"):
        open_pyramid(write_level(tmp_path / "a.dcm", image))


def test_a_missing_element_is_named(image: np.ndarray, tmp_path: Path):
    with pytest.raises(SlideError, match="damaged DICOM header \\(no Rows\\)"):
        open_pyramid(write_level(tmp_path / "a.dcm", image, Rows=None))


@pytest.mark.parametrize("length", [0xFFFFFFFF, 8 * 200_000])
def test_a_header_of_countless_items_costs_no_time(length: int, image: np.ndarray, tmp_path: Path):
    path = write_level(tmp_path / "a.dcm", image, codec="raw", DimensionOrganizationType="TILED_SPARSE")
    content = path.read_bytes()
    items = bytes.fromhex("feff00e000000000") * 200_000 + bytes.fromhex("feffdde000000000")
    per_frame = b"\0\x52\x30\x92SQ\0\0" + struct.pack("<I", length) + items
    at = content.rindex(b"\xe0\x7f\x10\0OB")
    path.write_bytes(content[:at] + per_frame + content[at:])
    with pytest.raises(SlideError, match="it places more than its 20 frames"):
        open_pyramid(path)
    at = content.index(b"\x08\0\x16\0UI")
    path.write_bytes(content[:at] + b"\x08\0\x15\0SQ\0\0\xff\xff\xff\xff" + items + content[at:])
    with pytest.raises(SlideError, match="larger than any header"):
        open_pyramid(path)


def test_a_lesser_level_of_another_kind_is_left_out(image: np.ndarray, tmp_path: Path):
    write_level(tmp_path / "full.dcm", image)
    grey = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    write_level(tmp_path / "half.dcm", image[::2, ::2], spacing=2 * MM, **grey)
    with open_slide(tmp_path / "full.dcm") as slide:
        assert len(slide.levels) == 1


def test_a_lesser_level_never_stands_for_one_that_is_not_read(image: np.ndarray, tmp_path: Path):
    write_level(tmp_path / "full.dcm", image, BitsAllocated=16)
    write_level(tmp_path / "half.dcm", image[::2, ::2], spacing=2 * MM)
    for name in ("full.dcm", "half.dcm"):
        with pytest.raises(NotASlideError, match="8 bits"):
            open_pyramid(tmp_path / name)


def test_a_level_of_unread_coding_is_the_outcome_of_its_slide(image: np.ndarray, tmp_path: Path):
    """Lossless JPEG; the lower level alone would be a slide of a coarser scan."""
    write_level(tmp_path / "full.dcm", image)
    write_level(tmp_path / "half.dcm", image[::2, ::2], spacing=2 * MM)
    content = (tmp_path / "full.dcm").read_bytes()
    (tmp_path / "full.dcm").write_bytes(content.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.70", 1))
    assert sources_of(tmp_path)[0] == [["full.dcm", "half.dcm"]]
    for name in ("full.dcm", "half.dcm"):
        with pytest.raises(SlideError, match=r"full.dcm: transfer syntax JPEG Lossless.* is not read"):
            open_pyramid(tmp_path / name)


# --- pixel size


def test_the_pixel_size_falls_back_on_the_imaged_area(image: np.ndarray, tmp_path: Path):
    area = {"ImagedVolumeWidth": 300 * MM, "ImagedVolumeHeight": 200 * MM}
    with open_slide(write_level(tmp_path / "a.dcm", image, spacing=None, **area)) as slide:
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(0.25), "DICOM ImagedVolumeWidth")
    square = {"ImagedVolumeWidth": 15.0, "ImagedVolumeHeight": 15.0}  # what writers put there that know nothing
    with opened(write_level(tmp_path / "a.dcm", image, spacing=None, **square)) as slide:
        assert slide.pyramid.mpp is None


def test_the_distance_between_rows_comes_first(image: np.ndarray, tmp_path: Path):
    path = write_level(tmp_path / "a.dcm", image, PixelSpacing=[3 * MM, MM], spacing=None)
    with opened(path) as slide:
        assert slide.pyramid.mpp == pytest.approx((0.25, 0.75))
        assert slide.pyramid.scanner == "Scanner 3"


# --- damage


def test_damaged_frames_are_broken_tiles_and_others_are_not(image: np.ndarray, tmp_path: Path):
    path = write_level(tmp_path / "a.dcm", image)
    content = bytearray(path.read_bytes())
    second = content.index(jpeg.SOI, content.index(jpeg.SOI) + 2)
    content[second : second + 200] = bytes(200)
    path.write_bytes(content)
    with opened(path) as slide:
        with pytest.raises(TileError, match="tile at column 1, row 0 of level 0"):
            slide.pyramid.tile(0, 1, 0)
        assert slide.pyramid.tile(0, 2, 0) is not None


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000", "jpegls"])
def test_a_stream_of_another_size_is_not_decoded(codec: str, image: np.ndarray, tmp_path: Path):
    syntax, photometric, encode = dicoms.CODECS[codec]
    large = np.zeros((512, 512, 3), np.uint8)
    frames = [encode(large if index == 1 else tile) for index, tile in enumerate(dicoms.cut_tiles(image, 64))]
    path = dicoms.save(tmp_path / "a.dcm", dicoms.image_of(Slide(), (300, 200), 64, photometric), frames, syntax)
    with opened(path) as slide, pytest.raises(TileError, match=r"expected 64 x 64 px of RGB, found 512 x 512 px"):
        slide.pyramid.tile(0, 1, 0)


def in_small_tiles(stream: bytes) -> bytes:
    """A JPEG 2000 stream that says it is cut into tiles of one px."""
    at = stream.index(decode.JPEG2000_START) + 24
    return stream[:at] + struct.pack(">2I", 1, 1) + stream[at + 8 :]


GREY = np.zeros((64, 64), np.uint8)
OTHER_STREAMS = {
    "jpeg": imagecodecs.jpeg8_encode(GREY),
    "jpegls": imagecodecs.jpegls_encode(GREY),
    "jpeg2000": imagecodecs.jpeg2k_encode(GREY, level=0),
    "jpeg2000-plain": in_small_tiles(imagecodecs.jpeg2k_encode(np.zeros((64, 64, 3), np.uint8), level=0)),
}


@pytest.mark.parametrize("codec", OTHER_STREAMS)
def test_streams_of_other_components_or_countless_tiles_are_not_decoded(codec: str, image: np.ndarray, tmp_path: Path):
    syntax, photometric, encode = dicoms.CODECS[codec]
    frames = [OTHER_STREAMS[codec] if n == 1 else encode(tile) for n, tile in enumerate(dicoms.cut_tiles(image, 64))]
    path = dicoms.save(tmp_path / "a.dcm", dicoms.image_of(Slide(), (300, 200), 64, photometric), frames, syntax)
    with opened(path) as slide, pytest.raises(TileError, match="found no such stream"):
        slide.pyramid.tile(0, 1, 0)


@pytest.mark.parametrize("table", ["basic", "extended", "none"])
@pytest.mark.parametrize("codec", ["jpeg", "raw"])
def test_a_file_cut_short_has_the_tiles_it_holds(codec: str, table: str, image: np.ndarray, tmp_path: Path):
    path = write_level(tmp_path / "a.dcm", image, codec=codec, table=table)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])
    with opened(path) as slide:
        assert difference(slide.pyramid.tile(0, 0, 0), image[:64, :64]) < 1
        with pytest.raises(TileError, match="cut short"):
            slide.pyramid.tile(0, 4, 3)


def test_an_offset_table_that_overflowed_is_not_believed(image: np.ndarray, tmp_path: Path):
    path = write_level(tmp_path / "a.dcm", image)
    content = path.read_bytes()
    at = content.index(struct.pack("<I", 80), content.rindex(b"OB\0\0")) + 4
    offsets = np.frombuffer(content[at : at + 80], "<u4").copy()
    offsets[10:] -= offsets[10]
    path.write_bytes(content[:at] + offsets.tobytes() + content[at + 80 :])
    with open_slide(path) as slide:
        assert difference(whole(slide), image) < 1


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000", "raw-implicit"])
def test_flipped_bytes_end_in_our_errors(codec: str, seed: int, image: np.ndarray, tmp_path: Path):
    whole_file = write_level(tmp_path / "a.dcm", image, codec=codec).read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(12):
        damaged = bytearray(whole_file)
        for at in rng.integers(132, 2000, 3):
            damaged[at] = rng.integers(256)
        (tmp_path / "a.dcm").write_bytes(damaged)
        with suppress(SlideError), opened(tmp_path / "a.dcm") as slide:
            level = slide.levels[0]
            slide.pyramid.tile(0, level.columns - 1, level.rows - 1)
        find_series(tmp_path / "a.dcm")


# --- privacy


PRIVATE = ("DOE^JANE", "S20-1234", "1961-04-12", "19610412", "ACC-778", "Dr. Grey")


def plant(path: Path) -> None:
    """A patient in every element that may name one, also in values that pydicom would quote in a warning."""
    dataset = pydicom.dcmread(path)
    dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = "DOE^JANE", "S20-1234", "ACC-778"
    dataset.PatientBirthDate, dataset.OperatorsName = "19610412", "Dr. Grey"
    dataset.ContainerIdentifier, dataset.BarcodeValue = "S20-1234", "S20-1234"
    dataset.ManufacturerModelName = "scanner of DOE^JANE, 1961-04-12"
    dataset.ImageComments = "born 1961-04-12"
    block = dataset.private_block(0x0009, "DOE^JANE", create=True)
    block.add_new(0x01, "LO", "S20-1234")
    dataset.save_as(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"SH\x08\x00ACC-778 ", b"DS\x08\x00ACC-778 "))


@pytest.mark.parametrize("readable", [True, False])
def test_no_planted_text_and_no_label_in_any_output(readable: bool, tmp_path: Path):
    import cv2

    tissue = draw.draw_tissue(1800, 1400, seed=3)
    files = write_series(tmp_path / "slides", tissue, tile=256)
    label = np.full((256, 256, 3), 255, np.uint8)
    cv2.putText(label, "S20-1234", (8, 120), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (0, 0, 255), 3)
    write_level(files["label"], label, flavour="LABEL", spacing=None, codec="raw", tile=256)
    for path in files.values():
        plant(path)
    if not readable:
        dataset = pydicom.dcmread(files["full"])
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.save_as(files["full"])
    done = wsisum("compress", tmp_path / "slides", "-o", tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["slides"]
    by_status = {row["source"]: (row["status"], row["reason"]) for row in rows}
    assert by_status["a-2.dcm"] == (("written", "") if readable else ("skipped", "not brightfield RGB")), done.stdout
    assert by_status["a-1.dcm"] == ("skipped", "label image")
    summaries = list((tmp_path / "out").rglob("*.ozx"))
    assert len(summaries) == readable
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        content = path.read_bytes() + (done.stdout + done.stderr).encode()
        assert not [text for text in PRIVATE if text.encode() in content], path.name
    for path in summaries:
        with open_summary(path) as summary:
            pictures = [summary.overview, *summary.patches]
        assert len(pictures) > 1
        assert not any(inked(picture).any() for picture in pictures)
    assert inked(label).any()


def inked(picture: np.ndarray) -> np.ndarray:
    """Where the pure blue of the label's writing is."""
    return np.asarray((picture[..., 2] > 200) & (picture[..., :2].max(axis=2) < 60))


def test_odd_values_are_read_without_a_word(image: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """pydicom would quote them in warnings, which are errors here."""
    path = write_level(tmp_path / "a.dcm", image)
    content = path.read_bytes()
    assert content.count(b"CS\x02\x00NO") == 1
    path.write_bytes(content.replace(b"LO\x02\x00C1", b"LO\x02\x00\xffJ").replace(b"LO\x02\x00P1", b"DS\x02\x00no"))
    with open_slide(path) as slide:
        assert slide.size == (300, 200)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["gone.dcm", "folder.dcm"])
def test_what_cannot_be_read_says_so(name: str, tmp_path: Path):
    (tmp_path / "folder.dcm").mkdir()
    with pytest.raises(SlideError, match=r"gone.dcm: cannot be read|a folder"):
        open_pyramid(tmp_path / name)
    assert not is_dicom(tmp_path / name)
