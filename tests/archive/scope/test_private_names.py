"""Private names of files and folders reach nothing that leaves the lab, whichever way names are chosen."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from archives import set_back
from containers import SLIDE, Part, write_container
from draw import draw_tissue, write_svs
from typer.testing import CliRunner

from wsisum_cli.commands.main import app
from wsisum_cli.errors import WsisumError
from wsisum_cli.features.h5 import read_provenance
from wsisum_cli.summary.reader import open_summary

#: In the name of a folder, of a slide, of a file of several, and of a file that no reader opens.
PRIVATE = ("DOE^JANE", "S26-1234", "ACC777", "KOWALSKI")
FOLDER, ONE, TWO, BROKEN = "DOE^JANE", "S26-1234_HE.svs", "ACC777.ome.tif", "KOWALSKI.svs"
SCENES = [Part(SLIDE, "Scene 1", 640, 512), Part(SLIDE, "Scene 2", 512, 512, seed=1)]
SLIDES = (f"{FOLDER}/{ONE}", f"{FOLDER}/{TWO}#1", f"{FOLDER}/{TWO}#2")
QUICK = ("--encoder", "texture", "--draws", "100", "--keep", "4")
KEY = bytes(range(200, 232))
TABLE = f"slide,name\n{ONE},study-1\n{TWO},study-2\n"
IMAGES = re.compile(rb"data:image/(?:jpeg|png);base64,([A-Za-z0-9+/=]+)")
WAYS = ("hash", "manifest")


@dataclass(frozen=True)
class Ran:
    """What a command returned and printed; `stderr` has the error that stopped it."""

    returncode: int
    stdout: str
    stderr: str


def wsisum(*arguments: object) -> Ran:
    """A command in this process: starting one for each takes a second."""
    handler = signal.getsignal(signal.SIGTERM)  # which a run replaces
    done = CliRunner().invoke(app, [str(one) for one in arguments], prog_name="wsisum")
    signal.signal(signal.SIGTERM, handler)
    if isinstance(done.exception, WsisumError):
        return Ran(2, done.stdout, f"{done.stderr}{done.exception}")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Ran(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive, a key and a manifest, and the outputs of both ways of naming."""
    lab = tmp_path_factory.mktemp("lab")
    (lab / "in" / FOLDER).mkdir(parents=True)
    write_svs(lab / "in" / FOLDER / ONE, draw_tissue(1400, 1200, 2), tile=256)
    write_container(lab / "in" / FOLDER / TWO, SCENES, ome=True)
    (lab / "in" / FOLDER / BROKEN).write_bytes(b"no slide")
    for path in (lab / "in" / FOLDER).iterdir():
        set_back(path)  # to times that tell whether a slide changed
    (lab / "name.key").write_bytes(KEY)
    (lab / "names.csv").write_text(TABLE + f"{BROKEN},study-3\n")
    for way in WAYS:
        for command, output, more in (("compress", "out", QUICK), ("features", "h5", QUICK[:2])):
            done = wsisum(command, lab / "in", "-o", lab / way / output, *options(lab, way), *more)
            assert done.returncode == 1, done.stderr  # for the broken one
            assert "internal error" not in done.stdout + done.stderr
    return lab


def options(lab: Path, way: str) -> list[object]:
    given = {"hash": ("--name-key", lab / "name.key"), "manifest": ("--manifest", lab / "names.csv")}
    return ["--name-by", way, *given[way]]


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["source"]: row for row in json.loads((folder / "report.json").read_text())["slides"]}


def bytes_of(path: Path) -> bytes:
    """A file as it is, and what is packed in it."""
    content = path.read_bytes()
    if path.suffix == ".ozx":
        with open_summary(path) as summary:
            arrays = [name.removesuffix("/zarr.json") for name in summary.members if is_array(summary, name)]
            assert len(arrays) > 10
            content += b"".join(summary.read(name) for name in summary.members)
            content += b"".join(summary.array(name).tobytes() for name in arrays)
    elif path.suffix == ".html":
        content += b"".join(base64.b64decode(data) for data in IMAGES.findall(content))
    return content


def is_array(summary: Any, name: str) -> bool:
    return name.endswith("/zarr.json") and json.loads(summary.read(name))["node_type"] == "array"


