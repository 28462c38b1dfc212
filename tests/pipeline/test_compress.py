"""One slide through every stage, on slides as scanners write them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import vendors
from draw import cut_short, draw_tissue, write_svs, write_tiff
from onnx_models import expected_embedding
from schema import VALIDATOR
from spoil import break_tile
from stains import RECOLOURINGS
from summaries import figures_of, tiny_models

from wsisum_cli.errors import (
    BrokenSlideError,
    MaskError,
    ModelError,
    MppError,
    NotASlideError,
    NoTissueError,
    SlideError,
    SummaryError,
    TileError,
)
from wsisum_cli.models.choice import NO_MODELS, SlideModels
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.pipeline import compress
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.quality.verdict import percent
from wsisum_cli.selection import facility
from wsisum_cli.selection.selectors import SELECTORS
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.patches import Reading, read_patches
from wsisum_cli.slides.pyramid import EncodedTile
from wsisum_cli.slides.slide import open_slide
from wsisum_cli.slides.source import find_source
from wsisum_cli.slides.tiff import TiffPyramid
from wsisum_cli.summary import overview
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.verification.verify import verify_summary

SIZE = (3600, 3000)
LITTLE_SAID = "the encoder says little about this slide; use another --encoder, or keep the slide"
STAGES = ["tissue", "features", "selection", "pixels", "draws", "hash", "write"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("texture", "cpu")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return draw_tissue(*SIZE, seed=1)


@pytest.fixture(scope="module")
def slides(image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Slides by what is particular to them."""
    folder = tmp_path_factory.mktemp("slides")
    found = {name: folder / f"{name}.svs" for name in ("ycbcr", "rgb", "wide", "j2k", "coarse")}
    write_svs(found["ycbcr"], image, tile=256)
    write_svs(found["rgb"], image, tile=240, rgb_jpeg=True)
    write_svs(found["wide"], image, tile=1024)
    vendors.write_aperio_j2k(found["j2k"], image[:2000, :2200], ycbcr=False)
    write_svs(found["coarse"], image, mpp=1.0)
    found["plain"] = folder / "plain.tiff"
    write_tiff(found["plain"], image)
    return found


