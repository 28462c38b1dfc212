"""Summaries that are made up, with checksums, figures and verdicts that fit: what verification finds without a slide.

Each kind is made of a summary of a drawn slide; no model is at hand unless a test says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from draw import draw_tissue, write_svs
from forgery import drawn, forge, overviews, painted, together, viewer
from summaries import LENIENT, compress_drawn, shipped_encoder

from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.source import find_source
from wsisum_cli.summary.arrays import encode_array
from wsisum_cli.summary.reader import Summary, open_summary
from wsisum_cli.verification.finding import Verification
from wsisum_cli.verification.verify import verify_summary

WHITE, BLACK = 255, 0
NOTHING_AT_HAND = {"features-not-recomputed", "embedding-not-recomputed"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return compress_drawn(tmp_path_factory.mktemp("forged"))


def codes(result: Verification) -> set[str]:
    return {finding.code for finding in result.findings} - NOTHING_AT_HAND


def side(summary: Path) -> int:
    with open_summary(summary) as opened:
        return opened.record.patch.patch_size


def plain(summary: Path, level: int) -> bytes:
    return jpeg.encode(np.full((side(summary), side(summary), 3), level, np.uint8))


def fill(level: int) -> Any:
    return lambda image: np.full_like(image, level)


def test_what_is_not_changed_is_found_whole(made: dict[str, Path], tmp_path: Path):
    for mode in ("jpeg", "source"):
        assert codes(verify_summary(forge(made[mode], tmp_path / f"{mode}.ozx"))) == set()


@pytest.mark.parametrize("level", [WHITE, BLACK, 200])
def test_patches_painted_over_are_found(made: dict[str, Path], tmp_path: Path, level: int):
    path = forge(made["jpeg"], tmp_path / "x.ozx", painted(plain(made["jpeg"], level)))
    assert codes(verify_summary(path)) >= {"patch-empty", "features-differ", "overview-differs"}


def test_patches_and_overview_painted_over_are_found(made: dict[str, Path], tmp_path: Path):
    changes = together(painted(plain(made["jpeg"], WHITE)), overviews(fill(WHITE)))
    assert codes(verify_summary(forge(made["jpeg"], tmp_path / "x.ozx", changes))) >= {"patch-empty", "tissue-differs"}


def test_a_single_patch_painted_over_is_found(made: dict[str, Path], tmp_path: Path):
    with open_summary(made["jpeg"]) as summary:
        streams = [summary.patches.shard.stream(row) for row in range(len(summary.patches))]
    streams[0] = plain(made["jpeg"], WHITE)
    assert "patch-empty" in codes(verify_summary(forge(made["jpeg"], tmp_path / "x.ozx", painted(streams))))


def test_one_picture_for_every_patch_is_found(made: dict[str, Path], tmp_path: Path):
    with open_summary(made["jpeg"]) as summary:
        stream = summary.patches.shard.stream(0)
    result = verify_summary(forge(made["jpeg"], tmp_path / "x.ozx", painted(stream)))
    messages = [finding.message for finding in result.findings if finding.code == "features-differ"]
    assert any("look the same, but their features do not" in message for message in messages)


def test_the_model_itself_finds_other_pixels(made: dict[str, Path], tmp_path: Path):
    path = forge(made["jpeg"], tmp_path / "x.ozx", painted(plain(made["jpeg"], WHITE)))
    result = verify_summary(path, lambda card: shipped_encoder())
    assert any(finding.message.endswith("do not match their pixels") for finding in result.findings)


@pytest.mark.parametrize("level", [WHITE, BLACK])
def test_an_overview_painted_over_is_found(made: dict[str, Path], tmp_path: Path, level: int):
    path = forge(made["jpeg"], tmp_path / "x.ozx", overviews(fill(level)))
    assert codes(verify_summary(path)) >= {"overview-differs"}


def test_a_part_of_the_overview_painted_white_is_found(made: dict[str, Path], tmp_path: Path):
    def half(image: np.ndarray) -> np.ndarray:
        image[: len(image) // 2] = WHITE
        return image

    path = forge(made["jpeg"], tmp_path / "x.ozx", overviews(half))
    assert codes(verify_summary(path)) & {"overview-differs", "tissue-differs"}


def test_draws_that_are_too_bad_are_found(made: dict[str, Path], tmp_path: Path):
    path = forge(made["jpeg"], tmp_path / "x.ozx", drawn(lambda quantiles: quantiles * 0.3))
    assert codes(verify_summary(path)) == {"draws-differ"}


def test_draws_that_are_bad_at_one_size_are_found(made: dict[str, Path], tmp_path: Path):
    def last(quantiles: np.ndarray) -> np.ndarray:
        quantiles[-1] = quantiles[0] - 1e-3
        return quantiles

    path = forge(made["jpeg"], tmp_path / "x.ozx", drawn(last))
    assert codes(verify_summary(path)) == {"draws-differ"}


def test_draws_a_little_worse_are_found_beside_the_slide(made: dict[str, Path], tmp_path: Path):
    path = forge(made["jpeg"], tmp_path / "x.ozx", drawn(lambda quantiles: quantiles - np.float32(0.01)))
    assert codes(verify_summary(path)) == set()  # which the threat model says
    result = verify_summary(path, lambda card: shipped_encoder(), "source", made["slide"])
    assert codes(result) == {"draws-differ"}


def test_a_yardstick_that_no_neighbours_give_is_found(made: dict[str, Path], tmp_path: Path):
    def lower(attributes: dict[str, Any]) -> None:
        attributes["represented"] = {**attributes["represented"], "cosine": 0.0}

    result = verify_summary(forge(made["jpeg"], tmp_path / "x.ozx", attributes=lower))
    assert any("represented.cosine is none that adjacent patches" in finding.message for finding in result.findings)


def test_another_number_of_neighbours_is_found(made: dict[str, Path], tmp_path: Path):
    def more(attributes: dict[str, Any]) -> None:
        attributes["represented"] = {**attributes["represented"], "pairs": attributes["represented"]["pairs"] + 1}

    result = verify_summary(forge(made["jpeg"], tmp_path / "x.ozx", attributes=more))
    assert [finding.message for finding in result.findings if finding.severity == "error"] == [
        "represented.pairs is not the number of adjacent patches of the tissue map"
    ]


def similarity(change: Any) -> Any:
    def members(summary: Summary) -> dict[str, bytes]:
        values = change(summary.tissue.similarity.copy()).astype(np.float16)
        return encode_array("tissue/similarity", values, ["tissue"])

    return members


def test_tissue_said_to_be_like_the_kept_patches_is_found(made: dict[str, Path], tmp_path: Path):
    def earlier(summary: Summary) -> dict[str, bytes]:
        values = np.full_like(summary.array("tissue/earlier_similarity"), 0.99)
        return encode_array("tissue/earlier_similarity", values, ["earlier"])

    changes = together(similarity(lambda values: np.maximum(values, 0.99)), earlier)
    assert "kept-differs" in codes(verify_summary(forge(made["jpeg"], tmp_path / "x.ozx", changes)))


def test_kept_patches_that_do_not_stand_for_themselves_are_found(made: dict[str, Path], tmp_path: Path):
    path = forge(made["jpeg"], tmp_path / "x.ozx", similarity(lambda values: np.minimum(values, 0.995)))
    assert "kept-differs" in codes(verify_summary(path))


def test_clusters_that_contradict_each_other_are_found(made: dict[str, Path], tmp_path: Path):
    def members(summary: Summary) -> dict[str, bytes]:
        return encode_array("patches/cluster", summary.cluster[::-1].copy(), ["patch"])

    assert "kept-differs" in codes(verify_summary(forge(made["jpeg"], tmp_path / "x.ozx", members)))


def another_name(ome: dict[str, Any]) -> None:
    ome["multiscales"][0]["name"] = "another slide"


def another_scale(ome: dict[str, Any]) -> None:
    ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = [1.0, 99.0, 99.0]


def another_colour(ome: dict[str, Any]) -> None:
    ome["omero"]["channels"][0]["color"] = "00FF00"


@pytest.mark.parametrize("change", [another_name, another_scale, another_colour, dict.clear])
def test_other_metadata_for_viewers_are_found(made: dict[str, Path], tmp_path: Path, change: Any):
    assert codes(verify_summary(forge(made["jpeg"], tmp_path / "x.ozx", viewer(change)))) == {"ome-differs"}


def test_each_tier_says_what_it_cannot_tell(made: dict[str, Path]):
    for tier, count in (("quick", 3), ("full", 3)):
        assert len(verify_summary(made["jpeg"], tier=tier).as_dict()["unchecked"]) == count
    unchecked = verify_summary(made["jpeg"], tier="source", source=made["slide"]).as_dict()["unchecked"]
    assert unchecked == ["tissue that the tissue map leaves out in small areas, or hardly darker than glass"]


@pytest.mark.parametrize("seed", range(4))
def test_random_draws_of_a_small_slide_are_what_its_tissue_allows(tmp_path: Path, seed: int):
    """All tissue is kept, so nothing is left to the bounds, and few draws must not be held against a thousand."""
    slide = tmp_path / "small.svs"
    write_svs(slide, draw_tissue(1500, 1200, seed=seed), tile=256)
    job = Job(find_source(slide), tmp_path / "small.ozx", slide.name, mpp=0.25)
    compress_slide(job, Options(keep=64, thresholds=LENIENT), Tools(shipped_encoder(), 1))
    assert "draws-differ" not in codes(verify_summary(job.output, lambda card: shipped_encoder()))
