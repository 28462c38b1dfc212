"""What a run over an archive prints at its end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from summaries import write_tiny

from wsisum_cli.archive.manifest import Entry, Manifest
from wsisum_cli.archive.outcome import Outcome
from wsisum_cli.archive.plan import Request
from wsisum_cli.archive.run import Run
from wsisum_cli.archive.state.catalogue import build_catalogue
from wsisum_cli.archive.state.ledger import Ledger
from wsisum_cli.archive.state.shard import Shard
from wsisum_cli.archive.workers import Setup
from wsisum_cli.commands import runs
from wsisum_cli.pipeline.job import Options


def finished(output: Path, *outcomes: Outcome, **changes: Any) -> Run:
    """A run that has written its report, or tried to."""
    run = Run(Request(output, output, Options(), "", **changes), Setup(Options(), "e", "cpu", 1, output))
    run.outcomes += outcomes
    run.ledger = Ledger(output, "summary")
    run.ledger.finish(run.outcomes, {}, [])
    return run


def printed(run: Run, capsys: pytest.CaptureFixture[str]) -> list[str]:
    running: Any = SimpleNamespace(as_json=True, quiet=True)
    runs.show_results(run, running)
    return [row["source"] for row in json.loads(capsys.readouterr().out)["slides"]]


def test_the_report_of_an_earlier_run_is_never_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert printed(finished(tmp_path, Outcome("old.svs", "written")), capsys) == ["old.svs"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsisum_cli.archive.state.ledger.write_report", refuse)
        run = finished(tmp_path, Outcome("new.svs", "written"))
    assert "No space left" in run.ledger.trouble
    assert printed(run, capsys) == ["new.svs"]


def refuse(*_values: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_summary_that_loses_its_row_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a.ozx", "b.ozx"):
        write_tiny(tmp_path / name)
    build_catalogue(tmp_path)
    (tmp_path / "b.ozx").write_bytes(b"PK")
    run = finished(tmp_path)
    run.update_catalogue()
    runs.warn_of_state(run)
    assert "b.ozx: has no row in the catalogue: b.ozx" in capsys.readouterr().err


@pytest.mark.parametrize(("shard", "said"), [(None, True), (Shard(1, 2), False)])
def test_slides_of_other_shards_are_not_called_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shard: Shard | None, said: bool
):
    """Whether a file has a second slide is known to the shard that opens it."""
    manifest = Manifest({"a.svs#2": Entry(mpp=0.5)}, {"a.svs#2"})
    runs.warn_of_manifest(manifest, [], Request(tmp_path, tmp_path, Options(), "", shard=shard))
    assert ("the manifest lists a.svs#2" in capsys.readouterr().err) is said


def test_commands_print_json_that_no_terminal_acts_on():
    """Names in it are what anybody chose: `plain_json` escapes what could drive a terminal."""
    sources = list(Path(runs.__file__).parent.rglob("*.py"))
    assert sources
    assert not [path.name for path in sources if "ensure_ascii=False" in path.read_text()]