@pytest.fixture(scope="module")
def known(slides: dict[str, Path], encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The summary of the slide with YCbCr tiles, by default options."""
    path = tmp_path_factory.mktemp("known") / "ycbcr.ozx"
    summarize(slides["ycbcr"], path, encoder)
    return path


def summarize(
    slide: Path,
    output: Path,
    encoder: Encoder,
    options: Options | None = None,
    threads: int = 2,
    models: SlideModels = NO_MODELS,
    **job: Any,
) -> SimpleNamespace:
    about = Job(find_source(slide), output, job.pop("name", slide.name), **job)
    return figures_of(compress_slide(about, options or Options(), Tools(encoder, threads, models=models)))


def attributes_of(path: Path) -> dict[str, Any]:
    with open_summary(path) as summary:
        return summary.attributes


def codes(path: Path, encoder: Encoder, **more: Any) -> list[str]:
    """Of findings but the verdict's, which says little of slides as small as these."""
    found = verify_summary(path, lambda card: encoder, **more).findings
    return [finding.code for finding in found if finding.code != "verdict-fail"]


def pixels_at(slide: Path, path: Path) -> np.ndarray:
    """What the slide shows where the summary's kept patches lie, (K, P, P, 3)."""
    with open_summary(path) as summary, open_slide(slide, summary.attributes["source"]["mpp"]) as opened:
        reading = Reading(**summary.attributes["patch"]["reading"])
        found = np.zeros((len(summary.coords), reading.patch_size, reading.patch_size, 3), np.uint8)
        for rows, pixels in read_patches(opened.pyramid, summary.coords, reading, Damage()):
            found[rows] = pixels
    return found


def stored_pixels(path: Path) -> np.ndarray:
    with open_summary(path) as summary:
        return np.stack(list(summary.patches))


# -- pixels --------------------------------------------------------------------------------------------------


def test_256_px_tiles_are_copied_and_patches_are_bit_exact(slides, encoder, known):
    about = attributes_of(known)
    assert about["pixels"]["mode"] == "source"
    assert about["patch"]["patch_size_level0"] == 512
    assert about["patch"]["aligned"]
    assert about["pixels"]["tiles"] == 4 * about["patches"]
    np.testing.assert_array_equal(stored_pixels(known), pixels_at(slides["ycbcr"], known))
    assert codes(known, encoder, tier="source", source=slides["ycbcr"]) == []


def test_grid_is_aligned_to_240_px_rgb_tiles(slides, encoder, tmp_path):
    done = summarize(slides["rgb"], tmp_path / "a.ozx", encoder)
    about = attributes_of(tmp_path / "a.ozx")
    assert done.pixels == "source"
    assert (about["patch"]["patch_size_level0"], about["patch"]["aligned"]) == (480, True)
    assert about["patch"]["mpp"] == pytest.approx(0.25 * 480 / 256)
    np.testing.assert_array_equal(stored_pixels(tmp_path / "a.ozx"), pixels_at(slides["rgb"], tmp_path / "a.ozx"))
    assert codes(tmp_path / "a.ozx", encoder, tier="source", source=slides["rgb"]) == []


def test_re_encoding_records_its_feature_loss(slides, encoder, tmp_path):
    done = summarize(slides["rgb"], tmp_path / "a.ozx", encoder, Options(pixels="jpeg"))
    about = attributes_of(tmp_path / "a.ozx")
    assert done.pixels == "jpeg"
    assert about["patch"]["patch_size_level0"] == 512  # nothing to align to
    assert about["pixels"] | {"feature_cosine_mean": 0, "feature_cosine_min": 0} == {
        "mode": "jpeg",
        "quality": 90,
        "subsampling": "4:4:4",
        "feature_cosine_mean": 0,
        "feature_cosine_min": 0,
    }
    assert 0.95 < about["pixels"]["feature_cosine_min"] <= about["pixels"]["feature_cosine_mean"] <= 1
    error = stored_pixels(tmp_path / "a.ozx").astype(float) - pixels_at(slides["rgb"], tmp_path / "a.ozx")
    assert 0 < np.mean(error**2) < 40
    assert codes(tmp_path / "a.ozx", encoder, tier="source", source=slides["rgb"]) == []


def test_jpeg_2000_is_re_encoded_and_never_called_source(slides, encoder, tmp_path):
    assert summarize(slides["j2k"], tmp_path / "a.ozx", encoder).pixels == "jpeg"
    with pytest.raises(SlideError, match=r"^j2k\.svs: .*--pixels auto or jpeg") as caught:
        summarize(slides["j2k"], tmp_path / "b.ozx", encoder, Options(pixels="source"))
    assert caught.value.reason == "no JPEG tiles"
    assert not (tmp_path / "b.ozx").exists()


def test_bytes_of_a_multi_file_slide_include_all_files(image, encoder, tmp_path):
    vendors.write_mrxs(tmp_path / "a.mrxs", image[:2048, :2048])
    done = summarize(tmp_path / "a.mrxs", tmp_path / "a.ozx", encoder)
    source = attributes_of(tmp_path / "a.ozx")["source"]
    assert (source["files"], source["vendor"], done.pixels) == (4, "mirax", "jpeg")
    assert done.bytes_in == source["bytes"] == sum(f.stat().st_size for f in find_source(tmp_path / "a.mrxs").files)
    assert codes(tmp_path / "a.ozx", encoder, tier="source", source=tmp_path / "a.mrxs") == []


def test_tiles_much_larger_than_patches_are_copied_only_on_request(slides, encoder, tmp_path):
    modes = {}
    for pixels in ("auto", "source"):
        done = summarize(slides["wide"], tmp_path / "a.ozx", encoder, Options(keep=1, pixels=pixels))
        modes[pixels] = done.pixels
        assert attributes_of(tmp_path / "a.ozx")["patch"]["aligned"]
        assert codes(tmp_path / "a.ozx", encoder) == []
    assert modes == {"auto": "jpeg", "source": "source"}


# -- pixel size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segment", [b"\xff\xfe\x00\x0aDOE^JANE", b"\xff\xe1\x00\x0aDOE^JANE"])
def test_tiles_with_extra_data_are_not_copied(slides, encoder, tmp_path, monkeypatch, segment):
    """Scanners may write comments into every tile."""
    original = TiffPyramid.encoded_tile

    def commented(self: TiffPyramid, level: int, column: int, row: int) -> EncodedTile | None:
        tile = original(self, level, column, row)
        return tile and EncodedTile(tile.stream[:2] + segment + tile.stream[2:], tile.spliced)

    monkeypatch.setattr(TiffPyramid, "encoded_tile", commented)
    output = tmp_path / "a.ozx"
    assert summarize(slides["ycbcr"], output, encoder).pixels == "jpeg"
    assert b"DOE^JANE" not in output.read_bytes()
    with pytest.raises(SlideError, match="more than pixels") as caught:
        summarize(slides["ycbcr"], output, encoder, Options(pixels="source"))
    assert caught.value.reason == "no plain JPEG tiles"


def test_slide_without_pixel_size_needs_mpp(slides, encoder, tmp_path):
    with pytest.raises(MppError, match=r"^plain\.tiff: .*--mpp"):
        summarize(slides["plain"], tmp_path / "a.ozx", encoder)
    assert list(tmp_path.iterdir()) == []
    summarize(slides["plain"], tmp_path / "a.ozx", encoder, mpp=0.25)
    source = attributes_of(tmp_path / "a.ozx")["source"]
    assert (source["mpp"], source["mpp_source"]) == (0.25, "given")


def test_slide_coarser_than_the_encoder_is_refused(slides, encoder, tmp_path):
    with pytest.raises(MppError, match=r"^coarse\.svs: .*use an encoder for that magnification"):
        summarize(slides["coarse"], tmp_path / "a.ozx", encoder)


# -- the same again ------------------------------------------------------------------------------------------

IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from wsisum_cli.pipeline.compress import Job, Options, Tools, compress_slide
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.slides.source import find_source
slide, output = map(Path, sys.argv[1:])
compress_slide(Job(find_source(slide), output, slide.name), Options(), Tools(load_encoder("texture", "cpu"), 1))
"""


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_thread_count_does_not_change_the_bytes(slides, encoder, known, tmp_path, threads):
    summarize(slides["ycbcr"], tmp_path / "another name.ozx", encoder, threads=threads)
    assert (tmp_path / "another name.ozx").read_bytes() == known.read_bytes()


def test_another_process_writes_the_same_bytes(slides, known, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(slides["ycbcr"]), str(tmp_path / "a.ozx")]
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert (tmp_path / "a.ozx").read_bytes() == known.read_bytes()


def test_re_encoding_is_deterministic(slides, encoder, tmp_path):
    for name, threads in (("a.ozx", 1), ("b.ozx", 3)):
        summarize(slides["j2k"], tmp_path / name, encoder, threads=threads)
    assert (tmp_path / "a.ozx").read_bytes() == (tmp_path / "b.ozx").read_bytes()


# -- options -------------------------------------------------------------------------------------------------


def test_options_are_recorded(slides, encoder, tmp_path):
    options = Options(keep=5, selector="cluster", seed=3, candidates=40, clusters=7, pixels="jpeg", quality=95)
    summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, options)
    about = attributes_of(tmp_path / "a.ozx")
    assert about["options"] == {**options.as_dict(), "mask_sha256": None}
    assert (about["patches"], about["pixels"]["quality"]) == (5, 95)
    assert about["encoder"]["sha256"] == encoder.card.sha256
    assert about["provider"] == "CPUExecutionProvider"
    assert {"wsisum", "numpy", "opencv-python-headless"} <= set(about["versions"])


@pytest.mark.parametrize("selector", [name for name in SELECTORS if name != "attention"])  # which needs a slide encoder
def test_every_selector_works(slides, encoder, tmp_path, selector):
    summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, Options(selector=selector, keep=6))
    assert codes(tmp_path / "a.ozx", encoder) == []


@pytest.mark.parametrize("keep", [1, 10_000])
def test_one_or_all_patches_can_be_kept(slides, encoder, tmp_path, keep):
    done = summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, Options(keep=keep))
    assert done.patches == min(keep, done.tissue_patches)
    with open_summary(tmp_path / "a.ozx") as summary:
        assert len(summary.patches) == len(summary.weights) == done.patches
        if keep > 1:
            np.testing.assert_allclose(summary.weights, 1 / done.patches)
            assert done.quality.coverage == pytest.approx(1, abs=1e-6)
        else:
            assert summary.weights.tolist() == [1]


def test_fewer_candidates_than_kept_patches_works(slides, encoder, tmp_path):
    assert summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, Options(keep=9, candidates=2)).patches == 9


# -- given features ------------------------------------------------------------------------------------------


def give_features(folder: Path, slide: Path, known: Path, dims: int) -> Path:
    """Features of the known summary's tissue patches, as TRIDENT writes them."""
    folder.mkdir()
    with open_summary(known) as summary, h5py.File(folder / f"{slide.stem}.h5", "w") as file:
        coords = summary.tissue.coords
        file["features"] = np.random.default_rng(0).standard_normal((len(coords), dims)).astype(np.float32)
        file["coords"] = coords
        file["coords"].attrs["patch_size_level0"] = 512
        file["features"].attrs["encoder"] = "conch_v15"
    return folder


def test_features_covering_little_tissue_are_reported(slides, encoder, known, tmp_path):
    path = give_features(tmp_path / "features", slides["ycbcr"], known, 24) / "ycbcr.h5"
    with h5py.File(path, "a") as file:
        few = {name: file[name][:2] for name in ("features", "coords")}
        for name, values in few.items():
            about = dict(file[name].attrs)
            del file[name]
            file[name] = values
            file[name].attrs.update(about)
    done = summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, Options(), features=path.parent)
    share = attributes_of(tmp_path / "a.ozx")["features"]["tissue_share"]
    assert 0 < share < 0.3
    assert f"the given features cover {percent(share)} of the tissue; they leave out" in done.message
    assert not [f for f in verify_summary(tmp_path / "a.ozx").findings if f.severity == "error"]


