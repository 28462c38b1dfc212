"""Tissue that a mask, given features or broken tiles leave out: no attribute hides it, and the verdict counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from draw import draw_tissue, write_svs
from forgery import forge
from spoil import break_tile
from summaries import shipped_encoder, sign_again, unpack

from wsisum_cli.features.encode import encode_patches
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.quality.verdict import FAIL, PASS, REVIEW
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.slide import open_slide
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.reader import open_summary, reading_of
from wsisum_cli.summary.remarks import remarks
from wsisum_cli.verification.finding import Verification
from wsisum_cli.verification.verify import verify_summary

CHANCE = ("chance=0/0",)  # drawn tissue is easily chosen well or badly; here only what is represented matters
ALL_TISSUE = Options(keep=2000, thresholds=CHANCE)


def find_encoder(_card: Any) -> Any:
    return shipped_encoder()


def summarize(slide: Path, output: Path, mask: Path | None = None, features: Path | None = None) -> Path:
    job = Job(find_source(slide), output, slide.name, mask=mask, features=features)
    compress_slide(job, ALL_TISSUE, Tools(shipped_encoder(), 1))
    return output


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("left_out") / "drawn.svs"
    write_svs(path, draw_tissue(5000, 4000, 3), tile=256)
    return path


@pytest.fixture(scope="module")
def whole(slide: Path) -> Path:
    return summarize(slide, slide.parent / "whole.ozx")


def left_half(slide: Path) -> Path:
    mask = np.zeros((400, 500), np.uint8)
    mask[:, :250] = 255
    path = slide.parent / "half.png"
    cv2.imwrite(str(path), mask)
    return path


@pytest.fixture(scope="module")
def masked(slide: Path) -> Path:
    return summarize(slide, slide.parent / "masked.ozx", mask=left_half(slide))


def full(path: Path) -> Verification:
    return verify_summary(path, find_encoder)


def beside(path: Path, slide: Path) -> Verification:
    return verify_summary(path, find_encoder, "source", slide)


def codes(result: Verification) -> set[str]:
    return {finding.code for finding in result.findings} - {"features-not-recomputed"}


def messages(result: Verification) -> str:
    return "; ".join(finding.message for finding in result.findings)


def changed(summary: Path, path: Path, **attributes: Any) -> Path:
    """A summary that says other things; `mask` None: of no mask."""

    def change(found: dict[str, Any]) -> None:
        if "mask" in attributes:
            found["options"]["mask_sha256"] = attributes["mask"]
        found.pop("left_out", None)
        found.update({name: value for name, value in attributes.items() if name != "mask"})

    return forge(summary, path, attributes=change)


# -- a mask -------------------------------------------------------------------------------------------------


def test_a_summary_of_all_tissue_says_nothing_of_it(whole: Path, slide: Path):
    with open_summary(whole) as summary:
        assert "left_out" not in summary.attributes
        assert remarks(summary.record) == ""
    result = beside(whole, slide)
    assert (codes(result), result.verdict and result.verdict.verdict) == (set(), PASS)


def test_a_mask_of_a_part_is_no_pass_and_said_everywhere(masked: Path, slide: Path):
    with open_summary(masked) as summary:
        left_out = summary.record.left_out
        assert left_out is not None
        assert 0.2 < left_out.share < 0.8
        assert "a mask chose the tissue: it leaves out" in remarks(summary.record)
    for result in (verify_summary(masked, tier="quick"), full(masked), beside(masked, slide)):
        assert result.ok
        assert result.verdict is not None
        assert result.verdict.verdict == REVIEW
        assert "the mask leaves out" in "; ".join(result.verdict.reasons)
        assert not result.meets(PASS)
    assert codes(beside(masked, slide)) == {"tissue-left-out"}
    assert beside(masked, slide).measured["source_left_out"] == left_out.share


def test_a_mask_of_all_tissue_passes_and_is_remarked(slide: Path, tmp_path: Path):
    mask = tmp_path / "all.png"
    cv2.imwrite(str(mask), np.full((400, 500), 255, np.uint8))
    path = summarize(slide, tmp_path / "x.ozx", mask=mask)
    result = beside(path, slide)
    assert (codes(result), result.verdict and result.verdict.verdict) == (set(), PASS)
    assert (
        result.remarks.split("; 2.0%")[0] == "a mask chose the tissue; it leaves out nothing that was found without it"
    )
    assert any("a mask" in words for words in result.unchecked)


def test_a_masked_file_of_an_earlier_version_is_measured_beside_its_slide(masked: Path, slide: Path, tmp_path: Path):
    path = changed(masked, tmp_path / "x.ozx")
    for result in (full(path), beside(path, slide)):
        assert result.ok
        assert result.verdict is not None
        assert result.verdict.verdict == REVIEW
    assert "does not say how much tissue the mask leaves out" in "; ".join(full(path).verdict.reasons)  # type: ignore[union-attr]
    assert "does not say" not in "; ".join(beside(path, slide).verdict.reasons)  # type: ignore[union-attr]


def test_a_mask_said_to_leave_out_less_is_found(masked: Path, slide: Path, tmp_path: Path):
    def less(found: dict[str, Any]) -> None:
        found["left_out"] = {"share": 0.001, "mm2": 0.001, "largest_mm2": 0.001}

    path = forge(masked, tmp_path / "x.ozx", attributes=less)
    assert "tissue-differs" in codes(full(path))
    assert "the slide shows than the file says" in messages(beside(path, slide))


@pytest.mark.parametrize("positions", [[[0, 0, 0]], [[3, 0, 0]], [[0, n, 0] for n in range(20)]])
@pytest.mark.parametrize("more", [0, 50])
def test_broken_tiles_do_not_hide_tissue(masked: Path, slide: Path, tmp_path: Path, positions: Any, more: int):
    if more and len(positions) < 20:
        return  # the format lists all of fewer
    broken = {"count": len(positions) + more, "positions": positions}
    path = changed(masked, tmp_path / "x.ozx", mask=None, broken_tiles=broken)
    assert "tissue-differs" in codes(full(path))
    assert "tissue-differs" in codes(beside(path, slide))


def test_tiles_said_to_be_broken_are_read(whole: Path, slide: Path, tmp_path: Path):
    path = changed(whole, tmp_path / "x.ozx", broken_tiles={"count": 2, "positions": [[0, 1, 1], [7, 0, 0]]})
    assert codes(full(path)) == set()
    assert codes(beside(path, slide)) == {"broken-tiles-differ"}


# -- broken tiles -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(slide: Path, whole: Path) -> Path:
    """The slide with a square of 2 x 2 tissue patches that cannot be read."""
    path = slide.parent / "damaged.svs"
    path.write_bytes(slide.read_bytes())
    with open_summary(whole) as summary:
        coords = {tuple(at) for at in summary.tissue.coords.tolist()}
        side = summary.record.patch.patch_size_level0
    squares = ((x, y) for x, y in sorted(coords) if {(x + side, y), (x, y + side), (x + side, y + side)} <= coords)
    x, y = next(squares)
    for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        break_tile(path, (x + right * side) // 256, (y + down * side) // 256)
    return path


def test_a_slide_with_broken_tiles_is_sound_and_says_so(damaged: Path):
    path = summarize(damaged, damaged.parent / "damaged.ozx")
    result = beside(path, damaged)
    assert codes(result) == set()
    assert "4 tiles of the slide cannot be read, and with them" in result.remarks
    assert "which nothing represents" in result.remarks


def test_tissue_under_broken_tiles_that_is_not_counted_is_found(damaged: Path, tmp_path: Path):
    path = summarize(damaged, tmp_path / "damaged.ozx")

    def uncounted(found: dict[str, Any]) -> None:
        found["represented"] = {**found["represented"], "unread": 0}

    forged = forge(path, tmp_path / "x.ozx", attributes=uncounted)
    assert "than the file counts as unread" in messages(full(forged))
    assert "than the file counts as unread" in messages(beside(forged, damaged))


# -- given features -----------------------------------------------------------------------------------------


def given(slide: Path, whole: Path, folder: Path, most_x: int) -> Path:
    """Features of the patches left of `most_x`, as another program would give them."""
    with open_summary(whole) as summary, open_slide(slide) as opened:
        coords = summary.tissue.coords
        coords, side = coords[coords[:, 0] < most_x], summary.record.patch.patch_size_level0
        reading = reading_of(summary.attributes)
        features, rows = encode_patches(opened.pyramid, coords, reading, shipped_encoder(), Damage())
    folder.mkdir()
    with h5py.File(folder / f"{slide.stem}.h5", "w") as file:
        file["features"], file["coords"] = features, coords[rows]
        file["coords"].attrs["patch_size_level0"] = side
    return folder


def test_given_features_of_all_tissue_pass_and_are_remarked(slide: Path, whole: Path, tmp_path: Path):
    path = summarize(slide, tmp_path / "x.ozx", features=given(slide, whole, tmp_path / "h5", 10**6))
    result = beside(path, slide)
    assert (codes(result), result.verdict and result.verdict.verdict) == (set(), PASS)
    assert "the given features cover" in result.remarks
    assert "they leave out" not in result.remarks


def test_tissue_without_given_features_counts_as_unrepresented(slide: Path, whole: Path, tmp_path: Path):
    verdicts = []
    for name, most in (("most", 3700), ("half", 2300)):
        path = summarize(slide, tmp_path / f"{name}.ozx", features=given(slide, whole, tmp_path / name, most))
        for result in (full(path), beside(path, slide)):
            assert codes(result) <= {"tissue-left-out", "verdict-fail"}
            assert result.verdict is not None
            assert "they leave out" in result.remarks
        verdicts.append(result.verdict.verdict)
        assert result.as_dict()["represented"] < 0.9
    assert verdicts == [REVIEW, FAIL]


def test_features_of_an_earlier_version_count_by_what_they_cover(slide: Path, whole: Path, tmp_path: Path):
    path = summarize(slide, tmp_path / "half.ozx", features=given(slide, whole, tmp_path / "h5", 2300))
    older = changed(path, tmp_path / "x.ozx")
    result = full(older)
    assert result.ok
    assert result.verdict is not None
    assert result.verdict.verdict == REVIEW
    assert "leave out up to" in "; ".join(result.verdict.reasons)
    measured = beside(older, slide)
    assert measured.verdict is not None
    assert measured.verdict.verdict == FAIL


# -- attributes that contradict each other -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"broken_tiles": {"count": 3, "positions": [[0, 0, 0]]}}, "broken_tiles.positions are not as many"),
        ({"left_out": {"share": 0.0, "mm2": 0.0, "largest_mm2": 0.0}}, "left_out is there without a mask"),
    ],
)
def test_attributes_that_contradict_each_other_are_found(whole: Path, tmp_path: Path, changes: Any, message: str):
    path = sign_again(tmp_path / "x.ozx", unpack(whole), lambda found: found.update(changes))
    assert message in messages(verify_summary(path, tier="quick"))


def test_areas_left_out_go_together(masked: Path, tmp_path: Path):
    def larger(found: dict[str, Any]) -> None:
        found["left_out"] = {"share": 0.5, "mm2": 0.1, "largest_mm2": 0.2}

    path = sign_again(tmp_path / "x.ozx", unpack(masked), larger)
    assert "do not go together" in messages(verify_summary(path, tier="quick"))
