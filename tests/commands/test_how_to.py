"""The how-to pages: every block of commands runs as it stands, on a small archive."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import minisign
import pytest
from draw import draw_tissue, write_svs
from running import write_program, wsisum

from wsisum_cli.archive.state.shard import Shard
from wsisum_cli.slides.source import find_source

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the pages give commands of bash")
DOCS = Path(__file__).parents[2] / "docs"
LABEL = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r'"""\n(.*?)"""', re.DOTALL)  # of a Nextflow process
SHARDS = 16


def blocks(page: str) -> list[str]:
    """The blocks of commands of a page, without prompts."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return [re.sub(r"^\$ ", "", block, flags=re.MULTILINE) for block in LABEL.findall(text)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive, its summaries, a manifest, and the program on the path."""
    folder = tmp_path_factory.mktemp("lab")
    for number, name in enumerate(("B12", "C7")):
        (folder / "archive").mkdir(exist_ok=True)
        write_svs(folder / f"archive/{name}.svs", draw_tissue(1536, 1280, seed=number), tile=256)
    (folder / "manifest.csv").write_text("slide,use,date\nB12.svs,teaching,\n")
    done = wsisum("compress", folder / "archive", "-o", folder / "summaries")
    assert done.returncode == 0, done.stderr
    for name in ("B12.ozx", "B12.svs"):  # the pages look at one slide from where it lies
        shutil.copy(folder / ("summaries" if name.endswith("ozx") else "archive") / name, folder / name)
    program = folder / "bin/wsisum"
    program.parent.mkdir()
    write_program(program)
    return folder


def bash(lab: Path, commands: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{lab / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(lab / "cache"), **variables}
    command = ["bash", "-c", commands]
    return subprocess.run(command, cwd=lab, env=environment, capture_output=True, text=True, timeout=120, check=False)


def shard_with_a_slide() -> int:
    return next(number for number in range(1, SHARDS + 1) if Shard(number, SHARDS).holds("B12.svs"))


@pytest.mark.parametrize(("page", "source", "output"), [("state", "/", "/"), ("clusters", "/data/", "/data/")])
def test_a_shard_of_an_array_job_runs(lab: Path, tmp_path: Path, page: str, source: str, output: str):
    (block,) = [block for block in blocks(page) if "SLURM_ARRAY_TASK_ID" in block]
    commands = block.replace(f"{source}archive", str(lab / "archive")).replace(f"{output}summaries", str(tmp_path))
    done = bash(lab, commands, SLURM_ARRAY_TASK_ID=str(shard_with_a_slide()))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "B12.ozx").read_bytes() == (lab / "summaries/B12.ozx").read_bytes()


def test_the_processes_of_nextflow_run(lab: Path, tmp_path: Path):
    text = (DOCS / "clusters.md").read_text(encoding="utf-8")
    values = {"archive": lab / "archive", "summaries": tmp_path / "out", "shards": SHARDS}
    compress, report = SCRIPT.findall(text[text.index("```groovy") :])
    for number in (shard_with_a_slide(), shard_with_a_slide() % SHARDS + 1):
        commands = re.sub(r"\$\{(\w+)\}", lambda name: str({**values, "shard": number}[name[1]]), compress)  # noqa: B023
        assert bash(lab, commands).returncode == 0
    report = re.sub(r"\$\{\w+\}", str(tmp_path / "out"), report).replace(r"\$", "$")  # as Groovy does
    done = bash(tmp_path, f"export PATH={lab / 'bin'}:$PATH;" + report)
    assert done.returncode == 0, done.stderr  # though only two of the shards ran here
    assert f"and {SHARDS - 12} more not reported" in done.stdout
    assert "B12.svs" in (tmp_path / "archive.html").read_text(encoding="utf-8")