@pytest.mark.parametrize("dims", [24, 144])  # the texture encoder has 144 as well
@pytest.mark.parametrize("pixels", ["auto", "jpeg"])
def test_existing_features_are_not_recomputed(slides, encoder, known, tmp_path, dims, pixels):
    folder = give_features(tmp_path / "features", slides["ycbcr"], known, dims)
    done = summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, Options(pixels=pixels), features=folder)
    about = attributes_of(tmp_path / "a.ozx")
    digest = hashlib.sha256((folder / "ycbcr.h5").read_bytes()).hexdigest()
    assert about["features"] == {
        "origin": "given",
        "encoder": "conch_v15",
        "sha256": digest,
        "left_out": 0,
        "tissue_share": about["features"]["tissue_share"],
        "patch_encoder_sha256": encoder.card.sha256,
    }
    assert about["features"]["tissue_share"] > 0.8  # edges lie in no whole patch
    said = f"the given features cover {percent(about['features']['tissue_share'])} of the tissue"
    assert done.message in (said, f"{LITTLE_SAID}; {said}")  # its features are noise
    assert about["encoder"] == {"name": "conch_v15"}
    assert done.provider == about["provider"] == "none"
    assert done.pixels == ("source" if pixels == "auto" else "jpeg")
    assert [f.code for f in verify_summary(tmp_path / "a.ozx").findings] == ["features-not-recomputed"]
    with open_summary(tmp_path / "a.ozx") as summary, h5py.File(folder / "ycbcr.h5") as file:
        at = {tuple(xy): row for row, xy in enumerate(file["coords"][()].tolist())}
        rows = [at[tuple(xy)] for xy in summary.coords.tolist()]
        np.testing.assert_array_equal(summary.features, file["features"][()][rows].astype(np.float16))


