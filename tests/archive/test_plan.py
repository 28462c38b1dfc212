from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from dicoms import Slide, write_level
from draw import draw_tissue, write_svs
from records import base_attributes
from running import wsisum

from wsisum_cli.archive.manifest import Manifest, read_manifest
from wsisum_cli.archive.plan import Request, has_pixel_size, make_jobs, plan_archive
from wsisum_cli.archive.walk import SourceIndex, find_slides
from wsisum_cli.errors import UsageError
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.slides.source import Source
from wsisum_cli.summary.attributes import Source as SourceRecord


def stated(mpp: float, mpp_source: str) -> SourceRecord:
    return SourceRecord.model_validate({**base_attributes()["source"], "mpp": mpp, "mpp_source": mpp_source})


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def request(source: Path, output: Path, **changes: object) -> Request:
    return Request(source, output, Options(), "0" * 64, **changes)  # type: ignore[arg-type]


def outputs(root: Path, output: Path, manifest: Manifest | None = None) -> dict[str, str]:
    sources, _, _ = find_slides(root, output)
    jobs = make_jobs(request(root, output), manifest or Manifest(), root, sources, {})
    return {relative: job.output.relative_to(output).as_posix() for relative, job in jobs}


# walking


def test_slides_are_sorted_by_path(tmp_path: Path):
    touch(tmp_path, "b/2.svs", "a/1.TIFF", "a/notes.txt", "c.ndpi", ".hidden/3.svs", "a/.4.svs")
    sources, outcomes, others = find_slides(tmp_path, tmp_path / "out")
    assert [source.path.relative_to(tmp_path).as_posix() for source in sources] == ["a/1.TIFF", "b/2.svs", "c.ndpi"]
    assert (outcomes, others) == ([], 1)


def test_output_folder_is_not_searched(tmp_path: Path):
    touch(tmp_path, "1.svs", "out/2.svs")
    sources, _, _ = find_slides(tmp_path, tmp_path / "out")
    assert [source.path.name for source in sources] == ["1.svs"]


def test_mrxs_companion_folder_is_an_outcome_and_counts_in_its_bytes(tmp_path: Path):
    touch(tmp_path, "x/slide.mrxs", "x/slide/Data0000.dat", "x/slide/inside.svs")
    sources, outcomes, _ = find_slides(tmp_path, tmp_path / "out")
    assert [source.path.name for source in sources] == ["slide.mrxs"]
    assert sources[0].bytes == sum(p.stat().st_size for p in (tmp_path / "x").rglob("*") if p.is_file())
    assert [(o.source, o.status, o.reason) for o in outcomes] == [("x/slide/", "skipped", "companion folder")]


