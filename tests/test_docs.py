"""The documentation says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wsisum_cli import errors
from wsisum_cli.archive.report import STAGES
from wsisum_cli.verification.finding import CODES

ROOT = Path(__file__).parents[1]
CLI = (ROOT / "docs/cli.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*.md")])


def section(command: str) -> str:
    """Its part of the page; the heading may go on with arguments."""
    found = re.search(rf"^## wsisum {command}(?: [A-Z\[][^\n]*)?$(.*?)(?=^## |\Z)", CLI, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, command
    return found[1]


COMMANDS = ["compress", "features", "inspect", "trim", "verify", "evaluate"]
COMMANDS += [f"models {name}" for name in ("list", "show", "add", "verify", "export", "import-wsisum")]
COMMANDS += [f"train {name}" for name in ("encoder", "slide-encoder", "summarizer")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented_and_no_other(command: str):
    shown = subprocess.run(
        [sys.executable, "-m", "wsisum_cli", *command.split(), "--help"], capture_output=True, text=True, check=True
    ).stdout
    offered = set(re.findall(r"(?<!\w)--[a-z][a-z0-9-]*", shown)) - {"--help"}
    rows = re.findall(r"^\| (`--[^|]*)\|", section(command), flags=re.MULTILINE)
    documented = {option for row in rows for option in re.findall(r"`(--[a-z0-9-]+)`", row)}
    assert documented == offered


def test_every_finding_is_documented():
    table = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning|info) \|", CLI, flags=re.MULTILINE))
    assert table == {code: severity for code, (severity, _) in CODES.items()}


def test_every_reason_of_an_outcome_is_documented():
    source = "".join(path.read_text() for path in (ROOT / "wsisum_cli").glob("*.py"))
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    slide_errors = [c for c in classes if issubclass(c, errors.SlideError)]
    reasons = {c.reason for c in slide_errors if f"raise {c.__name__}" in source and c is not errors.TileError}
    assert not [reason for reason in reasons if reason not in section("compress")]
    assert all(f"`{stage}`" in section("compress") for stage in STAGES)


def test_every_module_is_in_the_architecture():
    table = set(
        re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in ARCHITECTURE.splitlines() if line[:3] == "| `"))
    )
    modules = {path.stem for path in (ROOT / "wsisum_cli").rglob("*.py") if not path.stem.startswith("__")}
    assert table == modules


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    assert not [target for target in targets if not (path.parent / target).exists()]
