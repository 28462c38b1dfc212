"""The TIFF of an export: its structure, its pixels by OpenSlide and tifffile, what it says, and that it is no slide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from draw import draw_tissue
from draw import write_tiff as write_slide
from summaries import KEPT, SIDE, compress_drawn, draw_slide, shipped_encoder, tiny_contents, write_tiny

from wsisum_cli.errors import NotASlideError, SummaryError
from wsisum_cli.exports.export import export_summary
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.exports.tiff import structure
from wsisum_cli.exports.tiff.levels import FIELD, PALE, STRIPE, blank_tile, reduced_size, write_tiff
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import read_patches
from wsisum_cli.slides.pixels import resize
from wsisum_cli.slides.slide import open_slide
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.reader import open_summary, reading_of
from wsisum_cli.summary.writer import write_summary

JPEG_SLIDES = (
    "stomach/stomach-metaplasia.svs",
    "duodenum/duodenum-lymphangiectasia.svs",
    "colon/tubular-adenoma.ome.tiff",
    "pancreas/pdac-tru-cut-3.tiff",
)


def export(summary: Path, folder: Path) -> Path:
    output = folder / f"{summary.stem}.summary.ome.tiff"
    export_summary(summary, output, TARGETS["tiff"])
    return output


def region(slide: openslide.OpenSlide, x: int, y: int, side: int, level: int = 0) -> np.ndarray:
    return np.array(slide.read_region((x, y), level, (side, side)).convert("RGB"))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.mean((one.astype(float) - other) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("name", JPEG_SLIDES)
def test_every_patch_is_identical_to_the_slide_in_openslide(shared: Path, tmp_path: Path, name: str):
    source = shared / "slides" / name
    summary = tmp_path / "a.ozx"
    options = Options(keep=12, draws=20, pixels="source")
    compress_slide(Job(find_source(source), summary, source.name, mpp=0.25), options, Tools(shipped_encoder(), 2))
    with openslide.OpenSlide(source) as slide, openslide.OpenSlide(export(summary, tmp_path)) as exported:
        assert exported.dimensions == slide.dimensions
        assert float(exported.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        with open_summary(summary) as opened:
            side = opened.record.patch.patch_size_level0
            for x, y in opened.coords.tolist():
                np.testing.assert_array_equal(region(exported, x, y, side), region(slide, x, y, side))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return compress_drawn(tmp_path_factory.mktemp("drawn"))


def test_jpeg_patches_are_as_near_to_the_slide_as_the_stored_ones(drawn: dict[str, Path], tmp_path: Path):
    path = export(drawn["jpeg"], tmp_path)
    with tifffile.TiffFile(path) as tiff:
        level1 = tiff.series[0].levels[1].asarray()
    with (
        openslide.OpenSlide(path) as exported,
        open_summary(drawn["jpeg"]) as summary,
        open_slide(drawn["slide"]) as slide,
    ):
        record, reading = summary.record, reading_of(summary.attributes)
        assert exported.dimensions == (record.source.width, record.source.height)
        assert exported.level_count == 3
        side, size = record.patch.patch_size_level0, record.patch.patch_size
        found = list(read_patches(slide.pyramid, summary.coords, reading, Damage()))
        true = {row: patch for rows, patches in found for row, patch in zip(rows.tolist(), patches, strict=True)}
        assert len(true) == record.patches
        for row, (x, y) in enumerate(summary.coords.tolist()):
            stored = psnr(summary.patches[row], true[row])
            left, upper = round(x * size / side), round(y * size / side)
            assert psnr(level1[upper : upper + size, left : left + size], true[row]) > stored - 0.1
            assert psnr(region(exported, x, y, size, 1), true[row]) > stored - 0.5
            assert psnr(resize(region(exported, x, y, side), size, size), true[row]) > stored - 1.5


def test_tiles_of_a_lower_level_lie_on_that_level(tmp_path: Path):
    slide = tmp_path / "fine.tiff"
    write_slide(slide, draw_tissue(4000, 3000, 3), mpp=0.125)
    compress_slide(
        Job(find_source(slide), tmp_path / "a.ozx", slide.name),
        Options(keep=6, draws=20, pixels="source"),
        Tools(shipped_encoder(), 2),
    )
    path = export(tmp_path / "a.ozx", tmp_path)
    with openslide.OpenSlide(path) as exported, openslide.OpenSlide(slide) as original:
        assert exported.level_dimensions[:2] == original.level_dimensions[:2]
        with open_summary(tmp_path / "a.ozx") as opened:
            assert opened.record.patch.reading.level == 1
            side = opened.record.patch.patch_size_level0
            for (x, y), stored in zip(opened.coords.tolist(), opened.patches, strict=True):
                patch = region(exported, x, y, side // 4, 1)
                np.testing.assert_array_equal(patch, region(original, x, y, side // 4, 1))
                assert psnr(resize(region(exported, x, y, side), *stored.shape[:2]), stored) > 36


def test_tiles_are_copied_byte_for_byte(tmp_path: Path):
    summary = write_tiny(tmp_path / "B12.ozx", "source")
    with tifffile.TiffFile(export(summary, tmp_path)) as tiff, open_summary(summary) as opened:
        page = tiff.pages.first
        columns = -(-page.imagewidth // page.tilewidth)
        for row, (column, line) in enumerate(opened.patches.positions.tolist()):
            index = line * columns + column
            tiff.filehandle.seek(page.dataoffsets[index])
            assert tiff.filehandle.read(page.databytecounts[index]) == opened.patches.shard.stream(row)
        stored = {line * columns + column for column, line in opened.patches.positions.tolist()}
        rest = {page.dataoffsets[index] for index in range(len(page.dataoffsets)) if index not in stored}
        assert len(rest) == 1  # one stream for all that is not stored


def test_tifffile_reads_the_patches_and_the_levels(tmp_path: Path):
    summary = write_tiny(tmp_path / "B12.ozx", "source")
    path = export(summary, tmp_path)
    with tifffile.TiffFile(path) as tiff, open_summary(summary) as opened:
        series = tiff.series[0]
        assert tiff.is_ome
        assert [level.shape for level in series.levels] == [(640, 640, 3), (40, 40, 3)]
        assert [int(tiff.pages[index].aspage().subfiletype) for index in range(2)] == [0, 1]
        pixels = series.asarray()
        slide = draw_slide()
        for x, y in opened.coords.tolist():
            patch = pixels[y : y + 2 * SIDE, x : x + 2 * SIDE]
            assert psnr(patch, slide[y : y + 2 * SIDE, x : x + 2 * SIDE]) > 35
        assert tiff.pages.first.tags["InterColorProfile"].value == b"a colour profile"
        resolution = tiff.pages.first.tags["XResolution"].value
        assert resolution[0] / resolution[1] == pytest.approx(40_000)


def test_what_is_not_stored_is_striped_and_grey_on_the_overview(tmp_path: Path):
    summary = write_tiny(tmp_path / "B12.ozx", "source")
    with tifffile.TiffFile(export(summary, tmp_path)) as tiff, open_summary(summary) as opened:
        levels = [level.asarray() for level in tiff.series[0].levels]
        kept = np.zeros((10, 10), bool)
        kept[tuple(opened.coords[:, ::-1].T // (2 * SIDE))] = True
    fine, coarse = (np.repeat(np.repeat(kept, side, 0), side, 1) for side in (2 * SIDE, 4))
    nothing = levels[0][~fine].astype(int)
    assert nothing.min() > min(STRIPE) - 25
    assert nothing.max() < max(FIELD) + 25
    assert np.ptp(nothing, axis=1).max() <= 2  # grey
    colourful = np.ptp(levels[1].astype(int), axis=2)
    assert colourful[~coarse].mean() < 8 < colourful[coarse].mean()
    pale = levels[1][~coarse].mean(axis=1)
    assert min(PALE) - 15 < np.percentile(pale, 2) < np.percentile(pale, 98) < max(PALE) + 15


def test_stripes_go_on_in_the_next_tile():
    tile = blank_tile(128)
    assert {tuple(colour) for colour in tile.reshape(-1, 3).tolist()} == {FIELD, STRIPE}
    wide = np.hstack([tile, tile])
    assert all((wide[1:, 96:160] == wide[:-1, 97:161]).all(axis=(1, 2)))
    assert len(np.unique(blank_tile(256))) > 2  # the words


def test_a_tile_that_the_slide_does_not_store_is_glass(tmp_path: Path):
    contents = tiny_contents("source")
    pixels = contents.pixels
    lacking = replace(pixels, positions=pixels.positions[1:], spliced=pixels.spliced[1:], streams=pixels.streams[1:])
    summary = tmp_path / "B12.ozx"
    record = contents.attributes
    fewer = record.pixels.model_copy(update={"tiles": len(lacking.streams)})
    write_summary(summary, replace(contents, pixels=lacking, attributes=record.model_copy(update={"pixels": fewer})))
    column, row = pixels.positions[0].tolist()
    with open_summary(summary) as opened:
        write_tiff(opened, tmp_path / "a.tiff", ExportOptions())
    found = tifffile.imread(tmp_path / "a.tiff")[row * 32 : (row + 1) * 32, column * 32 : (column + 1) * 32]
    assert (found == 255).all()


def test_a_patch_that_is_one_tile_is_copied_in_mode_jpeg(tmp_path: Path):
    summary = write_tiny(tmp_path / "B12.ozx", "jpeg")
    with tifffile.TiffFile(export(summary, tmp_path)) as tiff, open_summary(summary) as opened:
        page = tiff.pages[1]
        assert (page.imagewidth, page.tilewidth) == (10 * SIDE, SIDE)
        for row, (x, y) in enumerate(opened.coords.tolist()):
            index = y // (2 * SIDE) * 10 + x // (2 * SIDE)
            tiff.filehandle.seek(page.dataoffsets[index])
            assert tiff.filehandle.read(page.databytecounts[index]) == opened.patches.shard.stream(row)


def test_it_says_what_it_is_and_compress_takes_it_for_no_slide(tmp_path: Path):
    path = export(write_tiny(tmp_path / "B12.ozx", "jpeg"), tmp_path)
    with tifffile.TiffFile(path) as tiff:
        words = tiff.pages.first.description
        assert f"Summary of tiny.svs: {KEPT} of 80 tissue patches, not a slide" in words
        assert "This is not a slide." in words
        assert "Level 0 is resized from level 1, which has the stored pixels, at 0.5 µm" in words.replace("&#181;", "µ")
        assert not [tag.name for page in tiff.pages for tag in page.tags if tag.name in ("DateTime", "DocumentName")]
    with pytest.raises(NotASlideError, match="an export of a summary"), open_slide(path):
        pass


def test_names_of_any_kind_are_written(tmp_path: Path):
    contents = tiny_contents("jpeg")
    source = contents.attributes.source.model_copy(update={"name": 'Prüfung <1> & "2".svs'})
    summary = tmp_path / "B12.ozx"
    write_summary(summary, replace(contents, attributes=contents.attributes.model_copy(update={"source": source})))
    with tifffile.TiffFile(export(summary, tmp_path)) as tiff:
        assert tiff.series[0].name == 'Summary of Prüfung <1> & "2".svs: 8 of 80 tissue patches, not a slide'


def test_sizes_are_rounded_so_that_the_scale_comes_out():
    assert reduced_size((400, 300), 2.0) == (200, 150)
    width, height = reduced_size((17883, 16091), 2.0)
    assert (17883 / width + 16091 / height) / 2 == pytest.approx(2, abs=1e-5)


def test_tiles_beyond_4_gb_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(structure, "MOST_BYTES", 10_000)
    with pytest.raises(SummaryError, match=r"^B12.ozx: its tiles take more than 4 GB"):
        export(write_tiny(tmp_path / "B12.ozx", "jpeg"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["B12.ozx"]


@pytest.mark.parametrize(("rgb", "subsampling"), [(True, (1, 1)), (False, (1, 1)), (False, (2, 1)), (False, (2, 2))])
def test_streams_are_encoded_like_others(rgb: bool, subsampling: tuple[int, int]):
    stream = jpeg.encode_alike(np.full((32, 32, 3), 200, np.uint8), rgb, subsampling)
    assert (jpeg.is_rgb(stream), jpeg.subsampling(stream)) == (rgb, subsampling)
    assert np.abs(jpeg.decode(stream).astype(int) - 200).max() <= 1


def test_mixed_streams_are_put_together_anew(tmp_path: Path, drawn: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    """Tiles that one page of a TIFF cannot hold: the patches are stored pixels in the level below."""
    monkeypatch.setattr(jpeg, "subsampling", lambda stream: None)
    path = export(drawn["source"], tmp_path)
    with openslide.OpenSlide(path) as exported, open_summary(drawn["source"]) as summary:
        assert exported.level_count == 3
        for (x, y), stored in zip(summary.coords.tolist(), summary.patches, strict=True):
            assert psnr(region(exported, x, y, stored.shape[0], 1), stored) > 40