@pytest.mark.parametrize("pixels", ["source", "jpeg"])
def test_existing_features_on_broken_tiles_fail_naming_the_slide(slides, encoder, known, tmp_path, pixels):
    folder = give_features(tmp_path / "features", slides["ycbcr"], known, 24)
    broken = tmp_path / "ycbcr.svs"
    broken.write_bytes(slides["ycbcr"].read_bytes())
    with open_summary(known) as summary:
        for x, y in summary.tissue.coords.tolist():
            break_tile(broken, x // 256, y // 256)
    with pytest.raises((BrokenSlideError, TileError), match=r"^ycbcr\.svs: "):
        summarize(broken, tmp_path / "a.ozx", encoder, Options(pixels=pixels), features=folder)
    assert not (tmp_path / "a.ozx").exists()


def test_existing_features_tolerate_a_few_broken_tiles(slides, encoder, known, tmp_path):
    """The kept patch that lies on one is left out, and another picked."""
    broken = tmp_path / "ycbcr.svs"
    broken.write_bytes(slides["ycbcr"].read_bytes())
    folder = give_features(tmp_path / "features", slides["ycbcr"], known, 24)
    summarize(broken, tmp_path / "whole.ozx", encoder, features=folder)
    with open_summary(tmp_path / "whole.ozx") as summary:
        x, y = summary.coords[0].tolist()
        count = len(summary.tissue.coords)
    break_tile(broken, x // 256, y // 256)
    done = summarize(broken, tmp_path / "a.ozx", encoder, features=folder)
    assert (done.tissue_patches, done.broken_tiles) == (count - 1, 1)
    with open_summary(tmp_path / "a.ozx") as summary:
        assert [x, y] not in summary.tissue.coords.tolist()


# -- models that see whole slides ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(encoder: Encoder) -> SlideModels:
    """For the encoder's features."""
    return tiny_models(encoder.card.dims, encoder.card.sha256)


def findings(path: Path, encoder: Encoder, models: SlideModels, slide: Path | None = None) -> list[str]:
    result = verify_summary(
        path,
        lambda card: encoder,
        "source" if slide else "full",
        slide,
        find_summarizer=lambda card: models.summarizer,
        find_slide_encoder=lambda card: models.slide_encoder,
    )
    return [finding.code for finding in result.findings if finding.code != "verdict-fail"]


@pytest.mark.parametrize("pixels", ["source", "jpeg"])
def test_model_figures_are_recorded(slides, encoder, models, tmp_path, pixels):
    options = Options(pixels=pixels, candidates=20)
    done = summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, options, models=models)
    about = attributes_of(tmp_path / "a.ozx")
    for name, model in (("summarizer", models.summarizer), ("slide_encoder", models.slide_encoder)):
        assert about[name] == {**model.card.as_dict(), "provider": "CPUExecutionProvider"}
    quality = about["quality"]
    assert (done.reconstruction, done.embedding_cosine) == (quality["reconstruction"], quality["embedding_cosine"])
    assert 0 < quality["reconstruction"] < 1
    assert 0 < quality["embedding_cosine"] <= 1
    assert "embedding" in done.seconds
    with open_summary(tmp_path / "a.ozx") as summary:
        reference = summary.reference
        assert (len(reference.candidates), len(summary.tissue.coords)) == (20, done.tissue_patches)
        assert done.tissue_patches > 20
        assert reference.embedding.shape == reference.slide_embedding.shape == (5,)
        # a summarizer whose embedding is the projected mean, a slide encoder that does the same with all tissue
        np.testing.assert_allclose(reference.slide_embedding, expected_embedding(reference.mean[None]), rtol=1e-3)
        np.testing.assert_allclose(reference.prototypes[1], 2 * reference.mean, rtol=1e-4)
    assert findings(tmp_path / "a.ozx", encoder, models, slides["ycbcr"]) == []


def test_summary_records_missing_models(known):
    about = attributes_of(known)
    assert (about["summarizer"], about["slide_encoder"]) == (None, None)
    assert (about["quality"]["reconstruction"], about["quality"]["embedding_cosine"]) == (None, None)


@pytest.mark.parametrize("keep", [1, 5, 10_000])
@pytest.mark.parametrize("selector", ["random", "entropy"])
def test_kept_patches_need_not_be_candidates(slides, encoder, models, tmp_path, keep, selector):
    options = Options(keep=keep, selector=selector, candidates=10)
    done = summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, options, models=models)
    assert (done.reconstruction is None) == (done.patches == done.tissue_patches)
    assert done.embedding_cosine is not None
    if keep == 10_000:
        assert done.embedding_cosine == pytest.approx(1, abs=1e-5)
    assert findings(tmp_path / "a.ozx", encoder, models) == []


