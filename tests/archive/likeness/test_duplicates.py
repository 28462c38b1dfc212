"""Pairs of slides that are the same, and the evidence for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from summaries import sign_again, unpack, write_tiny

from wsisum_cli.archive.likeness import duplicates
from wsisum_cli.archive.likeness.duplicates import (
    SAME_BLOCK,
    SAME_FILE,
    SAME_GLASS,
    Pair,
    find_duplicates,
    judge,
    like_pairs,
)
from wsisum_cli.archive.likeness.registration import Alignment
from wsisum_cli.archive.likeness.vectors import UNKNOWN_MODEL, Archive, SlideVectors, read_vectors
from wsisum_cli.archive.lookup import named_summaries

PERFECT = Alignment(np.eye(2, 3), False, 0.0, 1.0, 1.0, 0.95, 1.0, 500)


def with_sha256(path: Path, sha256: str) -> Path:
    """The summary as one of other bytes."""

    def change(attributes: dict[str, Any]) -> None:
        attributes["source"]["sha256"] = sha256

    return sign_again(path, unpack(path), change)


def test_byte_identical_slides_are_found_wherever_they_lie(tmp_path: Path):
    (tmp_path / "case").mkdir()
    for name in ("a.ozx", "case/b.ozx", "c.ozx"):
        write_tiny(tmp_path / name)
    with_sha256(tmp_path / "c.ozx", "c" * 64)
    found = find_duplicates(read_vectors([str(tmp_path)]))
    same = [pair for pair in found.pairs if pair.relation == SAME_FILE]
    assert [(pair.first.summary, pair.second.summary) for pair in same] == [("a.ozx", "case/b.ozx")]
    assert same[0].words == f"two summaries of one content, sha256 {same[0].first.sha256}"
    assert (found.slides, found.compared) == (3, 1)


def test_a_summary_is_no_duplicate_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sum").mkdir()
    write_tiny(tmp_path / "sum/a.ozx")
    (tmp_path / "link").symlink_to(tmp_path / "sum")
    (tmp_path / "sum/b.ozx").symlink_to("a.ozx")
    monkeypatch.chdir(tmp_path)
    assert len(named_summaries(["sum"])) == 2, "both names count for commands that write a file for each"
    for arguments in (["sum", "sum"], ["sum", str(tmp_path / "sum/a.ozx")], ["sum/a.ozx", "link"]):
        assert [slide.summary for slide in read_vectors(arguments).slides] == ["a.ozx"]


def test_several_slides_of_one_file_are_not_the_same(tmp_path: Path):
    for number in (1, 2):
        path = write_tiny(tmp_path / f"{number}.ozx")
        sign_again(path, unpack(path), lambda attributes, number=number: attributes["source"].update(image=number))
    archive = read_vectors([str(tmp_path)])
    assert not [pair for pair in find_duplicates(archive).pairs if pair.relation == SAME_FILE]


def test_a_slide_that_cannot_be_compared_is_named(tmp_path: Path):
    unknown = SlideVectors("x", "given.ozx", "given.svs", "e" * 64, None, 1.0, {})
    write_tiny(tmp_path / "a.ozx")
    slides = read_vectors([str(tmp_path)]).slides
    found = find_duplicates(Archive([*slides, unknown], {"broken.ozx": "broken.ozx: no"}))
    assert found.left_out == {"broken.ozx": "broken.ozx: no", "given.ozx": UNKNOWN_MODEL}


def test_a_broken_overview_is_named_and_ends_nothing(tmp_path: Path):
    for name, sha256 in (("a.ozx", "a" * 64), ("b.ozx", "b" * 64)):
        with_sha256(write_tiny(tmp_path / name), sha256)
    members = unpack(tmp_path / "b.ozx")
    members["0/zarr.json"] = b"{}"
    sign_again(tmp_path / "b.ozx", members)
    found = find_duplicates(read_vectors([str(tmp_path)]))
    assert found.pairs == []
    assert list(found.left_out) == ["b.ozx"]


@pytest.mark.parametrize(
    ("change", "relation"),
    [
        ({}, SAME_GLASS),
        ({"turn": 90.0, "mirrored": True}, SAME_GLASS),
        ({"correlation": 0.35, "agreeing": 0.1}, SAME_BLOCK),
        ({"correlation": 0.05, "agreeing": 0.0}, None),
        ({"overlap": 0.05}, None),
    ],
)
def test_judgement_follows_from_the_figures(change: dict[str, Any], relation: str | None):
    assert judge(replace(PERFECT, **change)) == relation


def test_the_evidence_is_in_plain_words():
    slide = SlideVectors("a", "a.ozx", "a.svs", "a" * 64, None, 1.0, {})
    turned = Pair(slide, slide, SAME_GLASS, 0.99, replace(PERFECT, turn=90.0, mirrored=True, scale=1.5))
    assert "correlates 0.95" in turned.words
    assert "turned by 90.0 degrees, mirrored, 1.50 times the size" in turned.words
    assert "turned" not in Pair(slide, slide, SAME_GLASS, 0.99, replace(PERFECT, turn=359.9)).words


@pytest.mark.parametrize("cells", [1 << 23, 300, 1])
def test_each_slide_is_compared_with_its_nearest_alone(monkeypatch: pytest.MonkeyPatch, cells: int):
    monkeypatch.setattr(duplicates, "CELLS", cells)
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    expected = {tuple(sorted((row, int(other)))) for row in range(40) for other in np.argsort(-cosines[row])[:3]}
    assert set(like_pairs(vectors, 3, -1)) == expected
    assert like_pairs(vectors, 3, -1) == pytest.approx({pair: cosines[pair] for pair in expected}, abs=1e-5)
    assert set(like_pairs(vectors, 3, 0.8)) == {pair for pair in expected if cosines[pair] >= 0.8}
    assert like_pairs(vectors[:1]) == {}
