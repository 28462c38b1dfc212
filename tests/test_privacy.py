"""What a slide's header and label say of a patient reaches no output, report or log."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from planted import LAYOUTS, PLANTED, SLIDE, UNREADABLE, draw_planted_label, write_planted_slides
from running import wsisum

from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.slides import tiff
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.reader import open_summary

BLOCK = 24  # px; a square of the label as large as this would be recognised
CONTRAST = 60  # standard deviation of a square with text on it
#: The images in a page.
IMAGES = re.compile(rb"data:image/(?:jpeg|png);base64,([A-Za-z0-9+/=]+)")
SQUARES = 32  # of the highest contrast, that are looked for


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The folder of all outputs, and everything that was printed by all commands."""
    output = tmp_path_factory.mktemp("output")
    printed = b""
    for command in (
        ["compress", shared / SLIDE, "-o", output],
        ["inspect", output / "stomach-metaplasia.ozx", "--image", output / "picture.png"],
        ["inspect", output / "stomach-metaplasia.ozx", "--json"],
        ["inspect", output / "stomach-metaplasia.ozx", "--html", output / "page.html"],
        ["report", output, "--html", output / "archive.html"],
        ["verify", output, "--source", shared / SLIDE],
        ["verify", output, "--source", shared / SLIDE, "--json"],
    ):
        done = wsisum(*command)
        assert done.returncode == 0, done.stderr
        printed += (done.stdout + done.stderr).encode()
    return output, printed


def everything_in(summary: Path) -> bytes:
    """All members as they are, and all arrays decoded."""
    with open_summary(summary) as opened:
        raw = {name: opened.read(name) for name in opened.members}
        metadata = {name: json.loads(data) for name, data in raw.items() if name.endswith("/zarr.json")}
        arrays = [name for name, content in metadata.items() if content["node_type"] == "array"]
        decoded = [opened.array(name.removesuffix("/zarr.json")).tobytes() for name in arrays]
        assert len(decoded) > 10
        return b"".join([*raw.values(), *decoded])


def legible_in(path: Path) -> bytes:
    """What is text: three letters come up by chance in a few MB of compressed pixels."""
    if path.suffix == ".ozx":
        with open_summary(path) as opened:
            return b"".join(opened.read(name) for name in opened.members if name.endswith("zarr.json"))
    content = path.read_bytes()
    if path.suffix == ".html":
        return IMAGES.sub(b"", content)
    return content.replace(pixels_of_png(content), b"") if path.suffix == ".png" else content


def pixels_of_png(content: bytes) -> bytes:
    """From the first IDAT chunk to the last chunk, which is IEND."""
    return content[content.index(b"IDAT") : -12]


def places_of(text: str, output: Path, printed: bytes) -> list[str]:
    """Files, and what was printed, that hold a planted text in any form."""
    forms = {text.encode(), text.encode("utf-16-le"), text.lower().encode()}
    found = []
    for path in output.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes() + (everything_in(path) if path.suffix == ".ozx" else b"")
        if path.suffix == ".html":
            content += b"".join(base64.b64decode(data) for data in IMAGES.findall(content))
        if len(text) < 5:
            content = legible_in(path)
        found += [path.name for form in forms if form in content]
    return found + ["printed" for form in forms if form in printed]


@pytest.mark.parametrize("text", PLANTED)
def test_no_planted_text_anywhere(run: tuple[Path, bytes], text: str):
    assert places_of(text, *run) == []


def test_the_slide_does_hold_the_planted_text(shared: Path):
    with tifffile.TiffFile(shared / SLIDE) as tif:
        assert all(text in tif.pages.first.description for text in ("DOE^JANE", "S20-1234", "jane.doe", "SS1234"))


