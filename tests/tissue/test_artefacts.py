"""Artefacts stay tissue, are marked as suspect, and are picked last; only what shows nothing is removed."""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
from draw import draw_tissue, reduce, write_svs
from schema import VALIDATOR
from spoil import INKS, PAINTERS, as_ihc, blurred, cut_off, pen
from stains import RECOLOURINGS
from summaries import SIDE, TISSUE, figures_of, find_stub, shipped_encoder, tiny_contents, write_as, write_changed

from wsisum_cli.figures.words import artefacts_line, suspect_line
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.extract import FeatureOptions, extract_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.trim import trim_summary
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.inspection import inspect_summary
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.tissue import artefacts
from wsisum_cli.tissue.artefacts import (
    BLACK,
    BLANK,
    CORRUPT,
    KINDS,
    NO_ARTEFACTS,
    PEN,
    STATISTICS,
    Artefacts,
    classify,
    holds_nothing,
    kinds_of,
    measure,
    split_artefacts,
)
from wsisum_cli.verification.verify import verify_summary

P = 256
#: Shares of painted patches that must be found, on real tissue and on drawn tissue. A fold of pale tissue is no denser
#: than dense tissue, and is found where it is out of focus, as drawn tissue is all over; the rim of a bubble is grey
#: where it lies on pale tissue.
FOUND = {"pen": 0.9, "blurred": 0.9, "fold": 0.7, "bubble": 0.6, "blank": 1.0, "black": 1.0}
FOUND_ON_DRAWN = {**FOUND, "fold": 0.05, "bubble": 0.25}
#: What a wrong stream decodes to is garbage of any kind: only areas of one colour are sure to be none of tissue.
KINDS_PAINTED = [name for name in PAINTERS if name != "corrupt"]


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


@pytest.mark.parametrize("name", KINDS_PAINTED)
def test_what_is_painted_on_drawn_tissue_is_found(patches, name):
    found, around = painted(patches, name, every=8)
    assert (found > 0).mean() >= FOUND_ON_DRAWN[name]
    assert (found[found > 0] == KINDS.index(name)).mean() > 0.7
    assert not around.any()


@pytest.mark.parametrize("colour", INKS)
def test_ink_of_every_colour_is_found(patches, colour):
    rng = np.random.default_rng(1)
    inked = [pen(patch, rng, colour) for patch in patches[:12]]
    kinds = kinds_of(np.stack([*inked, *patches[12:]]), 0.5)
    assert (kinds[:12] == PEN).mean() > 0.9
    assert not kinds[12:].any()


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


def test_a_hue_of_much_of_the_slide_is_its_stain(patches):
    rng = np.random.default_rng(4)
    blue = np.stack([pen(patch, rng, "blue") if row % 3 else patch for row, patch in enumerate(patches)])
    assert not (kinds_of(blue, 0.5) == PEN).any()


@pytest.mark.parametrize("recolour", ["light green", "silver"])
@pytest.mark.parametrize("count", [4, 12, 20])
def test_the_stain_of_a_small_slide_is_not_ink(tiles, recolour, count):
    name = max(tiles, key=lambda slide: len(tiles[slide]))
    kinds = kinds_of(np.stack([RECOLOURINGS[recolour](tile) for tile in tiles[name][:count]]), 0.5)
    assert not (kinds == PEN).any()


def test_ink_on_half_of_a_small_slide_is_ink(patches):
    rng = np.random.default_rng(6)
    kinds = kinds_of(np.stack([*(pen(patch, rng, "green") for patch in patches[:6]), *patches[6:12]]), 0.5)
    assert (kinds == PEN).tolist() == [True] * 6 + [False] * 6


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
    statistics = [measure(of_slide, 0.5) for of_slide in tiles.values()]
    kinds = np.concatenate([classify(of_slide) for of_slide in statistics])
    assert (kinds > 0).mean() <= 0.002
    assert not np.isin(kinds, [PEN, BLANK, CORRUPT, BLACK]).any()
    assert not holds_nothing(np.concatenate(statistics)).any()


@pytest.mark.parametrize("level", [8, 15, 30])
def test_blocks_of_strong_compression_are_no_defect(tiles, level):
    name = max(tiles, key=lambda slide: len(tiles[slide]))
    again = [imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(tile, level=level)) for tile in tiles[name]]
    statistics = measure(np.stack(again), 0.5)
    assert np.count_nonzero(classify(statistics)) <= 0.02 * len(again)
    assert not (classify(statistics) == CORRUPT).any()
    assert not holds_nothing(statistics).any()


@pytest.mark.parametrize("name", KINDS_PAINTED)
def test_what_is_painted_on_real_tissue_is_found(tiles, name):
    found = np.concatenate([painted(tiles[slide], name)[0] for slide in sorted(tiles)[:16]])
    assert (found > 0).mean() >= FOUND[name]