def leaks(paths: list[Path], texts: tuple[str, ...] = PRIVATE) -> list[tuple[str, str]]:
    """Files that hold a private name, in themselves or in their own names."""
    assert paths
    found = []
    for path in paths:
        content = bytes_of(path).lower() + path.name.encode().lower()
        forms = {text: (text.lower().encode(), text.lower().encode("utf-16-le")) for text in texts}
        found += [(path.name, text) for text, some in forms.items() if any(form in content for form in some)]
    return found


def outputs(lab: Path, way: str) -> list[Path]:
    return sorted([*(lab / way / "out").rglob("*.ozx"), *(lab / way / "h5").rglob("*.h5")])


@pytest.mark.parametrize("way", WAYS)
def test_no_private_name_is_in_any_byte_of_an_output(lab: Path, way: str):
    found = outputs(lab, way)
    assert len(found) == 2 * len(SLIDES)
    assert {path.parent for path in found} == {lab / way / "out", lab / way / "h5"}
    assert leaks(found) == []


def test_the_names_of_the_slides_do_stand_in_outputs_by_stem(lab: Path, tmp_path: Path):
    """So what is looked for would be found."""
    wsisum("compress", lab / "in", "-o", tmp_path / "out", *QUICK)
    wsisum("features", lab / "in", "-o", tmp_path / "h5", *QUICK[:2])
    made = [*tmp_path.rglob("*.ozx"), *tmp_path.rglob("*.h5")]
    assert {(path.suffix, text) for path in made for _, text in leaks([path], PRIVATE[1:3])} == {
        (suffix, text) for suffix in (".ozx", ".h5") for text in PRIVATE[1:3]
    }


@pytest.mark.parametrize("way", WAYS)
def test_an_output_and_the_slide_in_it_are_called_alike(lab: Path, way: str):
    found = rows(lab / way / "out")
    assert {name: row["status"] for name, row in found.items()} == {
        **dict.fromkeys(SLIDES, "written"),
        f"{FOLDER}/{BROKEN}": "failed",
    }
    assert rows(lab / way / "h5").keys() == found.keys()
    for name in SLIDES:
        stem = found[name]["summary"].removesuffix(".ozx")
        features = lab / way / "h5" / f"{stem}.h5"
        with open_summary(lab / way / "out" / f"{stem}.ozx") as summary:
            source = summary.record.source
        if way == "hash":
            assert re.fullmatch("[0-9a-f]{32}", stem)
            assert source.name == stem
        else:
            assert source.name == stem.partition(".")[0]
        assert (read_provenance(features) or {})["source"]["name"] == source.name


@pytest.mark.parametrize("way", WAYS)
def test_no_private_name_is_on_a_page_or_picture(lab: Path, way: str, tmp_path: Path):
    summaries = sorted((lab / way / "out").glob("*.ozx"))
    for number, summary in enumerate(summaries):
        wsisum("inspect", summary, "--image", tmp_path / f"{number}.png", "--html", tmp_path / f"{number}.html")
    wsisum("inspect", summaries[0], "--image", tmp_path / "map.png", "--map", "represented")
    for to in ("geojson", "h5", "patches", "report", "tiff"):
        wsisum("export", lab / way / "out", "--to", to, "-o", tmp_path / to)
    wsisum("report", lab / way / "out", "--html", tmp_path / "archive.html")
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in made} >= {".png", ".html"}
    assert len(made) >= 2 * len(summaries) + 2 + 5 * len(summaries)
    assert leaks(made) == []
    text = (tmp_path / "archive.html").read_text()
    assert "no summary, slide 3" in text
    assert all(path.stem in text for path in summaries)


def test_what_a_run_was_asked_for_is_not_on_the_page(lab: Path, tmp_path: Path):
    shutil.copytree(lab / "hash" / "out", tmp_path / "out")
    run = ("compress", lab / "in", "-o", tmp_path / "out", *options(lab, "hash"), *QUICK)
    assert wsisum(*run, "--include", f"*{PRIVATE[1]}*").returncode == 0
    wsisum("report", tmp_path / "out", "--html", tmp_path / "archive.html")
    assert leaks([tmp_path / "archive.html"]) == []


