"""The main job, through the command as installed, on a small drawn archive."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from draw import draw_archive
from running import fresh, write_program, wsisum

from wsisum_cli.summary.reader import open_summary

FAILING = {"lung/resections/lung-1.tiff": "no pixel size", "lung/biopsies/lung-2-broken.svs": "broken tiles"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    draw_archive(folder, size=(3600, 3000))
    return folder


@pytest.fixture(scope="module")
def output(archive: Path) -> Path:
    folder = archive.parent / "summaries"
    done = fresh("compress", archive, "-o", folder, timeout=300)
    assert done.returncode == 1, done.stderr
    return folder


def test_every_slide_has_an_outcome_and_bad_ones_do_not_stop_the_rest(output: Path):
    report = json.loads((output / "report.json").read_text())
    assert report["counts"] == {"written": 3, "skipped": 0, "failed": 2}
    failed = {row["source"]: row["reason"] for row in report["slides"] if row["status"] == "failed"}
    assert failed == FAILING
    hint = next(row["message"] for row in report["slides"] if row["reason"] == "no pixel size")
    assert hint.startswith("lung-1.tiff: ")
    assert "--mpp" in hint


def test_the_tree_is_mirrored_and_nothing_is_left_aside(output: Path):
    files = sorted(p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file())
    files = [name for name in files if not name.startswith(".wsisum/journal/")]
    assert files == ["breast/breast-1.ozx", "colon/colon-1.ozx", "report.csv", "report.json", "stomach/stomach-1.ozx"]


def test_the_table_has_a_row_a_slide(output: Path):
    with open(output / "report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    written = [row for row in rows if row["status"] == "written"]
    assert all(float(row["ratio"]) > 1 and float(row["seconds_features"]) > 0 for row in written)


def test_a_second_run_skips_what_is_up_to_date(archive: Path, output: Path):
    before = {path: path.read_bytes() for path in output.rglob("*.ozx")}
    again = wsisum("compress", archive, "-o", output, "--json")
    assert again.returncode == 1
    assert json.loads(again.stdout)["counts"] == {"written": 0, "skipped": 3, "failed": 2}
    assert {path: path.read_bytes() for path in output.rglob("*.ozx")} == before


def test_another_folder_gets_the_same_bytes(archive: Path, output: Path, tmp_path: Path):
    wsisum("compress", archive / "stomach", "-o", tmp_path, "--workers", 2)
    assert (tmp_path / "stomach-1.ozx").read_bytes() == (output / "stomach/stomach-1.ozx").read_bytes()


def test_summaries_verify_without_and_with_their_source(archive: Path, output: Path):
    for extra in ([], ["--quick"], ["--source", archive]):
        done = wsisum("verify", output, "--json", "--require", "review", *extra)
        assert done.returncode == (1 if "--source" in extra else 0), done.stdout
        assert ("2 slides of the archive have no summary here" in done.stderr) == ("--source" in extra)
        results = json.loads(done.stdout)
        assert len(results) == 3
        assert all(result["ok"] and not result["findings"] for result in results)


DELETE_VERIFIED = """
for slide in archive/*/*; do
    name=${slide#archive/}
    wsisum verify "summaries/${name%%.*}.ozx" --source "$slide" && rm "$slide"
done
"""


def test_verify_and_rm_deletes_no_slide_without_a_pass(archive: Path, output: Path, tmp_path: Path):
    """As an administrator writes it: one summary passes, one is for review, one fails, one is damaged."""
    (colon,), (breast,), (stomach,) = ((archive / organ).glob("*-1.*") for organ in ("colon", "breast", "stomach"))
    made = {"pass": colon, "few": breast, "one": breast, "damaged": colon, "review": stomach}
    for name, slide in made.items():
        (tmp_path / "archive" / name).mkdir(parents=True)
        shutil.copy(slide, tmp_path / "archive" / name / slide.name)
        summary = tmp_path / "summaries" / name / f"{slide.name.partition('.')[0]}.ozx"
        summary.parent.mkdir(parents=True)
        shutil.copy(output / slide.parent.name / summary.name, summary)
        if name in ("few", "one"):
            wsisum("trim", summary, "--keep", {"few": 2, "one": 1}[name], "-o", summary, "--force")
        if name == "damaged":
            data = bytearray(summary.read_bytes())
            data[len(data) // 2] ^= 1
            summary.write_bytes(data)
    (tmp_path / "bin").mkdir()
    write_program(tmp_path / "bin/wsisum")
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", DELETE_VERIFIED], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    left = {path.parent.name for path in (tmp_path / "archive").glob("*/*")}
    verdicts = {}
    for path in sorted((tmp_path / "summaries").glob("*/*.ozx")):
        found = json.loads(wsisum("verify", path, "--json", "--require", "review").stdout)
        verdicts[path.parent.name] = found["verdict"]["verdict"] if found["verdict"] else None
    assert left == {name for name, verdict in verdicts.items() if verdict != "PASS"}, done.stdout
    assert verdicts["pass"] == "PASS"
    assert (verdicts["one"], verdicts["damaged"]) == ("FAIL", None)
    assert {"one", "damaged"} < left