def test_links_to_folders_are_followed_once(tmp_path: Path):
    touch(tmp_path, "real/1.svs")
    (tmp_path / "real/loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "real")
    sources, _, _ = find_slides(tmp_path, tmp_path / "out")
    assert len(sources) == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may list every folder")
def test_unreadable_folder_is_an_outcome(tmp_path: Path):
    touch(tmp_path, "a/1.svs", "closed/2.svs")
    (tmp_path / "closed").chmod(0)
    try:
        sources, outcomes, _ = find_slides(tmp_path, tmp_path / "out")
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert [source.path.name for source in sources] == ["1.svs"]
    assert [(o.source, o.status) for o in outcomes] == [("closed", "failed")]


def test_source_without_slides_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no such file or folder"):
        plan_archive(request(tmp_path / "missing", tmp_path / "out"), Manifest(), {})
    touch(tmp_path, "notes.txt")
    with pytest.raises(UsageError, match=r"no slides found \(1 other files\)"):
        plan_archive(request(tmp_path, tmp_path / "out"), Manifest(), {})


def test_a_dicom_series_is_one_slide(tmp_path: Path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    for name, slide in {"1.dcm": Slide("a"), "2.dcm": Slide("a"), "3.dcm": Slide("b")}.items():
        write_level(tmp_path / name, pixels, slide)
    write_level(tmp_path / "label.dcm", pixels, Slide("a"), flavour="LABEL")
    sources, outcomes, _ = find_slides(tmp_path, tmp_path / "out")
    assert [[file.name for file in source.files] for source in sources] == [
        ["1.dcm", "2.dcm"],
        ["3.dcm"],
        ["label.dcm"],
    ]
    assert [(o.source, o.reason) for o in outcomes] == [("2.dcm", "part of a slide")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_does_not_block(tmp_path: Path):
    touch(tmp_path, "1.svs")
    os.mkfifo(tmp_path / "2.svs")
    (tmp_path / "3.svs").symlink_to(tmp_path / "nowhere")
    sources, outcomes, _ = find_slides(tmp_path, tmp_path / "out")
    assert [source.path.name for source in sources] == ["1.svs", "3.svs"]
    assert [(o.source, o.status, o.reason) for o in outcomes] == [("2.svs", "skipped", "not a slide")]


# names of outputs


def test_outputs_mirror_the_tree(tmp_path: Path):
    touch(tmp_path, "a/b/1.svs", "2.ome.tiff")
    assert outputs(tmp_path, tmp_path / "out") == {"a/b/1.svs": "a/b/1.ozx", "2.ome.tiff": "2.ozx"}


def test_slides_with_the_same_stem_keep_their_suffixes(tmp_path: Path):
    touch(tmp_path, "a/1.svs", "a/1.ndpi", "a/1.ome.tiff", "b/1.svs")
    assert outputs(tmp_path, tmp_path / "out") == {
        "a/1.svs": "a/1.svs.ozx",
        "a/1.ndpi": "a/1.ndpi.ozx",
        "a/1.ome.tiff": "a/1.ome.tiff.ozx",
        "b/1.svs": "b/1.ozx",
    }


def test_dots_in_names_are_kept(tmp_path: Path):
    touch(tmp_path, "TCGA-AA.1234-UUID.svs")
    assert outputs(tmp_path, tmp_path / "out") == {"TCGA-AA.1234-UUID.svs": "TCGA-AA.1234-UUID.ozx"}


def test_two_slides_with_one_manifest_name_fail_and_the_others_go_on(tmp_path: Path):
    touch(tmp_path, "a.svs", "b.svs", "c.svs")
    (tmp_path / "manifest.csv").write_text("slide,name\na.svs,study-1\nc.svs,study-1\n")
    found = plan_archive(request(tmp_path, tmp_path / "out"), read_manifest(tmp_path / "manifest.csv"), {})
    assert [relative for relative, _ in found.jobs] == ["b.svs"]
    assert [(outcome.source, outcome.status, outcome.reason) for outcome in found.outcomes] == [
        ("a.svs", "failed", "name taken"),
        ("c.svs", "failed", "name taken"),
    ]
    assert found.outcomes[0].message.startswith("a.svs: would share its output with c.svs;")


@pytest.mark.parametrize(
    "names", [("A1.svs", "a1.svs"), ("Pru\u0308f.svs", "Pr\u00fcf.svs"), ("x.svs", "X.svs", "x.SVS")]
)
def test_names_that_some_file_systems_take_for_one_fail(tmp_path: Path, names: tuple[str, ...]):
    touch(tmp_path, *names, "other.svs")
    found = plan_archive(request(tmp_path, tmp_path / "out"), Manifest(), {})
    assert [relative for relative, _ in found.jobs] == ["other.svs"]
    assert {outcome.source: outcome.reason for outcome in found.outcomes} == dict.fromkeys(names, "name taken")


# manifest


def test_manifest_matches_slides_by_path_or_file_name(tmp_path: Path):
    touch(tmp_path, "a/1.svs", "b/1.svs", "mask.png")
    table = "slide,mpp,mask,name\na/1.svs,0.25,mask.png,study-7\n1.svs,0.5,,\ngone.svs,,,\n"
    (tmp_path / "manifest.csv").write_text(table)
    manifest = read_manifest(tmp_path / "manifest.csv")
    sources, _, _ = find_slides(tmp_path, tmp_path / "out")
    jobs = dict(make_jobs(request(tmp_path, tmp_path / "out"), manifest, tmp_path, sources, {}))
    first, second = jobs["a/1.svs"], jobs["b/1.svs"]
    assert (first.mpp, first.mask, first.name) == (0.25, tmp_path / "mask.png", "study-7")
    assert first.output == tmp_path / "out/a/study-7.ozx"
    assert (second.mpp, second.mask, second.name) == (0.5, None, "1.svs")
    assert first.mpp_wins
    assert manifest.unused == {"gone.svs"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,mpp\na.svs,1\n", "expected the column slide"),
        ("slide,mpp,MPP\na.svs,1,20\n", "expected a column of your own or mpp"),
        ("", "found none"),
        ("slide,mpp\na.svs,small\n", "line 2: the mpp 'small' is not a number"),
        ("slide,mpp\na.svs,0.5 furlong\n", "line 2: the mpp '0.5 furlong' is not a number of µm"),
        ("slide,mpp\na.svs,40\n", "line 2: .* outside 0.05 to 10"),
        ("slide,mask\na.svs,gone.png\n", "line 2: mask gone.png not found"),
        ("slide,name\na.svs,../b\n", "is not a plain file name"),
        ("slide,name\na.svs,.\n", "is not a plain file name"),
        ("slide,name\na.svs,.hidden\n", "is not a plain file name"),
        ("slide,name\na.svs," + "n" * 300 + "\n", "is not a plain file name"),
        ("mpp,slide\n0.5\n", "line 2: the slide column is empty"),
        ("slide,mpp\na.svs,0.5\na.svs,0.25\n", "line 3: a.svs is listed twice"),
    ],
)
def test_invalid_manifest_is_refused(tmp_path: Path, text: str, complaint: str):
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_manifest(path)


def test_manifest_with_a_bom_is_read(tmp_path: Path):
    path = tmp_path / "manifest.csv"
    path.write_bytes("\ufeffslide,mpp\r\nä.svs, 0.25 \r\n".encode())
    assert read_manifest(path).entries["ä.svs"].mpp == 0.25


@pytest.mark.parametrize(
    ("found", "source", "row", "unchanged"),
    [
        (0.5, "Aperio MPP", None, True),
        (0.5, "Aperio MPP", 0.25, False),  # the row is new
        (0.25, "manifest", 0.25, True),
        (0.25, "given", 0.25, True),
        (0.25, "manifest", 0.3, False),
        (0.25, "manifest", None, False),  # the row is gone
    ],
)
def test_a_summary_is_made_again_when_its_row_changes(found: float, source: str, row: float | None, unchanged: bool):
    job = Job(Source(Path("a.svs"), ()), Path("a.ozx"), "a.svs", row, mpp_wins=row is not None)
    assert has_pixel_size(stated(found, source), job) == unchanged


def test_a_size_for_all_that_changes_makes_again_what_needed_it():
    job = Job(Source(Path("a.svs"), ()), Path("a.ozx"), "a.svs", 0.5)
    assert not has_pixel_size(stated(0.25, "given"), job)
    assert has_pixel_size(stated(0.25, "Aperio MPP"), job)


# finding the source of a summary


def test_unreadable_summary_has_no_source(tmp_path: Path):
    assert SourceIndex(tmp_path).find(tmp_path / "none.ozx") is None


def test_single_slide_is_always_the_source(tmp_path: Path):
    touch(tmp_path, "1.svs")
    found = SourceIndex(tmp_path / "1.svs").find("any.ozx")
    assert found is not None
    assert found.path == tmp_path / "1.svs"


def test_slides_without_a_summary_are_left(tmp_path: Path):
    drawn = draw_tissue(1200, 900, 1)
    write_svs(tmp_path / "a.svs", drawn)
    (tmp_path / "deep").mkdir()
    write_svs(tmp_path / "deep" / "b.svs", draw_tissue(1200, 900, 2))
    (tmp_path / "c.vsi").write_bytes(b"a format that is not read")
    index = SourceIndex(tmp_path)
    assert index.left() == ["a.svs", "c.vsi", "deep/b.svs"]
    done = wsisum("compress", tmp_path / "a.svs", "-o", tmp_path / "out", "--encoder", "texture", "--draws", 100)
    assert done.returncode == 0, done.stderr
    found = index.find(tmp_path / "out" / "a.ozx")
    assert found is not None
    assert found.path == tmp_path / "a.svs"
    assert index.left() == ["c.vsi", "deep/b.svs"]


# names that other file systems take for the same


def test_names_that_differ_only_in_case_keep_their_suffixes(tmp_path: Path):
    touch(tmp_path, "B12.svs", "b12.tif")
    assert outputs(tmp_path, tmp_path / "out") == {"B12.svs": "B12.svs.ozx", "b12.tif": "b12.tif.ozx"}


def test_name_that_would_collide_keeps_its_suffix(tmp_path: Path):
    touch(tmp_path, "B12.svs", "B12.ndpi", "B12.svs.svs")
    assert outputs(tmp_path, tmp_path / "out") == {
        "B12.ndpi": "B12.ndpi.ozx",
        "B12.svs": "B12.svs.ozx",
        "B12.svs.svs": "B12.svs.svs.ozx",
    }


def test_output_in_the_source_folder_is_refused(tmp_path: Path):
    touch(tmp_path, "1.svs")
    with pytest.raises(UsageError, match="would share this folder"):
        plan_archive(request(tmp_path, tmp_path), Manifest(), {})


def test_overlong_name_fails_in_its_job(tmp_path: Path):
    touch(tmp_path, "a" * 250 + ".svs", "a" * 250 + ".tif")
    plan = plan_archive(request(tmp_path, tmp_path / "out"), Manifest(), {})
    assert len(plan.jobs) == 2