def test_the_key_is_in_no_file(lab: Path):
    made = [path for way in WAYS for path in (lab / way).rglob("*") if path.is_file()]
    assert any(path.suffix == ".jsonl" for path in made)
    for form in (KEY, KEY.hex().encode(), base64.b64encode(KEY)):
        assert not [path for path in made if form in bytes_of(path)]


@pytest.mark.parametrize(
    ("command", "way", "more"),
    [("compress", "hash", QUICK), ("features", "hash", (*QUICK[:2], "--check")), ("compress", "manifest", QUICK)],
)
def test_a_second_run_finds_everything_up_to_date(
    lab: Path, command: str, way: str, more: tuple[str, ...], tmp_path: Path
):
    made = tmp_path / "made"
    shutil.copytree(lab / way / {"compress": "out", "features": "h5"}[command], made)
    wsisum(command, lab / "in", "-o", made, *options(lab, way), *more)
    found = {name: (row["status"], row["reason"]) for name, row in rows(made).items()}
    assert {found[name] for name in SLIDES} == {("skipped", "up to date")}


def test_features_by_the_same_key_are_those_of_the_slide(lab: Path, tmp_path: Path):
    given = ("--features", lab / "hash" / "h5")
    wsisum("compress", lab / "in", "-o", tmp_path / "out", *options(lab, "hash"), *given, *QUICK)
    found = rows(tmp_path / "out")
    assert {found[name]["status"] for name in SLIDES} == {"written"}, found
    assert leaks(sorted((tmp_path / "out").glob("*.ozx"))) == []


def test_another_key_is_refused(lab: Path, tmp_path: Path):
    made = tmp_path / "made"
    shutil.copytree(lab / "hash" / "out", made)
    before = sorted(path.name for path in made.glob("*.ozx"))
    (tmp_path / "other.key").write_bytes(KEY[::-1])
    for naming in (("--name-by", "hash", "--name-key", tmp_path / "other.key"), ()):
        for run in (
            ("compress", lab / "in", "-o", made, *QUICK),
            ("compress", lab / "in", "-o", made, *QUICK, "--dry-run"),
            ("features", lab / "in", "-o", made, *QUICK[:2]),
            *([("status", made, lab / "in"), ("prune", made, "--source", lab / "in")] if naming else []),
        ):
            done = wsisum(*run, *naming)
            assert done.returncode == 2, (run, done.stderr)
            assert ("another one" if naming else "give --name-by hash") in done.stderr
    assert sorted(path.name for path in made.glob("*.ozx")) == before


def test_a_slide_without_a_name_is_never_written(lab: Path, tmp_path: Path):
    """A file without a name is looked into where its slides may have names; its other slides fail."""
    (tmp_path / "names.csv").write_text(f"slide,name\n{TWO}#2,study-2\n")
    naming = ("--name-by", "manifest", "--manifest", tmp_path / "names.csv")
    for command, more in (("compress", QUICK), ("features", QUICK[:2])):
        out = tmp_path / command
        done = wsisum(command, lab / "in", "-o", out, *naming, *more)
        assert done.returncode == 1
        found = {name: (row["status"], row["reason"]) for name, row in rows(out).items()}
        assert found.pop(SLIDES[2]) == ("written", "")
        assert set(found.values()) == {("failed", "no name in the manifest")}
        made = [path for path in out.rglob("*") if path.suffix in (".ozx", ".h5")]
        assert [path.stem for path in made] == ["study-2"]
    (tmp_path / "names.csv").write_text(f"slide,name\n{ONE}#1,study-1\n")  # it holds one slide
    done = wsisum("compress", lab / "in", "-o", tmp_path / "third", *naming, *QUICK)
    assert not list((tmp_path / "third").rglob("*.ozx"))
    assert {row["reason"] for row in rows(tmp_path / "third").values()} == {"no name in the manifest"}
    shown = json.loads(
        wsisum("compress", lab / "in", "-o", tmp_path / "4", *naming, *QUICK, "--dry-run", "--json").stdout
    )
    assert {row["status"] for row in shown["slides"]} == {"failed"}