def test_inspect_says_what_scripts_hold_on_to(output: Path, tmp_path: Path):
    picture = tmp_path / "picture.png"
    done = wsisum("inspect", output / "stomach/stomach-1.ozx", "--json", "--image", picture)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert {"format_version", "bytes", "ratio", "patches", "tissue_patches", "patch_size_level0", "provider"} <= set(
        facts
    )
    assert {"name", "bytes", "sha256", "mpp"} <= set(facts["source"])
    assert {"coverage", "coverage_p05", "coverage_min", "weighted_cosine"} <= set(facts["quality"])
    assert 0 < facts["quality"]["reconstruction"] < 1
    assert 0.9 < facts["quality"]["embedding_cosine"] <= 1
    assert facts["pixels"] in ("source", "jpeg")
    models = [facts[kind]["name"] for kind in ("encoder", "summarizer", "slide_encoder")]
    assert models == ["encoder", "summarizer", "slide_encoder"]
    assert picture.read_bytes().startswith(b"\x89PNG")


#: What reading a summary must not wait for; numpy, rich and pydantic alone are needed.
SLOW_TO_IMPORT = {
    *("zarr", "asyncio", "cv2", "onnxruntime", "tifffile", "sklearn", "scipy", "openslide", "h5py", "torch", "pydicom"),
    *("matplotlib", "PIL", "imagecodecs", "simplejpeg", "obstore", "rich.progress"),
    *(f"wsisum_cli.{name}" for name in ("pipeline", "archive.plan", "archive.workers", "models.session")),
    *(f"wsisum_cli.{name}" for name in ("slides.tiff", "slides.dicom.pyramid", "slides.czi", "verification.content")),
}
RUN_AND_LIST = """
import sys
from wsisum_cli.commands.main import main
try:
    main()
finally:
    print("loaded", *sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command", [["--help"], ["inspect"], ["inspect", "--details"], ["inspect", "--json"], ["verify", "--quick"]]
)
def test_reading_a_summary_imports_nothing_slow(command: list[str], output: Path):
    summary = [] if command == ["--help"] else [output / "stomach/stomach-1.ozx", "--require", "review"]
    summary = summary[:1] if command[0] == "inspect" else summary
    arguments = [sys.executable, "-c", RUN_AND_LIST, *command, *map(str, summary)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "wsisum_cli.commands.main" in loaded
    assert not SLOW_TO_IMPORT & loaded


def test_the_public_door(output: Path):
    with open_summary(output / "breast/breast-1.ozx") as summary:
        count = len(summary.patches)
        assert summary.patches[0].shape == (256, 256, 3)
        assert summary.features.shape[0] == summary.coords.shape[0] == len(summary.weights) == count
        assert summary.weights.sum() == pytest.approx(1)
        assert summary.embedding.shape == summary.features.shape[1:]
        assert summary.provenance["source"]["name"] == "breast-1.svs"


def test_zarr_alone_reads_it(output: Path):
    """Nothing of this package is imported, and a row of pixels is a JPEG stream."""
    script = (
        "import sys, zarr\n"
        "group = zarr.open_group(zarr.storage.ZipStore(sys.argv[1], mode='r'), mode='r')\n"
        "name = 'tiles' if 'tiles' in group['patches'] else 'pixels'\n"
        "start = group['patches'][name][0][:2].tobytes().hex()\n"
        "print(group['0'].shape[0], start, float(group['patches/weights'][...].sum()))\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(output / "breast/breast-1.ozx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["3", "ffd8"]


def test_the_pen_mark_is_no_tissue(output: Path):
    """The stroke lies over the upper left of the stomach slide."""
    with open_summary(output / "stomach/stomach-1.ozx") as summary:
        x, y = summary.tissue.coords.T
        assert not ((x < 1000) & (y < 400)).any()
        assert not [patch for patch in summary.patches if (patch[..., 1] > patch[..., 0] + 10.0).mean() > 0.05]
