from __future__ import annotations

import os
from pathlib import Path

import pytest
from files import dicom

from wsisum_cli.archive.manifest import Manifest, read_manifest
from wsisum_cli.archive.plan import Request, has_pixel_size, make_jobs, plan_archive
from wsisum_cli.archive.walk import SourceIndex, find_slides
from wsisum_cli.errors import UsageError
from wsisum_cli.pipeline.job import Job, Options
from wsisum_cli.slides.source import Source


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def request(source: Path, output: Path, **changes: object) -> Request:
    return Request(source, output, Options(), "0" * 64, **changes)  # type: ignore[arg-type]


def outputs(root: Path, output: Path, manifest: Manifest | None = None) -> dict[str, str]:
    sources, _, _ = find_slides(root, output)
    jobs = make_jobs(request(root, output), manifest or Manifest(), root, sources)
    return {relative: job.output.relative_to(output).as_posix() for relative, job in jobs}


# walking


def test_slides_are_found_in_the_order_of_their_paths(tmp_path: Path):
    touch(tmp_path, "b/2.svs", "a/1.TIFF", "a/notes.txt", "c.ndpi", ".hidden/3.svs", "a/.4.svs")
    sources, outcomes, others = find_slides(tmp_path, tmp_path / "out")
    assert [source.path.relative_to(tmp_path).as_posix() for source in sources] == ["a/1.TIFF", "b/2.svs", "c.ndpi"]
    assert (outcomes, others) == ([], 1)


def test_the_output_folder_is_not_searched(tmp_path: Path):
    touch(tmp_path, "1.svs", "out/2.svs")
    sources, _, _ = find_slides(tmp_path, tmp_path / "out")
    assert [source.path.name for source in sources] == ["1.svs"]


def test_the_companion_folder_of_an_mrxs_is_an_outcome_and_counts_as_its_bytes(tmp_path: Path):
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
def test_a_folder_that_cannot_be_listed_is_an_outcome(tmp_path: Path):
    touch(tmp_path, "a/1.svs", "closed/2.svs")
    (tmp_path / "closed").chmod(0)
    try:
        sources, outcomes, _ = find_slides(tmp_path, tmp_path / "out")
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert [source.path.name for source in sources] == ["1.svs"]
    assert [(o.source, o.status) for o in outcomes] == [("closed", "failed")]


def test_nothing_there_cannot_start(tmp_path: Path):
    with pytest.raises(UsageError, match="no such file or folder"):
        plan_archive(request(tmp_path / "missing", tmp_path / "out"), Manifest(), {})
    touch(tmp_path, "notes.txt")
    with pytest.raises(UsageError, match=r"no slides found \(1 other files\)"):
        plan_archive(request(tmp_path, tmp_path / "out"), Manifest(), {})


def test_a_dicom_series_is_one_slide(tmp_path: Path):
    for name, content in {"1.dcm": dicom("1.2"), "2.dcm": dicom("1.2"), "3.dcm": dicom("1.3")}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "label.dcm").write_bytes(dicom("1.2", "LABEL"))
    sources, outcomes, _ = find_slides(tmp_path, tmp_path / "out")
    assert [[file.name for file in source.files] for source in sources] == [
        ["1.dcm", "2.dcm"],
        ["3.dcm"],
        ["label.dcm"],
    ]
    assert [(o.source, o.reason) for o in outcomes] == [("2.dcm", "part of a slide")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path):
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


def test_two_slides_of_one_name_are_told_apart(tmp_path: Path):
    touch(tmp_path, "a/1.svs", "a/1.ndpi", "a/1.ome.tiff", "b/1.svs")
    assert outputs(tmp_path, tmp_path / "out") == {
        "a/1.svs": "a/1.svs.ozx",
        "a/1.ndpi": "a/1.ndpi.ozx",
        "a/1.ome.tiff": "a/1.ome.tiff.ozx",
        "b/1.svs": "b/1.ozx",
    }


def test_dots_in_names_stay(tmp_path: Path):
    touch(tmp_path, "TCGA-AA.1234-UUID.svs")
    assert outputs(tmp_path, tmp_path / "out") == {"TCGA-AA.1234-UUID.svs": "TCGA-AA.1234-UUID.ozx"}


def test_two_slides_given_one_name_cannot_start(tmp_path: Path):
    touch(tmp_path, "a.svs", "b.svs")
    (tmp_path / "manifest.csv").write_text("slide,name\na.svs,study-1\nb.svs,study-1\n")
    with pytest.raises(UsageError, match=r"a\.svs and b\.svs"):
        plan_archive(request(tmp_path, tmp_path / "out"), read_manifest(tmp_path / "manifest.csv"), {})