# -- suspect, or removed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["blank", "black"])
def test_glass_and_unscanned_black_hold_nothing(patches, name):
    rng = np.random.default_rng(7)
    assert holds_nothing(measure([PAINTERS[name](patch, rng) for patch in patches[:20]], 0.5)).all()


def test_pixels_of_one_colour_hold_nothing(patches):
    assert holds_nothing(measure([np.full_like(patches[0], 128)], 0.5)).all()


@pytest.mark.parametrize("name", ["pen", "blurred", "fold", "bubble", "corrupt"])
def test_what_is_painted_over_tissue_is_never_removed(patches, name):
    rng = np.random.default_rng(8)
    assert not holds_nothing(measure([PAINTERS[name](patch, rng) for patch in patches[:20]], 0.5)).any()


@pytest.mark.parametrize("shade", [0, 128, 245])
def test_a_patch_that_is_lost_in_part_is_not_removed(patches, shade):
    half = patches[:10].copy()
    half[:, : int(0.9 * P)] = shade
    assert not holds_nothing(measure(half, 0.5)).any()


def test_pale_tissue_and_a_speck_on_glass_are_not_removed(patches):
    pale = (245 - 0.12 * (245 - patches[:20].astype(float))).clip(0, 255).astype(np.uint8)
    speck = np.full((1, P, P, 3), 240, np.uint8)
    speck[0, 100:112, 100:112] = (170, 120, 180)
    assert not holds_nothing(measure([*pale, *speck], 0.5)).any()


@pytest.mark.parametrize("recolour", RECOLOURINGS)
def test_no_stain_is_removed_and_hardly_any_is_suspect(tiles, recolour):
    name = max(tiles, key=lambda slide: len(tiles[slide]))
    statistics = measure([RECOLOURINGS[recolour](tile) for tile in tiles[name]], 0.5)
    assert not holds_nothing(statistics).any()
    assert np.count_nonzero(classify(statistics)) <= 0.05 * len(statistics)


def test_suspects_stay_tissue_and_empty_patches_leave_it():
    coords, kinds, empty = np.arange(80, dtype=np.int32).reshape(40, 2), np.zeros(40, np.uint8), np.zeros(40, bool)
    kinds[[3, 17, 30]], empty[30] = (PEN, BLANK, BLANK), True
    judged = split_artefacts(coords, kinds, empty)
    assert judged.rows.tolist() == [row for row in range(40) if row != 30]
    assert np.flatnonzero(judged.suspect).tolist() == [3, 17]
    np.testing.assert_array_equal(judged.removed.coords, coords[[30]])
    assert judged.removed.as_dict() == {"count": 1, "kinds": {"blank": 1}, "looked_at": 40, "ignored": False}


@pytest.mark.parametrize(
    ("patches", "rest", "removes"), [(40, 8, True), (40, 7, False), (400, 20, True), (400, 19, False)]
)
def test_where_nearly_all_shows_nothing_that_is_doubtful_and_nothing_is_removed(patches, rest, removes):
    kinds = np.full(patches, BLANK, np.uint8)
    kinds[:rest] = 0
    judged = split_artefacts(np.zeros((patches, 2), np.int32), kinds, kinds > 0)
    assert len(judged.rows) == (rest if removes else patches)
    assert len(judged.removed.kind) == (patches - rest if removes else 0)
    assert np.count_nonzero(judged.suspect) == (0 if removes else patches - rest)


# -- through compress ----------------------------------------------------------------------------------------

