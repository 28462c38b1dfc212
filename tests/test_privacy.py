"""What a slide's header and label say of a patient reaches no output, report or log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from planted import PLANTED, SLIDE

from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.slides import tiff
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.reader import open_summary

BLOCK = 24  # px; a square of the label as large as this would be recognised


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The folder of all outputs, and everything that was printed by all commands."""
    output = tmp_path_factory.mktemp("output")
    printed = b""
    for command in (
        ["compress", shared / SLIDE, "-o", output],
        ["inspect", output / "stomach-metaplasia.ozx", "--image", output / "picture.png"],
        ["inspect", output / "stomach-metaplasia.ozx", "--json"],
        ["verify", output, "--source", shared / SLIDE],
        ["verify", output, "--source", shared / SLIDE, "--json"],
    ):
        done = subprocess.run([sys.executable, "-m", "wsisum_cli", *map(str, command)], capture_output=True, check=True)
        printed += done.stdout + done.stderr
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
    return content.replace(pixels_of_png(content), b"") if path.suffix == ".png" else content


def pixels_of_png(content: bytes) -> bytes:
    """From the first IDAT chunk to the last chunk, which is IEND."""
    return content[content.index(b"IDAT") : -12]


@pytest.mark.parametrize("text", PLANTED)
def test_no_planted_text_anywhere(run: tuple[Path, bytes], text: str):
    output, printed = run
    forms = {text.encode(), text.encode("utf-16-le"), text.lower().encode()}
    for path in output.rglob("*"):
        content = path.read_bytes() + (everything_in(path) if path.suffix == ".ozx" else b"")
        if len(text) < 5:
            content = legible_in(path)
        assert not [form for form in forms if form in content], path.name
    assert not [form for form in forms if form in printed]


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
    marked = [
        label[y : y + BLOCK, x : x + BLOCK]
        for y in range(0, label.shape[0] - BLOCK, BLOCK)
        for x in range(0, label.shape[1] - BLOCK, BLOCK)
        if label[y : y + BLOCK, x : x + BLOCK].std() > 20  # with text on it
    ]
    assert marked
    with open_summary(run[0] / "stomach-metaplasia.ozx") as summary:
        pictures = [summary.overview, np.moveaxis(summary.array("0"), 0, 2), *summary.patches]
    assert not [1 for picture in pictures for square in marked if contains(picture, square)]


def contains(picture: np.ndarray, square: np.ndarray) -> bool:
    """Whether `square` stands anywhere in `picture`, up to the loss of a JPEG."""
    import cv2

    if min(picture.shape[:2]) < BLOCK:
        return False
    distance = cv2.matchTemplate(np.ascontiguousarray(picture), np.ascontiguousarray(square), cv2.TM_SQDIFF)
    return bool(distance.min() / square.size < 15**2)