# manifest


def test_a_manifest_names_slides_by_path_or_by_name(tmp_path: Path):
    touch(tmp_path, "a/1.svs", "b/1.svs", "mask.png")
    table = "slide,mpp,mask,name\na/1.svs,0.25,mask.png,study-7\n1.svs,0.5,,\ngone.svs,,,\n"
    (tmp_path / "manifest.csv").write_text(table)
    manifest = read_manifest(tmp_path / "manifest.csv")
    sources, _, _ = find_slides(tmp_path, tmp_path / "out")
    jobs = dict(make_jobs(request(tmp_path, tmp_path / "out"), manifest, tmp_path, sources))
    first, second = jobs["a/1.svs"], jobs["b/1.svs"]
    assert (first.mpp, first.mask, first.name) == (0.25, tmp_path / "mask.png", "study-7")
    assert first.output == tmp_path / "out/a/study-7.ozx"
    assert (second.mpp, second.mask, second.name) == (0.5, None, "1.svs")
    assert first.mpp_wins
    assert manifest.unused == {"gone.svs"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,mpp\na.svs,1\n", "expected the columns"),
        ("slide,mpp,magnification\na.svs,1,20\n", "expected the columns"),
        ("", "found none"),
        ("slide,mpp\na.svs,small\n", "line 2: the mpp 'small' is not a number"),
        ("slide,mpp\na.svs,0.5 furlong\n", "line 2: the mpp '0.5 furlong' is not a number of µm"),
        ("slide,mpp\na.svs,40\n", "line 2: .* outside 0.05 to 10"),
        ("slide,mask\na.svs,gone.png\n", "line 2: there is no mask gone.png"),
        ("slide,name\na.svs,../b\n", "is no plain file name"),
        ("slide,name\na.svs,.\n", "is no plain file name"),
        ("slide,name\na.svs,.hidden\n", "is no plain file name"),
        ("slide,name\na.svs," + "n" * 300 + "\n", "is no plain file name"),
        ("mpp,slide\n0.5\n", "line 2: no slide is named"),
        ("slide,mpp\na.svs,0.5\na.svs,0.25\n", "line 3: a.svs is named twice"),
    ],
)
def test_a_bad_manifest_cannot_start(tmp_path: Path, text: str, complaint: str):
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_manifest(path)


def test_a_manifest_from_a_spreadsheet_is_read(tmp_path: Path):
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
    assert has_pixel_size({"mpp": found, "mpp_source": source}, job) == unchanged


def test_a_size_for_all_that_changes_makes_again_what_needed_it():
    job = Job(Source(Path("a.svs"), ()), Path("a.ozx"), "a.svs", 0.5)
    assert not has_pixel_size({"mpp": 0.25, "mpp_source": "given"}, job)
    assert has_pixel_size({"mpp": 0.25, "mpp_source": "Aperio MPP"}, job)


# finding the source of a summary


def test_the_source_of_an_unreadable_summary_is_nowhere(tmp_path: Path):
    assert SourceIndex(tmp_path).find(tmp_path / "none.ozx") is None


def test_a_slide_given_is_the_source(tmp_path: Path):
    touch(tmp_path, "1.svs")
    assert SourceIndex(tmp_path / "1.svs").find("any.ozx") == tmp_path / "1.svs"


# names that other file systems take for the same


def test_names_that_differ_in_case_alone_are_told_apart(tmp_path: Path):
    touch(tmp_path, "B12.svs", "b12.tif")
    assert outputs(tmp_path, tmp_path / "out") == {"B12.svs": "B12.svs.ozx", "b12.tif": "b12.tif.ozx"}


def test_a_name_that_ends_like_another_keeps_its_suffix(tmp_path: Path):
    touch(tmp_path, "B12.svs", "B12.ndpi", "B12.svs.svs")
    assert outputs(tmp_path, tmp_path / "out") == {
        "B12.ndpi": "B12.ndpi.ozx",
        "B12.svs": "B12.svs.ozx",
        "B12.svs.svs": "B12.svs.svs.ozx",
    }


def test_slides_and_summaries_in_one_folder_cannot_start(tmp_path: Path):
    touch(tmp_path, "1.svs")
    with pytest.raises(UsageError, match="would share this folder"):
        plan_archive(request(tmp_path, tmp_path), Manifest(), {})


def test_a_name_too_long_to_look_for_is_left_to_its_job(tmp_path: Path):
    touch(tmp_path, "a" * 250 + ".svs", "a" * 250 + ".tif")
    plan = plan_archive(request(tmp_path, tmp_path / "out"), Manifest(), {})
    assert len(plan.jobs) == 2
