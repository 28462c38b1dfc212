"""What `verify` does for a plan, and how it shows results."""

from __future__ import annotations

from pathlib import Path

import pytest
from records import base_attributes

from wsisum_cli.archive.manifest import Manifest
from wsisum_cli.archive.retention.rules import Rules
from wsisum_cli.archive.retention.standing import COLD, KEEP, MEASURED
from wsisum_cli.commands.retention_plan import Planner
from wsisum_cli.commands.verify import Display
from wsisum_cli.quality.verdict import Verdict
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.verification.finding import Verification


def verified(verdict: str = "PASS") -> Verification:
    record = Attributes.model_validate(base_attributes())
    return Verification("a.ozx", "source", "a.ozx", [], {MEASURED: 1.0}, Verdict(verdict, "yes", "yes", ()), record)


def leave(path: Path) -> None:
    path.read_bytes()


def write(path: Path) -> None:
    path.write_bytes(b"longer than before")


@pytest.mark.parametrize(
    ("happens", "decision", "reason"),
    [
        (leave, COLD, ""),
        (Path.unlink, KEEP, "a.ozx: the summary cannot be read"),
        (write, KEEP, "a.ozx: the summary changed while it was checked; run again"),
    ],
)
def test_a_summary_must_stay_as_it_is_while_it_is_checked(tmp_path, happens, decision, reason):
    summary = tmp_path / "a.ozx"
    summary.write_bytes(b"summary")
    planner = Planner(tmp_path / "p.csv", Manifest(), Rules(), [])
    planner.begin(summary)
    happens(summary)
    planner.note(summary, verified())
    assert [(one.standing.decision, one.standing.reason) for one in planner.results] == [(decision, reason)]


def test_results_are_shown_one_by_one(capsys):
    display = Display("PASS", False, False, False)
    for count, verdict in enumerate(("PASS", "REVIEW"), 1):
        display.add(verified(verdict))
        assert capsys.readouterr().out.count("a.ozx: ok") == 1
        assert display.tally.total == count
    display.end()
    assert capsys.readouterr().out == "2 summaries, 2 ok, 0 not ok, 1 ok but below PASS\n"
    assert not display.tally.all_enough
