"""What is read of summaries for ranking and pairing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from summaries import write_tiny

from wsisum_cli.archive.likeness import vectors
from wsisum_cli.archive.likeness.vectors import MEAN, SLIDE_ENCODER, most_common, read_vectors
from wsisum_cli.archive.state.catalogue import NAME, build_catalogue
from wsisum_cli.errors import UsageError
from wsisum_cli.summary.reader import Summary, open_summary


def test_vectors_are_those_of_the_summary(tmp_path: Path):
    write_tiny(tmp_path / "b.ozx", "models")
    (tmp_path / "case").mkdir()
    write_tiny(tmp_path / "case" / "a.ozx")
    archive = read_vectors([str(tmp_path)])
    assert [slide.summary for slide in archive.slides] == ["b.ozx", "case/a.ozx"]
    whole, plain = archive.slides
    with open_summary(tmp_path / "b.ozx") as summary:
        mean, embedding = whole.model(MEAN), whole.model(SLIDE_ENCODER)
        assert mean is not None
        assert embedding is not None
        assert np.array_equal(whole.vectors[mean], summary.embedding)
        assert np.array_equal(whole.vectors[embedding], summary.slide_embedding)
        assert mean.sha256 == summary.record.features_encoder
        assert whole.tissue_mm2 == summary.record.represented.tissue_mm2
        assert whole.identity == (summary.record.source.sha256, None)
    assert plain.model(SLIDE_ENCODER) is None
    assert most_common(archive.slides, MEAN) == mean
    assert most_common([plain], SLIDE_ENCODER) is None


def test_broken_summaries_are_counted_and_end_nothing(tmp_path: Path):
    write_tiny(tmp_path / "a.ozx")
    (tmp_path / "broken.ozx").write_bytes(b"PK")
    archive = read_vectors([str(tmp_path)])
    assert len(archive.slides) == 1
    assert list(archive.unreadable) == ["broken.ozx"]
    assert "broken.ozx" in archive.unreadable["broken.ozx"]


def test_a_folder_without_summaries_cannot_be_searched(tmp_path: Path):
    with pytest.raises(UsageError, match="no summary slides"):
        read_vectors([str(tmp_path)])


def test_pixels_and_tissue_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_tiny(tmp_path / "a.ozx", "models")
    touched: list[str] = []
    read = Summary.read

    def watch(self: Summary, name: str, start: int = 0, size: int | None = None) -> bytes:
        touched.append(name)
        return read(self, name, start, size)

    monkeypatch.setattr(Summary, "read", watch)
    read_vectors([str(tmp_path)])
    assert {name.partition("/c/")[0].removesuffix("/zarr.json") for name in touched} == {
        "zarr.json",
        "reference/mean",
        "reference/slide_embedding",
    }


def test_a_catalogue_serves_as_well_as_the_summaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, kind in (("b.ozx", "models"), ("case/a.ozx", "jpeg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tiny(tmp_path / name, kind)
    opened = read_vectors([str(tmp_path)])
    build_catalogue(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(vectors, "open_summary", None)  # nothing is opened
        taken = read_vectors([str(tmp_path)])
    assert taken.unreadable == {}
    for one, other in zip(opened.slides, taken.slides, strict=True):
        assert {**vars(one), "vectors": None} == {**vars(other), "vectors": None}
        assert one.vectors.keys() == other.vectors.keys()
        assert all(np.array_equal(one.vectors[model], other.vectors[model]) for model in one.vectors)


def test_a_catalogue_that_is_out_of_date_or_damaged_is_not_trusted(tmp_path: Path):
    write_tiny(tmp_path / "a.ozx")
    build_catalogue(tmp_path)
    write_tiny(tmp_path / "a.ozx", "models")
    (found,) = read_vectors([str(tmp_path)]).slides
    assert found.model(SLIDE_ENCODER) is not None
    build_catalogue(tmp_path)
    with closing(sqlite3.connect(tmp_path / NAME)) as database:
        database.execute("UPDATE slides SET mean_features = ?", (b"abc",))
        database.commit()
    assert len(read_vectors([str(tmp_path)]).slides) == 1
    with closing(sqlite3.connect(tmp_path / NAME)) as database:
        database.execute("UPDATE slides SET mean_features = ?", (np.full(8, np.nan, "<f4").tobytes(),))
        database.commit()
    (found,) = read_vectors([str(tmp_path)]).slides
    assert all(np.isfinite(vector).all() for vector in found.vectors.values())
    (tmp_path / NAME).write_bytes(b"SQLite format 3\0 and no more")
    assert len(read_vectors([str(tmp_path)]).slides) == 1