@pytest.mark.parametrize("way", WAYS)
def test_the_state_of_such_a_folder_is_known(lab: Path, way: str):
    out, source = lab / way / "out", lab / "in"
    manifest = () if way == "hash" else ("--manifest", lab / "names.csv")
    for more in (manifest, options(lab, way)):
        found = json.loads(wsisum("status", out, source, *more, "--json").stdout)
        states = {slide["source"]: slide["state"] for slide in found["slides"]}
        assert states.keys() == {*SLIDES, f"{FOLDER}/{BROKEN}"}
        assert {states[name] for name in SLIDES} <= {"up to date", "in review"}
    done = wsisum("prune", out, "--source", source, *options(lab, way), "--json", "--dry-run")
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_slides_are_found_by_their_content(lab: Path, way: str, tmp_path: Path):
    found = wsisum(
        *("verify", lab / way / "out", "--source", lab / "in", "--json", "--encoder", "texture"),
        *("--plan", tmp_path / "plan.csv", "--require", "review"),
    )
    checked = json.loads(found.stdout)
    assert len(checked) == len(SLIDES)
    assert all(one["ok"] for one in checked), found.stdout
    assert BROKEN in found.stderr  # has no summary
    with open(tmp_path / "plan.csv", newline="") as file:
        plan = {row["slide"]: row["summary"].split(";") for row in csv.DictReader(file)}
    assert len(plan[f"{FOLDER}/{TWO}"]) == 2
    assert plan[f"{FOLDER}/{ONE}"] == [rows(lab / way / "out")[SLIDES[0]]["summary"]]


def test_shards_name_as_one_run_does(lab: Path, tmp_path: Path):
    for shard in ("1/2", "2/2"):
        wsisum("compress", lab / "in", "-o", tmp_path, *options(lab, "hash"), *QUICK, "--shard", shard)
    expected = {path.name: path.read_bytes() for path in (lab / "hash" / "out").glob("*.ozx")}
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.ozx")} == expected
    found = json.loads(wsisum("status", tmp_path, lab / "in", "--json").stdout)
    assert found["counts"]["orphaned"] == found["counts"]["new"] == 0


def test_settings_in_a_file_hold_for_every_command(lab: Path, tmp_path: Path):
    shutil.copytree(lab / "hash" / "out", tmp_path / "out")
    shutil.copy(lab / "name.key", tmp_path)
    (tmp_path / "wsisum.toml").write_text('name-by = "hash"\nname-key = "name.key"\n')
    config = ("--config", tmp_path / "wsisum.toml")
    wsisum(*config, "compress", lab / "in", "-o", tmp_path / "out", *QUICK)
    assert {rows(tmp_path / "out")[name]["reason"] for name in SLIDES} == {"up to date"}
    done = wsisum(*config, "prune", tmp_path / "out", "--source", lab / "in", "--json", "--dry-run")
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--name-by", "hash"), "expected a key as --name-key"),
        (("--name-key", "KEY"), "found --name-by stem"),
        (("--name-by", "manifest"), "expected a --manifest with a name for every slide"),
        (("--name-by", "hash", "--name-key", "INSIDE"), "would be given away with it"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    lab: Path, tmp_path: Path, arguments: tuple[str, ...], complaint: str
):
    inside = tmp_path / "out" / "name.key"
    inside.parent.mkdir()
    inside.write_bytes(KEY)
    places = {"KEY": lab / "name.key", "INSIDE": inside}
    given = [places.get(one, one) for one in arguments]
    done = wsisum("compress", lab / "in", "-o", tmp_path / "out", *given)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_names_are_not_asked_for_of_summaries(lab: Path, tmp_path: Path):
    """Their features take the names that they have; settings for slides do no harm."""
    summaries = lab / "hash" / "out"
    done = wsisum("features", summaries, "-o", tmp_path / "h5", "--encoder", "texture", "--name-by", "manifest")
    assert (done.returncode, "--name-by is for slides" in done.stderr) == (2, True), done.stderr
    (tmp_path / "wsisum.toml").write_text('name-by = "manifest"\n')
    done = wsisum("--config", tmp_path / "wsisum.toml", "features", summaries, "-o", tmp_path / "h5", *QUICK[:2])
    assert done.returncode == 0, done.stderr
    made = sorted((tmp_path / "h5").glob("*.h5"))
    assert [path.stem for path in made] == sorted(path.stem for path in summaries.glob("*.ozx"))
    assert leaks(made) == []
