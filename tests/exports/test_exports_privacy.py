"""What a slide's header and label say of a patient reaches no export."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import pytest
import tifffile
from planted import PLANTED, SLIDE
from summaries import shipped_encoder

from wsisum_cli.exports.export import export_summary
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.slides.source import find_source

LEGIBLE = 5  # letters; fewer come up by chance in a few MB of compressed pixels


@pytest.fixture(scope="module")
def exported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private")
    slide = shared / SLIDE
    options = Options(keep=8, draws=20, pixels="source")
    compress_slide(Job(find_source(slide), folder / "a.ozx", slide.name), options, Tools(shipped_encoder(), 2))
    for target in (each for each in TARGETS.values() if each.extra is None):
        export_summary(folder / "a.ozx", folder / "out" / f"a{target.suffix}", target)
    return folder / "out"


def text_of(path: Path) -> str:
    """All that is text in a file."""
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return " ".join(f"{attrs}" for attrs in [dict(file.attrs), *(dict(each.attrs) for each in file.values())])
    if path.suffix == ".tiff":
        with tifffile.TiffFile(path) as tiff:
            return " ".join(str(tag.value) for tag in tiff.pages.first.tags if isinstance(tag.value, str))
    return path.read_text("utf-8") if path.suffix in (".json", ".geojson", ".csv", ".txt") else ""


def test_no_planted_text_in_any_export(exported: Path):
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert len({path.suffix for path in files}) > 6
    for path in files:
        content, words = path.read_bytes(), text_of(path)
        for text in PLANTED:
            assert text not in words, path.name
            if len(text) >= LEGIBLE:
                assert text.encode() not in content, path.name
                assert text.encode("utf-16-le") not in content, path.name


def test_texts_are_there_to_be_searched(exported: Path):
    assert "stomach-metaplasia" in text_of(exported / "a.h5")
    assert "stomach-metaplasia" in text_of(exported / "a.summary.ome.tiff")
    assert "stomach-metaplasia" in json.loads(text_of(exported / "a.summary.geojson"))["wsisum"]["note"]
    with open(exported / "a.patches" / "patches.csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["slide"] == "stomach-metaplasia.svs"