def test_models_are_deterministic(slides, encoder, models, tmp_path):
    for name, threads in (("a.ozx", 1), ("b.ozx", 3)):
        summarize(slides["ycbcr"], tmp_path / name, encoder, threads=threads, models=models)
    assert (tmp_path / "a.ozx").read_bytes() == (tmp_path / "b.ozx").read_bytes()


def test_failing_summarizer_writes_nothing(slides, encoder, tmp_path):
    other = tiny_models(7)
    with pytest.raises(ModelError, match=r"tiny-summarizer.* expected features \(N, 7\)"):
        summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, models=other)
    assert list(tmp_path.iterdir()) == []


def test_existing_features_use_the_matching_or_named_model(slides, encoder, known, models, tmp_path):
    """Nobody named the models: they serve features whose file says that their encoder made them."""
    folder = give_features(tmp_path / "features", slides["ycbcr"], known, encoder.card.dims)
    implicit = replace(models, implicit=frozenset({"summarizer", "slide_encoder"}))
    output = tmp_path / "a.ozx"

    def used(models: SlideModels) -> list[bool]:
        summarize(slides["ycbcr"], output, encoder, features=folder, models=models)
        about = attributes_of(output)
        VALIDATOR.validate(about)
        return [about[name] is not None for name in ("summarizer", "slide_encoder")]

    assert used(implicit) == [False, False]
    assert used(replace(models, implicit=frozenset({"slide_encoder"}))) == [True, False]
    with h5py.File(folder / "ycbcr.h5", "a") as file:
        file.attrs["encoder_sha256"] = encoder.card.sha256
    assert used(implicit) == [True, True]
    assert attributes_of(output)["features"]["encoder_sha256"] == encoder.card.sha256
    assert set(findings(output, encoder, models)) <= {"features-differ"}  # drawn at random, they are no pixels'
    with h5py.File(folder / "ycbcr.h5", "a") as file:
        file.attrs["encoder_sha256"] = "0" * 64
    assert used(implicit) == [False, False]


# -- tissue --------------------------------------------------------------------------------------------------


