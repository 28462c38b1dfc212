"""What is read of summaries for ranking and pairing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from summaries import write_tiny

from wsisum_cli.archive.likeness.vectors import MEAN, SLIDE_ENCODER, most_common, read_vectors
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