def test_no_byte_of_label_or_macro_is_read(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The reader fetches segments by itself, so that what it touches can be told."""
    read: list[tuple[int, int]] = []
    original = tiff.TiffPyramid._read

    def note(self: tiff.TiffPyramid, offset: int, count: int) -> bytes:
        read.append((offset, offset + count))
        return original(self, offset, count)

    monkeypatch.setattr(tiff.TiffPyramid, "_read", note)
    path = shared / SLIDE
    encoder = load_encoder("texture", "cpu")
    compress_slide(Job(find_source(path), tmp_path / "a.ozx", path.name), Options(), Tools(encoder, 2))
    with tifffile.TiffFile(path) as tif:
        private = [
            (offset, offset + count)
            for series in tif.series
            if series.name in ("Label", "Macro", "Thumbnail")
            for page in series.pages
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
    assert private
    assert read
    starts = np.array([start for start, _ in read])
    ends = np.array([end for _, end in read])
    for start, end in private:
        assert not ((starts < end) & (ends > start)).any()


def test_no_square_of_the_label_is_in_any_picture(run: tuple[Path, bytes], shared: Path):
    with tifffile.TiffFile(shared / SLIDE) as tif:
        label = next(series for series in tif.series if series.name == "Label").asarray()
    assert squares_found(run[0] / "stomach-metaplasia.ozx", label) == 0


def squares_found(summary: Path, label: np.ndarray) -> int:
    """How often a square of the label that has text on it stands in a picture of a summary."""
    squares = [
        label[y : y + BLOCK, x : x + BLOCK]
        for y in range(0, label.shape[0] - BLOCK, BLOCK)
        for x in range(0, label.shape[1] - BLOCK, BLOCK)
    ]
    # Of little contrast, a square is like many a corner of tissue on glass.
    marked = sorted((square for square in squares if square.std() > CONTRAST), key=np.std)[-SQUARES:]
    assert marked
    assert all(contains(label, square) for square in marked)
    with open_summary(summary) as opened:
        pictures = [opened.overview, np.moveaxis(opened.array("0"), 0, 2), *opened.patches]
    return sum(contains(picture, square) for picture in pictures for square in marked)


def contains(picture: np.ndarray, square: np.ndarray) -> bool:
    """Whether `square` stands anywhere in `picture`, up to the loss of a JPEG."""
    import cv2

    if min(picture.shape[:2]) < BLOCK:
        return False
    distance = cv2.matchTemplate(np.ascontiguousarray(picture), np.ascontiguousarray(square), cv2.TM_SQDIFF)
    return bool(distance.min() / square.size < 15**2)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The outputs of slides of other layouts, readable and not, and everything that was printed."""
    folder = tmp_path_factory.mktemp("planted")
    source, output = folder / "in", folder / "out"
    source.mkdir()
    write_planted_slides(source)
    printed = b""
    for command in (
        ["compress", source, "-o", output, "--encoder", "texture"],
        ["compress", source, "-o", output, "--encoder", "texture", "--dry-run", "--json"],
        ["inspect", output / "planted.ndpi.ozx", "--json"],
        ["verify", output, "--source", source, "--json"],
    ):
        done = wsisum(*command)
        printed += (done.stdout + done.stderr).encode()
    return output, printed


def test_slides_of_other_layouts_are_read_or_refused(planted: tuple[Path, bytes]):
    rows = json.loads((planted[0] / "report.json").read_text())["slides"]
    statuses = {row["source"]: row["status"] for row in rows}
    assert statuses == {
        **dict.fromkeys(LAYOUTS, "written"),
        "deep.ome.tif": "skipped",
        "broken.ndpi": "failed",
        "broken.tiff": "failed",
    }
    assert set(statuses) == {*LAYOUTS, *UNREADABLE}


@pytest.mark.parametrize("text", PLANTED)
def test_no_planted_text_of_other_layouts_anywhere(planted: tuple[Path, bytes], text: str):
    assert places_of(text, *planted) == []


def test_no_square_of_the_label_of_other_layouts_is_in_any_picture(planted: tuple[Path, bytes]):
    summaries = sorted(planted[0].glob("*.ozx"))
    assert len(summaries) == len(LAYOUTS)
    assert [summary.name for summary in summaries if squares_found(summary, draw_planted_label())] == []