def save_mask(path: Path, box: tuple[int, int, int, int]) -> Path:
    """A PNG at 1/16 or a GeoJSON, by its suffix, of the level-0 box x, y, x, y."""
    x0, y0, x1, y1 = box
    if path.suffix == ".png":
        mask = np.zeros((SIZE[1] // 16, SIZE[0] // 16), np.uint8)
        mask[y0 // 16 : y1 // 16, x0 // 16 : x1 // 16] = 255
        path.write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    else:
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


@pytest.mark.parametrize("kind", ["png", "geojson"])
def test_mask_file_replaces_tissue_detection(slides, encoder, tmp_path, kind):
    mask = save_mask(tmp_path / f"mask.{kind}", (512, 1024, 2048, 2048))
    done = summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, mask=mask)
    with open_summary(tmp_path / "a.ozx") as summary:
        assert summary.attributes["options"]["mask_sha256"] == hashlib.sha256(mask.read_bytes()).hexdigest()
        expected = [[x, y] for y in (1024, 1536) for x in (512, 1024, 1536)]
        assert summary.tissue.coords.tolist() == expected
    assert (done.tissue_patches, done.patches) == (6, 6)  # a biopsy of fewer patches than 8 keeps them all


def test_empty_mask_is_refused(slides, encoder, tmp_path):
    mask = save_mask(tmp_path / "mask.png", (0, 0, 0, 0))
    with pytest.raises(MaskError):
        summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, mask=mask)


def test_mask_smaller_than_a_patch_means_no_tissue(slides, encoder, tmp_path):
    mask = save_mask(tmp_path / "mask.png", (512, 512, 640, 640))
    with pytest.raises(NoTissueError, match=r"^ycbcr\.svs: ") as caught:
        summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder, mask=mask)
    assert caught.value.reason == "no tissue"


def test_empty_slide_has_no_tissue(encoder, tmp_path):
    glass = np.random.default_rng(0).normal(243, 1.5, (2000, 2500, 3)).clip(0, 255).astype(np.uint8)
    write_svs(tmp_path / "a.svs", glass, tile=256)
    with pytest.raises(NoTissueError, match=r"^a\.svs: ") as caught:
        summarize(tmp_path / "a.svs", tmp_path / "a.ozx", encoder)
    assert caught.value.reason == "no tissue"
    assert [path.name for path in tmp_path.iterdir()] == ["a.svs"]


def test_a_smooth_film_beside_tissue_is_pointed_out(encoder, tmp_path):
    """Whether it is tissue nobody can tell from the overview, so a person is asked to look."""
    tissue = draw_tissue(3600, 3000, seed=1)
    wide = np.concatenate([tissue, np.full((3000, 3000, 3), tissue[0, 0])], axis=1).astype(np.uint8)
    write_svs(tmp_path / "a.svs", wide, tile=256)
    assert "neither glass nor tissue" not in summarize(tmp_path / "a.svs", tmp_path / "a.ozx", encoder).message
    veiled = wide.copy()
    cv2.ellipse(veiled, (5000, 1500), (900, 900), 0, 0, 360, (228, 226, 228), -1)
    veiled[:, 3700:] = cv2.blur(veiled[:, 3700:], (401, 401))
    write_svs(tmp_path / "b.svs", veiled, tile=256)
    message = summarize(tmp_path / "b.svs", tmp_path / "b.ozx", encoder).message
    assert "neither glass nor tissue" in message
    assert "mark all tissue in a mask" in message


def test_silver_stained_tissue_without_any_glass_is_summarized(image, encoder, tmp_path):
    inside = RECOLOURINGS["silver"](image[1100:2000, 700:1300])
    whole = np.pad(inside, ((0, 900), (0, 1200), (0, 0)), mode="symmetric")
    write_svs(tmp_path / "a.svs", whole, tile=256)
    done = summarize(tmp_path / "a.svs", tmp_path / "a.ozx", encoder)
    assert (tmp_path / "a.ozx").is_file()
    assert "may be an artefact" not in done.message


def test_dark_image_is_not_a_slide(encoder, tmp_path):
    dark = np.zeros((2000, 2500, 3), np.uint8)
    for x, y in np.random.default_rng(0).integers(100, 1900, (60, 2)).tolist():
        cv2.circle(dark, (x, y), 30, (20, 40, 220), -1)
    write_svs(tmp_path / "a.svs", dark, tile=256)
    with pytest.raises(NotASlideError, match=r"^a\.svs: ") as caught:
        summarize(tmp_path / "a.svs", tmp_path / "a.ozx", encoder)
    assert caught.value.reason == "not brightfield RGB"


