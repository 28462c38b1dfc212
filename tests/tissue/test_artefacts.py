"""Artefacts are told from tissue, and kept out of summaries."""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import jsonschema
import numpy as np
import pytest
from draw import draw_tissue, reduce, write_svs
from places import SCHEMA
from spoil import INKS, PAINTERS, as_ihc, blurred, cut_off, pen
from summaries import SIDE, TISSUE, find_stub, shipped_encoder, tiny_contents, write_changed

from wsisum_cli.commands.console import artefacts_line
from wsisum_cli.pipeline import scene
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.describe import CompressResult
from wsisum_cli.pipeline.extract import FeatureOptions, extract_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.tissue import artefacts
from wsisum_cli.tissue.artefacts import (
    BLANK,
    KINDS,
    NO_ARTEFACTS,
    PEN,
    STATISTICS,
    Artefacts,
    classify,
    kinds_of,
    measure,
    split_artefacts,
)
from wsisum_cli.verification.verify import verify_summary

P = 256
#: Shares of painted patches that must be found, on real tissue and on drawn tissue. A fold of pale tissue is no denser
#: than dense tissue, and is found where it is out of focus, as drawn tissue is all over; the rim of a bubble is grey
#: where it lies on pale tissue.
FOUND = {"pen": 0.9, "blurred": 0.9, "fold": 0.75, "bubble": 0.6, "blank": 1.0, "black": 1.0, "corrupt": 0.7}
FOUND_ON_DRAWN = {**FOUND, "fold": 0.05, "bubble": 0.25}


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    """(N, P, P, 3) of drawn tissue at 0.5 µm, all of it clean."""
    image = reduce(draw_tissue(6000, 5000, seed=3), 2)
    cut = [image[y : y + P, x : x + P] for y in range(0, 2245, P) for x in range(0, 2745, P)]
    return np.stack([patch for patch in cut if (patch.min(axis=2) < 215).mean() > 0.25])


@pytest.fixture(scope="module")
def tiles(shared: Path) -> dict[str, np.ndarray]:
    """Real tiles at 0.5 µm by slide."""
    with zipfile.ZipFile(shared / "tiles" / "atlas-he-0.5mpp.zip") as archive:
        found: dict[str, list[np.ndarray]] = {}
        for row in csv.DictReader(io.TextIOWrapper(archive.open("labels.csv"), "utf-8")):
            pixels = imagecodecs.jpeg8_decode(archive.read(row["path"]))
            found.setdefault(f"{row['case']}/{row['slide']}", []).append(pixels)
    return {name: np.stack(pixels) for name, pixels in found.items()}


