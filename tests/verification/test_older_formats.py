"""Summaries of format 1.3, whose verdict compared patches with random draws alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from schema import VALIDATOR
from summaries import compress_drawn, shipped_encoder, sign_again, unpack, write_as

from wsisum_cli.pipeline.trim import trim_summary
from wsisum_cli.summary.inspection import inspect_summary
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.verification.finding import Verification
from wsisum_cli.verification.verify import verify_summary


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A drawn slide, a summary of it, and the same in format 1.3."""
    folder = tmp_path_factory.mktemp("drawn")
    found = compress_drawn(folder)
    return {**found, "older": write_as(folder / "older.ozx", found["jpeg"])}


def verify(path: Path, slide: Path | None = None) -> Verification:
    return verify_summary(path, lambda card: shipped_encoder(), "full" if slide is None else "source", slide)


def test_older_summary_is_valid_and_never_passes_by_itself(drawn):
    with open_summary(drawn["older"]) as summary:
        VALIDATOR.validate(summary.attributes)
        assert summary.record.verdict is not None
        assert summary.record.verdict.verdict == "PASS"  # as its program had it
        facts = inspect_summary(summary)
    assert facts.represented is None
    assert "verify it with --source" in facts.advice
    found = verify(drawn["older"])
    assert found.findings == []
    assert found.verdict is not None
    assert (found.verdict.verdict, len(found.verdict.reasons)) == ("REVIEW", 1)


def test_slide_gives_an_older_summary_the_verdict_of_a_new_one(drawn):
    older, newer = verify(drawn["older"], drawn["slide"]), verify(drawn["jpeg"], drawn["slide"])
    assert older.findings == newer.findings == []
    assert older.verdict is not None
    assert newer.verdict is not None
    assert older.verdict.representative == newer.verdict.representative
    assert older.measured["source_represented"] == newer.measured["source_represented"]


def test_older_summary_is_trimmed_within_its_format(drawn, tmp_path):
    done = trim_summary(drawn["older"], tmp_path / "a.ozx", 3)
    assert (done.patches, done.represented, done.verdict) == (3, None, "REVIEW")
    with open_summary(tmp_path / "a.ozx") as summary:
        VALIDATOR.validate(summary.attributes)
        assert (summary.record.format_version, summary.record.migrated_from) == ("2.0", "1.3")
    assert verify(tmp_path / "a.ozx").ok
    assert verify(tmp_path / "a.ozx", drawn["slide"]).ok


def test_yardstick_of_another_slide_is_found(drawn, tmp_path):
    """A lower cosine makes everything alike: the file agrees with itself, the slide does not."""

    def boast(attributes: dict[str, Any]) -> None:
        attributes["represented"] |= {
            "cosine": 0.0,
            "share": 1.0,
            "mm2": attributes["represented"]["tissue_mm2"],
            "region_count": 0,
            "regions": [],
            "needed": 1,
        }

    path = sign_again(tmp_path / "a.ozx", unpack(drawn["jpeg"]), boast)
    codes = {finding.code for finding in verify(path, drawn["slide"]).findings}
    assert codes & {"quality-differs"}