def test_a_retention_plan_is_made_and_checked(lab: Path):
    plan, rules, checksum, _ = blocks("retention")
    for commands in (plan, rules):
        done = bash(lab, commands)
        assert done.returncode == 0, done.stderr
        assert "B12.svs" in (lab / "plan.csv").read_text()
    assert "use is teaching" in (lab / "plan.csv").read_text()
    assert bash(lab, checksum).returncode == 0
    (lab / "plan.csv").write_text((lab / "plan.csv").read_text().replace("B12.svs", "B13.svs", 1))
    assert bash(lab, checksum).returncode == 1


def test_the_files_of_a_slide_give_its_sha256(tmp_path: Path):
    """As the page says, for a slide of several files; its pixels do not matter."""
    folder = tmp_path / "archive/scan"
    folder.mkdir(parents=True)
    for number, name in enumerate(("scan.mrxs", "scan/Slidedat.ini", "scan/Data0010.dat", "scan/Data0002.dat")):
        (folder.parent / name).write_bytes(bytes([number]) * 9)
    page = (DOCS / "retention.md").read_text(encoding="utf-8")
    (tmp_path / "files_of.py").write_text(page[page.index("```python\n") + 10 :].partition("```")[0])
    listing, joined = blocks("retention")[-1].splitlines()
    done = bash(tmp_path, listing.replace("python ", f"{sys.executable} "))
    digest, *files = done.stdout.splitlines()
    assert [Path(file).name for file in files] == ["scan.mrxs", "Data0002.dat", "Data0010.dat", "Slidedat.ini"]
    assert digest == bash(tmp_path, joined).stdout.split()[0]
    assert digest == find_source(folder.parent / "scan.mrxs").sha256


def test_likeness_is_searched(lab: Path):
    for block in blocks("duplicates"):
        for line in block.splitlines():
            done = bash(lab, line)
            assert done.returncode == 0, (line, done.stderr)
    assert (lab / "like.png").is_file()


def test_summaries_are_signed_and_checked(lab: Path, tmp_path: Path):
    (block,) = [block for block in blocks("security") if "--sign" in block]
    pair = minisign.KeyPair.generate()
    (lab / "archive.pub").write_bytes(bytes(pair.public_key) + b"\n")
    with pair.secret_key as key:
        (lab / "archive.key").write_bytes(bytes(key) + b"\n")
    lines = block.replace("compress slides", "compress archive").replace("summaries", str(tmp_path)).splitlines()
    assert [line.split()[0] for line in lines] == ["pip", "minisign", "wsisum", "wsisum"]  # the keys were made above
    assert bash(lab, lines[2]).returncode == 0
    verified = bash(lab, f"{lines[3]} --require review --json")
    assert verified.returncode == 0, verified.stderr
    assert {result["signed"] for result in json.loads(verified.stdout)} == {True}


def test_settings_on_the_page_are_those_of_commands(tmp_path: Path):
    text = (DOCS / "running.md").read_text(encoding="utf-8")
    naming, settings = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "name.key").write_bytes(bytes(32))
    (tmp_path / "wsisum.toml").write_text(naming + settings)
    done = wsisum("--config", tmp_path / "wsisum.toml", "config", "compress")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("workers", "keep", "exclude", "output", "name-by", "name-key"))


def test_outputs_get_names_that_say_nothing(lab: Path, tmp_path: Path):
    (block,) = [block for block in blocks("running") if "--name-by" in block]
    (tmp_path / "names.csv").write_text("slide,name\nB12.svs,study-1\nC7.svs,study-2\n")
    for number, line in enumerate(block.splitlines()):
        command = line.replace("/secure", str(tmp_path)).replace("compress slides", "compress archive")
        command = command.replace("names.csv", str(tmp_path / "names.csv"))
        done = bash(lab, command.replace("-o summaries", f"-o {tmp_path / str(number)}"))
        assert done.returncode == 0, done.stderr
    by_hash, by_manifest = (sorted(path.name for path in (tmp_path / place).glob("*.ozx")) for place in "12")
    assert [len(name) for name in by_hash] == [36, 36]
    assert by_manifest == ["study-1.ozx", "study-2.ozx"]