def painted(patches: np.ndarray, name: str, every: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Codes found of painted patches and of the clean ones around them, where one in `every` is painted."""
    rng, spoilt = np.random.default_rng(0), patches.copy()
    rows = np.arange(0, len(patches), every)
    for row in rows:
        spoilt[row] = PAINTERS[name](patches[row], rng)
    kinds = kinds_of(spoilt, 0.5)
    return kinds[rows], np.delete(kinds, rows)


# -- one patch, one slide ------------------------------------------------------------------------------------


def test_drawn_tissue_is_tissue(patches):
    assert not kinds_of(patches, 0.5).any()


def test_tissue_stained_with_dab_is_tissue(patches):
    assert not kinds_of(np.stack([as_ihc(patch) for patch in patches]), 0.5).any()


@pytest.mark.parametrize("name", PAINTERS)
def test_what_is_painted_on_drawn_tissue_is_found(patches, name):
    found, around = painted(patches, name, every=5)
    assert (found > 0).mean() >= FOUND_ON_DRAWN[name]
    # Broken pixels may have any colour, also one of ink.
    assert (found[found > 0] == KINDS.index(name)).mean() > (0.2 if name == "corrupt" else 0.7)
    assert not around.any()


@pytest.mark.parametrize("colour", INKS)
def test_ink_of_every_colour_is_found(patches, colour):
    rng = np.random.default_rng(1)
    kinds = kinds_of(np.stack([pen(patch, rng, colour) for patch in patches[:12]]), 0.5)
    assert (kinds == PEN).mean() > 0.9


def test_what_a_decoder_puts_for_lost_data_is_found(patches):
    rng = np.random.default_rng(1)
    assert (kinds_of(np.stack([cut_off(patch, rng) for patch in patches[:12]]), 0.5) == KINDS.index("corrupt")).all()


@pytest.mark.parametrize("side", [128, 224, 512])
def test_the_size_of_pixels_does_not_matter(patches, side):
    sized = np.stack([cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA) for patch in patches])
    mpp = P * 0.5 / side
    rng = np.random.default_rng(2)
    spoilt = np.stack([cv2.resize(pen(p, rng), (side, side), interpolation=cv2.INTER_AREA) for p in patches[:5]])
    kinds = kinds_of(np.concatenate([sized, spoilt]), mpp)
    assert not kinds[: len(sized)].any()
    assert (kinds[len(sized) :] == PEN).all()


def test_blur_is_judged_beside_the_rest_of_the_slide(patches):
    """A slide that is out of focus as a whole, and a few patches alone, are all there is."""
    rng = np.random.default_rng(3)
    soft = np.stack([blurred(patch, rng, 4) for patch in patches])
    assert not kinds_of(soft, 0.5).any()
    assert not kinds_of(np.concatenate([patches[:10], soft[:2]]), 0.5).any()
    assert kinds_of(np.concatenate([patches, soft[:2]]), 0.5)[-2:].all()


def test_a_hue_of_the_whole_slide_is_its_stain(patches):
    rng = np.random.default_rng(4)
    blue = np.stack([pen(patch, rng, "blue") for patch in patches])
    assert not (kinds_of(blue, 0.5) == PEN).any()


def test_classifying_does_not_depend_on_the_order(patches):
    rng = np.random.default_rng(5)
    spoilt = np.concatenate([patches, [PAINTERS[name](patches[0], rng) for name in PAINTERS]])
    statistics, order = measure(spoilt, 0.5), rng.permutation(len(spoilt))
    assert statistics.shape == (len(spoilt), len(STATISTICS))
    np.testing.assert_array_equal(classify(statistics)[order], classify(statistics[order]))
    np.testing.assert_array_equal(measure(spoilt[order], 0.5), statistics[order])


def test_no_patches_have_no_kinds():
    assert kinds_of(np.empty((0, P, P, 3), np.uint8), 0.5).shape == (0,)


# -- real tissue ---------------------------------------------------------------------------------------------


def test_real_tissue_is_tissue(tiles):
    """Of 2,115 tiles a few are thick or out of focus indeed."""
    kinds = np.concatenate([kinds_of(of_slide, 0.5) for of_slide in tiles.values()])
    assert (kinds > 0).mean() < 0.005
    assert not np.isin(kinds, [PEN, BLANK, KINDS.index("corrupt"), KINDS.index("black")]).any()


@pytest.mark.parametrize("name", PAINTERS)
def test_what_is_painted_on_real_tissue_is_found(tiles, name):
    found = np.concatenate([painted(tiles[slide], name)[0] for slide in sorted(tiles)[:16]])
    assert (found > 0).mean() >= FOUND[name]


# -- out of the tissue ---------------------------------------------------------------------------------------


def test_artefacts_leave_the_tissue():
    coords, kinds = np.arange(80, dtype=np.int32).reshape(40, 2), np.zeros(40, np.uint8)
    kinds[[3, 30]] = PEN, BLANK
    rows, artefacts = split_artefacts(coords, kinds)
    assert rows.tolist() == [row for row in range(40) if row not in (3, 30)]
    np.testing.assert_array_equal(artefacts.coords, coords[[3, 30]])
    assert artefacts.as_dict() == {"count": 2, "kinds": {"pen": 1, "blank": 1}, "looked_at": 40, "ignored": False}


@pytest.mark.parametrize(
    ("patches", "clean", "ignored"), [(40, 8, False), (40, 7, True), (400, 20, False), (400, 19, True)]
)
def test_a_slide_is_never_left_without_patches(patches, clean, ignored):
    kinds = np.full(patches, PEN, np.uint8)
    kinds[:clean] = 0
    rows, artefacts = split_artefacts(np.zeros((patches, 2), np.int32), kinds)
    assert (len(rows), artefacts.ignored) == ((patches, True) if ignored else (clean, False))
    assert len(artefacts.kind) == patches - clean


def test_few_patches_without_artefacts_are_no_reason_to_ignore_any():
    assert split_artefacts(np.zeros((5, 2), np.int32), np.zeros(5, np.uint8))[1].as_dict()["ignored"] is False


# -- through compress ----------------------------------------------------------------------------------------

STROKE = 420  # px wide: thinner than what the tissue mask takes for a stroke


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn tissue with two thin pen strokes across it, and a mask over all of it."""
    image = draw_tissue(5120, 3584, seed=1)
    for left, ink in ((3 * 512 + 40, INKS["green"]), (7 * 512 + 40, INKS["blue"])):
        stroke = image[:, left : left + STROKE]
        stroke[:] = 0.3 * stroke * (np.array(ink) / 255) + 0.7 * np.array(ink)
    path = tmp_path_factory.mktemp("pen") / "pen.svs"
    write_svs(path, image, tile=256)
    return path


def summarize(slide: Path, output: Path, options: Options | None = None, **job: Any) -> CompressResult:
    about = Job(find_source(slide), output, slide.name, **job)
    return compress_slide(about, options or Options(), Tools(shipped_encoder(), 2))


def on_pen(coords: np.ndarray) -> np.ndarray:
    """(N,) bool: which patches lie in the columns of the strokes."""
    return np.isin(coords[:, 0] // 512, (3, 7))


def test_pen_is_not_picked_which_the_selector_would(slide, tmp_path):
    summarize(slide, tmp_path / "keep.ozx", Options(artefacts="keep"))
    done = summarize(slide, tmp_path / "guard.ozx")
    with open_summary(tmp_path / "keep.ozx") as summary:
        assert on_pen(summary.coords).sum() >= 2
        assert summary.attributes["artefacts"] == {"count": 0, "kinds": {}, "looked_at": 0, "ignored": False}
        before = summary.tissue.coords
    with open_summary(tmp_path / "guard.ozx") as summary:
        assert not on_pen(summary.tissue.coords).any()
        assert on_pen(summary.artefacts.coords).all()
        assert (summary.artefacts.kind == PEN).all()
        both = np.concatenate([summary.tissue.coords, summary.artefacts.coords])
        assert set(map(tuple, both.tolist())) == set(map(tuple, before.tolist()))
        assert summary.attributes["artefacts"]["kinds"] == {"pen": done.artefacts}
        assert summary.attributes["artefacts"]["looked_at"] == len(before)
        jsonschema.validate(summary.attributes, SCHEMA)
        shown = artefacts_line(summary.record.artefacts)
    assert done.tissue_patches == len(before) - done.artefacts
    assert shown == f"{done.artefacts} pen of {len(before)} patches, left out"
    found = verify_summary(tmp_path / "guard.ozx", lambda card: shipped_encoder(), "source", slide).findings
    assert [finding.code for finding in found] == []


def test_without_artefacts_there_is_no_group(tmp_path):
    write_svs(tmp_path / "clean.svs", draw_tissue(3000, 2500, 3), tile=256)
    assert summarize(tmp_path / "clean.svs", tmp_path / "a.ozx").artefacts == 0
    with open_summary(tmp_path / "a.ozx") as summary:
        assert not [name for name in summary.members if name.startswith("artefact")]
        assert summary.artefacts is NO_ARTEFACTS
        assert summary.attributes["artefacts"]["looked_at"] == summary.attributes["tissue_patches"]


def test_where_all_is_an_artefact_all_is_kept(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(scene, "classify", lambda statistics: np.full(len(statistics), BLANK, np.uint8))
    done = summarize(slide, tmp_path / "a.ozx")
    with open_summary(tmp_path / "a.ozx") as summary:
        about = summary.attributes
        assert about["artefacts"]["ignored"]
        assert about["artefacts"]["kinds"] == {"blank": done.tissue_patches}
        np.testing.assert_array_equal(summary.artefacts.coords, summary.tissue.coords)
        assert "kept all the same" in artefacts_line(summary.record.artefacts)
    assert verify_summary(tmp_path / "a.ozx", lambda card: shipped_encoder()).findings == []


def test_of_given_features_a_sample_and_what_would_be_kept_are_looked_at(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(artefacts, "SAMPLE", 16)
    job = Job(find_source(slide), tmp_path / "features" / "pen.h5", slide.name)
    extracted = extract_slide(job, FeatureOptions(), Tools(shipped_encoder(), 2))
    done = summarize(slide, tmp_path / "a.ozx", features=tmp_path / "features")
    with open_summary(tmp_path / "a.ozx") as summary:
        about = summary.attributes["artefacts"]
        assert not on_pen(summary.coords).any()
        assert on_pen(summary.artefacts.coords).all()
        assert (
            sum(about["kinds"].values()) == done.artefacts <= about["kinds"]["pen"] + 2
        )  # one at its edge looks corrupt
    assert done.artefacts >= 2
    assert done.patches < about["looked_at"] < extracted.patches
    assert done.tissue_patches + done.artefacts == extracted.patches
    assert [f.code for f in verify_summary(tmp_path / "a.ozx").findings] == ["features-not-recomputed"]


# -- verification --------------------------------------------------------------------------------------------

PLACES = np.array([(x, 8) for x in range(6)], np.int32) * 2 * SIDE  # below the tissue of the tiny summary
KIND = np.array([1, 1, 2, 3, 7, 6], np.uint8)
SOUND = Artefacts(PLACES, KIND, TISSUE + 6)


def state(**values: Any) -> tuple[Artefacts, dict[str, Any]]:
    return SOUND, {**SOUND.as_dict(), **values}


@pytest.mark.parametrize(
    ("artefacts", "about", "codes"),
    [
        (SOUND, SOUND.as_dict(), []),
        (NO_ARTEFACTS, NO_ARTEFACTS.as_dict(), []),
        (NO_ARTEFACTS, None, []),
        (replace(SOUND, kind=KIND[::-1].copy()), SOUND.as_dict(), []),
        (replace(SOUND, kind=np.array([1, 1, 1, 3, 7, 6], np.uint8)), SOUND.as_dict(), ["values"]),
        (replace(SOUND, kind=np.array([0, 1, 2, 3, 7, 6], np.uint8)), SOUND.as_dict(), ["values"]),
        (replace(SOUND, kind=np.array([9, 1, 2, 3, 7, 6], np.uint8)), SOUND.as_dict(), ["values"]),
        (replace(SOUND, coords=PLACES + 10_000), SOUND.as_dict(), ["coords-outside"]),
        (replace(SOUND, coords=PLACES - [0, 128]), SOUND.as_dict(), ["values"]),  # tissue
        (*state(ignored=True), ["values"]),  # no tissue
        (*state(count=5), ["attributes"]),
        (*state(kinds={"pen": 6, "coffee": 1}), ["attributes"]),
        (*state(kinds={"pen": -6}), ["attributes"]),
        (*state(looked_at=3), ["attributes"]),
        (*state(looked_at=None), ["attributes"]),
        (NO_ARTEFACTS, SOUND.as_dict(), ["array-damaged", "array-damaged"]),
    ],
)
def test_verification_looks_at_artefacts(tmp_path, artefacts, about, codes):
    contents = tiny_contents()
    changes = {} if about is None else {"artefacts": about}
    write_changed(tmp_path / "a.ozx", replace(contents, artefacts=artefacts), changes)
    assert [finding.code for finding in verify_summary(tmp_path / "a.ozx", find_stub).findings] == codes
    if not codes:
        with open_summary(tmp_path / "a.ozx") as summary:
            np.testing.assert_array_equal(summary.artefacts.coords, artefacts.coords)
