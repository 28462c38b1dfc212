"""What holds for exports of every format: names, what is there already, damage, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import wsisum
from summaries import write_as, write_tiny

from wsisum_cli.commands.summaries.export import ExportLayout, Images, To
from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.exports.export import export_summary, outputs_of
from wsisum_cli.exports.options import IMAGES
from wsisum_cli.exports.targets import TARGETS
from wsisum_cli.features.layouts import LAYOUTS

EVERY = sorted(name for name, target in TARGETS.items() if target.extra is None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "B12.ozx", "source")


def everything(path: Path) -> dict[str, bytes]:
    """The bytes of a file, or of each file in a folder."""
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def test_the_command_offers_every_target_and_layout():
    assert {to.value for to in To} == set(TARGETS)
    assert {layout.value for layout in ExportLayout} == set(LAYOUTS)
    assert [images.value for images in Images] == list(IMAGES)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("mode", ["source", "jpeg"])
def test_same_summary_gives_the_same_bytes_and_no_path(tmp_path: Path, name: str, mode: str):
    secret = tmp_path / "a-secret-folder"
    secret.mkdir()
    target = TARGETS[name]
    summary = write_tiny(secret / "B12.ozx", mode)
    first, second = (tmp_path / part / f"B12{target.suffix}" for part in ("one", "two"))
    results = [export_summary(summary, path, target) for path in (first, second)]
    assert everything(first) == everything(second)
    assert results[0].bytes_out == sum(map(len, everything(first).values()))
    assert not [name for name, data in everything(first).items() if b"a-secret-folder" in data]
    assert sorted(path.name for path in first.parent.iterdir()) == [first.name]


@pytest.mark.parametrize("name", EVERY)
def test_every_export_says_that_it_is_not_the_slide(tiny: Path, tmp_path: Path, name: str):
    target = TARGETS[name]
    export_summary(tiny, tmp_path / f"B12{target.suffix}", target)
    said = b"".join(everything(tmp_path / f"B12{target.suffix}").values())
    assert b"This is not a slide." in said or name == "zarr"
    assert b"ot for diagnosis" in said
    assert (b"tiny.svs" in said) == (name != "report")  # which tells a model nothing of the diagnosis


@pytest.mark.parametrize("name", EVERY)
def test_what_is_there_is_replaced_only_when_asked(tiny: Path, tmp_path: Path, name: str):
    target = TARGETS[name]
    place = tmp_path / f"B12{target.suffix}"
    export_summary(tiny, place, target)
    before = everything(place)
    with pytest.raises(UsageError, match="--force"):
        export_summary(tiny, place, target)
    export_summary(tiny, place, target, force=True)
    assert everything(place) == before
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


@pytest.mark.parametrize("name", EVERY)
def test_a_folder_of_somebody_else_is_never_replaced(tiny: Path, tmp_path: Path, name: str):
    target = TARGETS[name]
    place = tmp_path / f"B12{target.suffix}"
    place.mkdir()
    (place / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError):
        export_summary(tiny, place, target, force=True)
    assert (place / "thesis.txt").read_text() == "all of it"


@pytest.mark.parametrize("name", EVERY)
def test_a_damaged_summary_is_refused_and_leaves_nothing(tiny: Path, tmp_path: Path, name: str):
    damaged = tmp_path / "B12.ozx"
    content = bytearray(tiny.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(SummaryError, match="damaged"):
        export_summary(damaged, tmp_path / "out" / f"B12{TARGETS[name].suffix}", TARGETS[name])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", EVERY)
def test_older_formats_are_exported(tiny: Path, tmp_path: Path, name: str):
    older = write_as(tmp_path / "older.ozx", tiny)
    assert export_summary(older, tmp_path / "out" / f"older{TARGETS[name].suffix}", TARGETS[name]).patches == 8


def test_outputs_mirror_the_folder(tmp_path: Path):
    target = TARGETS["h5"]
    found = outputs_of({"a/x/B.ozx": Path("x/B.ozx"), "a/C.v2.ozx": Path("C.v2.ozx")}, tmp_path, target)
    assert found == {"a/x/B.ozx": tmp_path / "x/B.h5", "a/C.v2.ozx": tmp_path / "C.v2.h5"}
    assert outputs_of({"B.ozx": Path("B.ozx")}, tmp_path / "new.h5", target) == {"B.ozx": tmp_path / "new.h5"}
    with pytest.raises(UsageError, match="expected a folder"):
        outputs_of({"a/B.ozx": Path("B.ozx"), "C.ozx": Path("C.ozx")}, tmp_path / "new.h5", target)
    with pytest.raises(UsageError, match="share one output"):
        outputs_of({"a/B.ozx": Path("B.ozx"), "b/B.ozx": Path("B.ozx")}, tmp_path, target)


def test_one_bad_summary_does_not_end_the_run(tiny: Path, tmp_path: Path):
    archive = tmp_path / "archive"
    (archive / "x").mkdir(parents=True)
    (archive / "x" / "good.ozx").write_bytes(tiny.read_bytes())
    (archive / "bad.ozx").write_bytes(tiny.read_bytes()[:-9])
    done = wsisum("export", archive, "--to", "h5", "-o", tmp_path / "out", "--json")
    assert done.returncode == 1
    assert done.stderr.startswith("wsisum: bad.ozx: ")
    rows = json.loads(done.stdout)
    assert [(row["name"], row["patches"], row["tissue_patches"]) for row in rows] == [("good.ozx", 8, 80)]
    assert (tmp_path / "out" / "x" / "good.h5").is_file()
    again = wsisum("export", archive, "--to", "h5", "-o", tmp_path / "out")
    assert again.returncode == 2
    assert "--force" in again.stderr


@pytest.mark.parametrize(("option", "value", "owner"), [("--layout", "clam", "h5"), ("--images", "png", "patches")])
def test_an_option_of_another_format_is_refused(tiny: Path, tmp_path: Path, option: str, value: str, owner: str):
    done = wsisum("export", tiny, "--to", "tiff", option, value, "-o", tmp_path)
    assert (done.returncode, f"{option} belongs to --to {owner}" in done.stderr) == (2, True)