LEFT, STROKE = 7 * 512 + 40, 420  # px; thinner than what the tissue mask takes for a stroke


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn tissue with a thin pen stroke across it."""
    image = draw_tissue(7680, 3584, seed=1)
    stroke, ink = image[:, LEFT : LEFT + STROKE], np.array(INKS["green"])
    stroke[:] = 0.3 * stroke * (ink / 255) + 0.7 * ink
    path = tmp_path_factory.mktemp("pen") / "pen.svs"
    write_svs(path, image, tile=256)
    return path


def summarize(slide: Path, output: Path, options: Options | None = None, **job: Any) -> SimpleNamespace:
    about = Job(find_source(slide), output, slide.name, **job)
    return figures_of(compress_slide(about, options or Options(), Tools(shipped_encoder(), 2)))


def on_pen(coords: np.ndarray, share: float = 0.3) -> np.ndarray:
    """(N,) bool: which patches are covered by the stroke to at least this share."""
    common = np.minimum(coords[:, 0] + 512, LEFT + STROKE) - np.maximum(coords[:, 0], LEFT)
    return common >= share * 512


def test_pen_is_marked_and_not_picked_which_the_selector_would(slide, tmp_path):
    kept = summarize(slide, tmp_path / "keep.ozx", Options(artefacts="keep", keep=16))
    done = summarize(slide, tmp_path / "guard.ozx", Options(keep=16))
    with open_summary(tmp_path / "keep.ozx") as summary:
        assert on_pen(summary.coords).sum() >= 1
        assert summary.attributes["artefacts"] == {"count": 0, "kinds": {}, "looked_at": 0, "ignored": False}
        assert summary.attributes["suspect"] == {"count": 0, "kinds": {}}
        assert summary.tissue.suspect is None
        assert suspect_line(inspect_summary(summary)) == "not looked for"
        before = summary.tissue.coords
    with open_summary(tmp_path / "guard.ozx") as summary:
        np.testing.assert_array_equal(summary.tissue.coords, before)  # no tissue is lost
        assert summary.counts.sum() == len(before)
        assert not on_pen(summary.coords).any()
        suspect = summary.tissue.suspect
        assert (suspect[suspect > 0] == PEN).all()
        assert on_pen(before[suspect > 0], 0.05).all()
        assert summary.attributes["suspect"] == {"count": done.suspect, "kinds": {"pen": done.suspect}}
        assert summary.attributes["artefacts"]["looked_at"] == len(before)
        VALIDATOR.validate(summary.attributes)
        about = inspect_summary(summary)
    assert done.tissue_patches == kept.tissue_patches == len(before)
    assert (done.artefacts, kept.suspect) == (0, 0)
    assert suspect_line(about) == f"{done.suspect} pen of {len(before)} tissue patches (0 of the {done.patches} kept)"
    share = f"{done.suspect / len(before):.1%}"
    assert f"{share} of the tissue may be an artefact ({done.suspect} pen); look at it with" in done.message
    found = verify_summary(tmp_path / "guard.ozx", lambda card: shipped_encoder(), "source", slide).findings
    assert {finding.code for finding in found} <= {"verdict-fail"}


def test_a_trimmed_summary_knows_what_is_suspect(slide, tmp_path):
    done = summarize(slide, tmp_path / "a.ozx")
    trim_summary(tmp_path / "a.ozx", tmp_path / "b.ozx", 4)
    with open_summary(tmp_path / "a.ozx") as whole, open_summary(tmp_path / "b.ozx") as cut:
        np.testing.assert_array_equal(whole.tissue.suspect, cut.tissue.suspect)
        assert cut.attributes["suspect"]["count"] == done.suspect > 0


def test_without_artefacts_nothing_is_stored_of_them(tmp_path):
    write_svs(tmp_path / "clean.svs", draw_tissue(3000, 2500, 3), tile=256)
    done = summarize(tmp_path / "clean.svs", tmp_path / "a.ozx")
    assert (done.artefacts, done.suspect, done.message) == (0, 0, "")
    with open_summary(tmp_path / "a.ozx") as summary:
        assert not [name for name in summary.members if name.startswith(("artefact", "tissue/suspect"))]
        assert summary.artefacts is NO_ARTEFACTS
        assert summary.attributes["artefacts"]["looked_at"] == summary.attributes["tissue_patches"]
        about = inspect_summary(summary)
    assert suspect_line(about) == "none"


def test_glass_and_black_in_a_given_mask_are_removed(tmp_path):
    """A person's mask holds what it holds; glass in it is no tissue all the same."""
    image = draw_tissue(5120, 3584, seed=1)
    image[:, :1024], image[:, 1024:1536] = (242, 241, 243), 0
    write_svs(tmp_path / "a.svs", image, tile=256)
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((70, 100), 255, np.uint8))
    done = summarize(tmp_path / "a.svs", tmp_path / "a.ozx", mask=tmp_path / "mask.png")
    with open_summary(tmp_path / "a.ozx") as summary:
        assert (summary.artefacts.coords[:, 0] < 1536).sum() == 3 * 7
        assert set(summary.artefacts.kind) == {BLANK, BLACK}
        both = [*map(tuple, summary.artefacts.coords.tolist()), *map(tuple, summary.tissue.coords.tolist())]
        assert len(both) == len(set(both)) == 70
    assert done.artefacts + done.tissue_patches == 70
    found = verify_summary(tmp_path / "a.ozx", lambda card: shipped_encoder()).findings
    assert {finding.code for finding in found} <= {"verdict-fail"}


