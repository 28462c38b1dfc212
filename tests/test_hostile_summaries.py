"""Summaries made to do harm, opened by every command: none takes long, or much memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from bombs import BOMBS, Bomb, write_bomb
from running import python
from summaries import write_tiny

MOST_SECONDS, MOST_BYTES = 5, 500e6  # of processor time for one command, and of memory for all of them

#: Runs every command that opens a summary in one process, and prints what each took and gave.
EVERY_COMMAND = """
import contextlib, io, json, os, resource, sys, time
from pathlib import Path
from wsisum_cli.commands.main import app
from wsisum_cli.errors import WsisumError

path = Path(sys.argv[1])
out = path.parent / "out"
COMMANDS = {
    "inspect": ["inspect", path],
    "inspect --json": ["inspect", path, "--json"],
    "inspect --html": ["inspect", path, "--html", out / "page.html"],
    "inspect --map": ["inspect", path, "--map", "represented", "--image", out / "map.png"],
    "verify": ["verify", path],
    "verify --quick": ["verify", path, "--quick"],
    "trim": ["trim", path, "--keep", "2", "-o", out / "trimmed"],
    "migrate": ["migrate", path, "-o", out / "migrated"],
    "export zarr": ["export", path, "--to", "zarr", "-o", out / "exported"],
    "export tiff": ["export", path, "--to", "tiff", "-o", out / "exported"],
    "report": ["report", path.parent],
    "report --html": ["report", path.parent, "--html", out / "archive.html"],
}
out.mkdir()
found = {}
for name, arguments in COMMANDS.items():
    began, said = time.process_time(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = app([str(part) for part in arguments], standalone_mode=False)
        except WsisumError as error:
            print(error)
            code = 2
    found[name] = {"code": code, "seconds": time.process_time() - began, "said": said.getvalue()}
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"commands": found, "memory": memory}))
"""

posix = pytest.mark.skipif(os.name != "posix", reason="measures memory by resource")


def run_every_command(path: Path) -> dict[str, Any]:
    done = python(EVERY_COMMAND, path, cwd=path.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


#: Commands that read every byte, and refuse what any other might not look at.
STRICT = ("verify", "trim", "migrate", "export zarr", "export tiff")


def assert_refused(path: Path) -> None:
    found = run_every_command(path)
    for name, outcome in found["commands"].items():
        assert outcome["seconds"] < MOST_SECONDS, (name, outcome["seconds"])
        assert "Traceback" not in outcome["said"], name
        assert outcome["code"] in ((1,) if name in STRICT else (0, 1)), (name, outcome["said"][:500])
    assert found["memory"] < MOST_BYTES
    made = {at.name for at in (path.parent / "out").rglob("*") if at.is_file()}
    assert made <= {"page.html", "map.png", "archive.html"}


@posix
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_by_every_command(tmp_path: Path, bomb: Bomb):
    assert_refused(write_bomb(bomb, tmp_path / "bomb.ozx", write_tiny(tmp_path / "tiny")))


@posix
@pytest.mark.parametrize("name", ["tissue8M.ozx", "CRASH_109208_3_1213.ozx"])
def test_files_found_by_attack_are_refused_by_every_command(shared: Path, tmp_path: Path, name: str):
    (tmp_path / name).write_bytes((shared / "problems/hostile" / name).read_bytes())
    assert_refused(tmp_path / name)