def test_image_smaller_than_a_patch_is_not_a_slide(image, encoder, tmp_path):
    write_svs(tmp_path / "a.svs", image[1000:1500, 800:1300], tile=256)
    with pytest.raises(NotASlideError, match=r"^a\.svs: ") as caught:
        summarize(tmp_path / "a.svs", tmp_path / "a.ozx", encoder)
    assert caught.value.reason == "too small"


@pytest.mark.parametrize("depth", [1.0, 0.4])
def test_tissue_filling_the_slide_is_found_at_any_stain_depth(image, encoder, tmp_path, depth):
    inside = image[1100:2000, 700:1300].astype(float)
    pale = (255 - (255 - inside) * depth).round().astype(np.uint8)
    whole = np.pad(pale, ((0, 900), (0, 1200), (0, 0)), mode="symmetric")
    write_svs(tmp_path / "a.svs", whole, tile=256)
    done = summarize(tmp_path / "a.svs", tmp_path / "a.ozx", encoder)
    assert done.tissue_patches == (1800 // 512) * (1800 // 512)
    assert codes(tmp_path / "a.ozx", encoder) == []


# -- damage --------------------------------------------------------------------------------------------------


def test_a_few_broken_tiles_are_skipped_and_listed(slides, encoder, known, tmp_path):
    broken = tmp_path / "a.svs"
    broken.write_bytes(slides["ycbcr"].read_bytes())
    with open_summary(known) as summary:
        places = summary.tissue.coords.tolist()
    lost = [places[3], places[9]]
    for x, y in lost:
        break_tile(broken, x // 256 + 1, y // 256)
    done = summarize(broken, tmp_path / "a.ozx", encoder)
    assert (done.broken_tiles, done.tissue_patches) == (2, len(places) - 2)
    with open_summary(tmp_path / "a.ozx") as summary:
        assert summary.tissue.coords.tolist() == [place for place in places if place not in lost]
        at = [[0, x // 256 + 1, y // 256] for x, y in lost]
        assert summary.attributes["broken_tiles"] == {"count": 2, "positions": sorted(at)}
    assert codes(tmp_path / "a.ozx", encoder, tier="source", source=broken) == []


def test_truncated_file_fails_and_writes_nothing(image, encoder, tmp_path):
    write_svs(tmp_path / "a.svs", image, tile=256)
    cut_short(tmp_path / "a.svs")
    with pytest.raises(BrokenSlideError, match=r"^a\.svs: .*fetch the file again"):
        summarize(tmp_path / "a.svs", tmp_path / "out" / "a.ozx", encoder)
    assert not list(tmp_path.rglob("*.ozx*"))


def test_failure_keeps_the_older_summary(slides, encoder, known, tmp_path):
    output = tmp_path / "a.ozx"
    output.write_bytes(known.read_bytes())
    with pytest.raises(MppError):
        summarize(slides["plain"], output, encoder)
    assert output.read_bytes() == known.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.ozx"]


def test_full_disk_keeps_the_older_summary(slides, encoder, known, tmp_path, monkeypatch):
    def full(handle: int) -> None:
        assert os.fstat(handle).st_size > 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    output = tmp_path / "a.ozx"
    output.write_bytes(known.read_bytes())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        summarize(slides["ycbcr"], output, encoder, Options(keep=3))
    assert output.read_bytes() == known.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.ozx"]


def test_summary_that_fails_verification_is_not_kept(slides, encoder, known, tmp_path, monkeypatch):
    def write_badly(path: Path, contents: Any) -> None:
        honest(path, contents)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    honest = compress.write_summary
    monkeypatch.setattr(compress, "write_summary", write_badly)
    output = tmp_path / "a.ozx"
    output.write_bytes(known.read_bytes())
    with pytest.raises(SummaryError, match=r"^a\.ozx: the summary just written does not verify"):
        summarize(slides["ycbcr"], output, encoder)
    assert output.read_bytes() == known.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.ozx"]


@pytest.mark.parametrize("pixels", ["source", "jpeg"])
def test_encoder_failure_is_a_model_error(slides, encoder, tmp_path, pixels):
    class Failing:
        card, provider, batch_size = encoder.card, encoder.provider, encoder.batch_size

        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            raise ModelError(f"texture: out of memory at {len(pixels)} patches")

    with pytest.raises(ModelError, match="out of memory"):
        summarize(slides["ycbcr"], tmp_path / "a.ozx", Failing(), Options(pixels=pixels))
    assert list(tmp_path.iterdir()) == []


# -- the source, and who may be named ------------------------------------------------------------------------


def test_source_slide_is_not_modified(slides, encoder, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    slide = folder / "a.svs"
    slide.write_bytes(slides["ycbcr"].read_bytes())
    slide.chmod(stat.S_IRUSR)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    before = slide.stat()
    try:
        summarize(slide, tmp_path / "out" / "deep" / "a.ozx", encoder)
        after = slide.stat()
        assert [path.name for path in folder.iterdir()] == ["a.svs"]
    finally:
        folder.chmod(stat.S_IRWXU)
    assert (after.st_mtime_ns, after.st_size, after.st_mode) == (before.st_mtime_ns, before.st_size, before.st_mode)
    assert slide.read_bytes() == slides["ycbcr"].read_bytes()


def test_summary_contains_no_path_or_original_name(image, encoder, known, tmp_path):
    folder = tmp_path / "jane.doe"
    folder.mkdir()
    slide = folder / "S20-1234.svs"
    write_svs(slide, image, tile=256, facts="|User = jane.doe|Filename = S20-1234")
    features = give_features(tmp_path / "jane.doe features", slide, known, 24)
    mask = save_mask(folder / "S20-1234.png", (512, 1024, 2048, 2048))
    for more in ({"mask": mask}, {"features": features}):
        output = tmp_path / "out" / "case 7.ozx"
        summarize(slide, output, encoder, name="case 7", **more)
        found = output.read_bytes()
        for secret in (b"jane", b"S20", str(tmp_path).encode(), b"tmp/", os.sep.encode() + b"home"):
            assert secret not in found, secret
        assert attributes_of(output)["source"]["name"] == "case 7"


# -- what is told on the way ---------------------------------------------------------------------------------


def test_stages_and_progress_are_reported(slides, encoder, tmp_path):
    stages: list[str] = []
    progress: list[tuple[int, int]] = []
    tools = Tools(encoder, 2, stages.append, lambda done, total: progress.append((done, total)))
    done = figures_of(compress_slide(Job(find_source(slides["rgb"]), tmp_path / "a.ozx", "rgb.svs"), Options(), tools))
    assert list(dict.fromkeys(stages)) == list(done.seconds) == STAGES
    assert progress[-1] == (done.tissue_patches, done.tissue_patches)
    assert all(seconds >= 0 for seconds in done.seconds.values())


def test_a_coarse_overview_still_agrees_with_the_slide(slides, encoder, known, tmp_path, monkeypatch):
    for name, value in (("MOST_SHARE", 0.0), ("FREE_BYTES", 0), ("LEAST_SIDE", 1)):
        monkeypatch.setattr(overview, name, value)
    path = tmp_path / "a.ozx"
    summarize(slides["ycbcr"], path, encoder)
    with open_summary(path) as coarse, open_summary(known) as fine:
        assert max(coarse.overview.shape) == max(fine.overview.shape) // 2
        assert (coarse.tissue.coords == fine.tissue.coords).all()
        assert (coarse.coords == fine.coords).all()
    assert codes(path, encoder, tier="source", source=slides["ycbcr"]) == []


def test_what_the_search_needed_is_freed_before_the_summary_is_verified(slides, encoder, tmp_path, monkeypatch):
    made: list[weakref.ref[Any]] = []
    alive: dict[str, list[bool]] = {}
    honest = (facility.Pool.__init__, compress.draw, compress.verify_summary)

    def note(pool: Any, *arguments: Any, **others: Any) -> None:
        honest[0](pool, *arguments, **others)
        made.append(weakref.ref(pool))

    def look(stage: str, function: Any) -> Any:
        def call(*arguments: Any, **others: Any) -> Any:
            alive[stage] = [pool() is not None for pool in made]
            return function(*arguments, **others)

        return call

    monkeypatch.setattr(facility.Pool, "__init__", note)
    monkeypatch.setattr(compress, "draw", look("draws", honest[1]))
    monkeypatch.setattr(compress, "verify_summary", look("verify", honest[2]))
    summarize(slides["ycbcr"], tmp_path / "a.ozx", encoder)
    assert made
    assert not any(alive["draws"])
    assert not any(alive["verify"])


def test_result_matches_the_file(slides, encoder, tmp_path):
    done = summarize(slides["rgb"], tmp_path / "a.ozx", encoder)
    about = attributes_of(tmp_path / "a.ozx")
    assert done.bytes_in == slides["rgb"].stat().st_size == about["source"]["bytes"]
    assert done.bytes_out == (tmp_path / "a.ozx").stat().st_size
    assert (done.patches, done.tissue_patches) == (about["patches"], about["tissue_patches"])
    assert done.quality.coverage == pytest.approx(about["quality"]["coverage"], abs=1e-6)
    assert about["source"]["sha256"] == hashlib.sha256(slides["rgb"].read_bytes()).hexdigest()
    assert done.broken_tiles == 0