def test_where_all_is_empty_all_is_kept_and_suspect(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(artefacts, "classify", lambda statistics, *_: np.full(len(statistics), BLANK, np.uint8))
    monkeypatch.setattr(artefacts, "holds_nothing", lambda statistics: np.ones(len(statistics), bool))
    done = summarize(slide, tmp_path / "a.ozx")
    with open_summary(tmp_path / "a.ozx") as summary:
        assert summary.attributes["artefacts"]["count"] == 0
        assert summary.attributes["suspect"]["kinds"] == {"blank": done.tissue_patches}
        assert (summary.tissue.suspect == BLANK).all()
    assert verify_summary(tmp_path / "a.ozx", lambda card: shipped_encoder()).findings == []


def test_of_given_features_a_sample_and_what_would_be_kept_are_looked_at(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(artefacts, "SAMPLE", 16)
    job = Job(find_source(slide), tmp_path / "features" / "pen.h5", slide.name)
    extracted = extract_slide(job, FeatureOptions(), Tools(shipped_encoder(), 2))
    done = summarize(slide, tmp_path / "a.ozx", Options(keep=16), features=tmp_path / "features")
    with open_summary(tmp_path / "a.ozx") as summary:
        about = summary.attributes["artefacts"]
        assert not on_pen(summary.coords).any()
        marked = summary.tissue.coords[summary.tissue.suspect == PEN]
        assert on_pen(marked, 0.05).all()
        assert 2 <= len(marked) >= done.suspect - 1  # one at its edge may look otherwise
    assert done.artefacts == 0
    assert done.patches < about["looked_at"] < extracted.patches
    assert done.tissue_patches == extracted.patches
    codes = {finding.code for finding in verify_summary(tmp_path / "a.ozx").findings}
    assert codes <= {"features-not-recomputed", "verdict-fail"}  # a fifth of this slide is pen


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


KIND_OF_TISSUE = np.zeros(TISSUE, np.uint8)
KIND_OF_TISSUE[[1, 4, 6]] = 2, 3, 2
SUSPECT: dict[str, Any] = {"count": 3, "kinds": {"blurred": 2, "fold": 1}}


@pytest.mark.parametrize(
    ("kind", "about", "codes"),
    [
        (KIND_OF_TISSUE, SUSPECT, []),
        (None, {"count": 0, "kinds": {}}, []),
        (KIND_OF_TISSUE[::-1], SUSPECT, []),
        (np.where(KIND_OF_TISSUE == 3, 1, KIND_OF_TISSUE), SUSPECT, ["values"]),
        (np.where(KIND_OF_TISSUE == 3, 0, KIND_OF_TISSUE), SUSPECT, ["values"]),
        (np.where(KIND_OF_TISSUE == 3, 9, KIND_OF_TISSUE), SUSPECT, ["values"]),
        (KIND_OF_TISSUE[1:], SUSPECT, ["array-damaged"]),
        (None, SUSPECT, ["array-damaged"]),
        (KIND_OF_TISSUE, {"count": 0, "kinds": {}}, ["values"]),
        (KIND_OF_TISSUE, {**SUSPECT, "count": 2}, ["attributes"]),
        (KIND_OF_TISSUE, {"count": 3, "kinds": {"blurred": 2, "coffee": 1}}, ["attributes"]),
        (KIND_OF_TISSUE, {"count": TISSUE + 1, "kinds": {"pen": TISSUE + 1}}, ["attributes"]),
        (KIND_OF_TISSUE, {"count": "3"}, ["attributes", "attributes"]),
        (KIND_OF_TISSUE, None, ["attributes"]),
    ],
)
def test_verification_looks_at_suspects(tmp_path, kind, about, codes):
    contents = tiny_contents()
    tissue = replace(contents.tissue, suspect=kind)
    write_changed(tmp_path / "a.ozx", replace(contents, tissue=tissue), {"suspect": about})
    assert [finding.code for finding in verify_summary(tmp_path / "a.ozx", find_stub).findings] == codes


def test_summaries_of_format_1_2_still_verify(tmp_path):
    """They left artefacts out of the tissue, or kept them among it, and knew of no suspects."""
    contents = tiny_contents()
    attributes = {"migrated_from": "1.2", "artefacts": SOUND.as_dict()}
    write_changed(tmp_path / "a.ozx", replace(contents, artefacts=SOUND), attributes, ["suspect"])
    write_as(tmp_path / "a.ozx", tmp_path / "a.ozx", "1.2")
    assert verify_summary(tmp_path / "a.ozx", find_stub).findings == []
    kept = Artefacts(contents.tissue.coords[:3], KIND[:3], TISSUE, ignored=True)
    attributes |= {"artefacts": kept.as_dict()}
    write_changed(tmp_path / "b.ozx", replace(contents, artefacts=kept), attributes, ["suspect"])
    write_as(tmp_path / "b.ozx", tmp_path / "b.ozx", "1.2")
    assert verify_summary(tmp_path / "b.ozx", find_stub).findings == []
    with open_summary(tmp_path / "b.ozx") as summary:
        assert inspect_summary(summary).suspect is None
        assert "hardly anything else is there" in artefacts_line(inspect_summary(summary).artefacts)
