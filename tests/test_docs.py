"""The documentation says what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wsisum_cli import errors
from wsisum_cli.archive.report import STAGES
from wsisum_cli.summary import container
from wsisum_cli.summary.limits import claims, metadata
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


def test_what_is_generated_is_current():
    command = [sys.executable, ROOT / "docs" / "generate.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def help_pages() -> dict[str, str]:
    reference = CLI[CLI.index("<!-- generated: commands -->") :]
    return dict(re.findall(r"^### (wsisum[^\n]*)$\n\n```text\n(.*?)\n```", reference, flags=re.MULTILINE | re.DOTALL))


def test_no_line_of_help_is_cut_or_too_wide():
    pages = help_pages()
    assert {"wsisum compress", "wsisum models add", "wsisum train encoder"} <= set(pages)
    for name, text in pages.items():
        assert max(len(line.rstrip()) for line in text.splitlines() if "|" not in line) <= 80, name
        assert not [line for line in text.splitlines() if line.endswith("...") and not line.startswith("Usage")], name


def test_every_finding_is_documented():
    table = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning|info) \|", CLI, flags=re.MULTILINE))
    assert table == {code: severity for code, (severity, _) in CODES.items()}


def test_every_reason_of_an_outcome_is_documented():
    source = "".join(path.read_text() for path in (ROOT / "wsisum_cli").rglob("*.py"))
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    slide_errors = [c for c in classes if issubclass(c, errors.SlideError)]
    reasons = {c.reason for c in slide_errors if f"raise {c.__name__}" in source and c is not errors.TileError}
    assert not [reason for reason in reasons if reason not in section("compress")]
    assert all(f"`{stage}`" in section("compress") for stage in STAGES)


def test_every_wing_is_in_the_architecture():
    wings = {path.name for path in (ROOT / "wsisum_cli").iterdir() if (path / "__init__.py").is_file()}
    assert not [wing for wing in wings if f"`{wing}`" not in ARCHITECTURE]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    assert not [target for target in targets if not (path.parent / target).exists()]


def test_every_test_that_the_threat_model_names_exists():
    named = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", (ROOT / "docs/security.md").read_text())
    assert len(named) > 20
    assert not [name for path, name in named if f"\ndef {name}(" not in (ROOT / path).read_text()]


def test_every_promise_of_the_threat_model_names_a_test():
    text = (ROOT / "docs/security.md").read_text()
    promised = text[text.index("## What is promised") : text.index("## What is not promised")]
    assert not [part.splitlines()[0] for part in promised.split("\n### ")[1:] if "::test_" not in part]


def test_the_limits_of_the_threat_model_are_those_of_the_code():
    text = (ROOT / "docs/security.md").read_text()
    assert (container.MAX_MEMBERS, container.MAX_DIRECTORY, container.MAX_INFLATION) == (1_000, 1 << 20, 20)
    assert (metadata.MAX_BYTES, metadata.MAX_DEPTH) == (1 << 20, 32)
    assert (claims.MAX_RATIO, claims.TISSUE_BYTES, claims.FREE_TISSUE, claims.PX_PER_BYTE) == (20, 2, 20_000, 512)
    assert all(words in text for words in ("1,000; 1 MiB", "1 MiB; 32", "20,000", "20 times the file", "512 for each"))
