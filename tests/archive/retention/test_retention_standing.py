"""What one verified summary says of its slide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from records import base_attributes

from wsisum_cli.archive.retention.plan import judge
from wsisum_cli.archive.retention.standing import COLD, KEEP, MEASURED, REVIEW, standing_of
from wsisum_cli.quality.verdict import Thresholds, Verdict
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.verification.finding import Finding, Verification


def record(**changes: Any) -> Attributes:
    """Attributes with some values changed, `source__notes` for one within a section."""
    values = base_attributes()
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (values[section] if section else values)[name] = value
    return Attributes.model_validate(values)


def verified(verdict: str | None = "PASS", code: str = "", **changes: Any) -> Verification:
    found = [Finding(code, "is wrong")] if code else []
    reached = None if verdict is None else Verdict(verdict, "yes", "yes", ("12 % is not represented",))
    measured = {MEASURED: 1.0}
    return Verification("a.ozx", "source", "in/a.ozx", found, measured, reached, record(**changes))


def judged(*results: Verification, left: tuple[str, ...] = (), required: str = "PASS") -> tuple[str, str]:
    return judge(left, [standing_of(result, required, "ab" * 32) for result in results])


@pytest.mark.parametrize(
    ("summaries", "left", "required", "decision", "reason"),
    [
        ([verified("PASS")], (), "PASS", COLD, "PASS, intact, and compared with the slide"),
        ([verified("REVIEW")], (), "PASS", REVIEW, "REVIEW: 12 % is not represented"),
        ([verified("REVIEW")], (), "REVIEW", COLD, "REVIEW, intact"),
        ([verified("FAIL")], (), "REVIEW", KEEP, "FAIL: 12 %"),
        ([verified("PASS", "tissue-differs")], (), "PASS", KEEP, "in/a.ozx: is wrong"),
        ([verified(None)], (), "PASS", KEEP, "no verdict"),
        ([], ("a.svs",), "PASS", KEEP, "no summary"),
        ([verified("PASS")], ("a.svs#2",), "PASS", KEEP, "1 of its slides have no summary: a.svs#2"),
        ([verified("PASS"), verified("REVIEW")], (), "PASS", REVIEW, "REVIEW"),
        ([verified("REVIEW"), verified("FAIL")], (), "PASS", KEEP, "FAIL"),
    ],
)
def test_worst_summary_decides(summaries, left, required, decision, reason):
    found = judged(*summaries, left=left, required=required)
    assert found[0] == decision
    assert reason in found[1]


def test_a_summary_that_was_left_out_keeps_its_slide():
    found = judge((), [standing_of(verified(), "PASS", "ab" * 32)], ["b.ozx", "c.ozx"])
    assert found == (KEEP, "left out by --include or --exclude: b.ozx, c.ozx")


def test_thresholds_laxer_than_the_defaults_are_for_review():
    result = verified("PASS")
    result.by_default = Verdict("REVIEW", "no", "yes", ("90 % represented",))
    assert judged(result) == (REVIEW, "REVIEW by the default thresholds: 90 % represented")


def test_thresholds_of_the_user_are_named():
    result = verified("PASS")
    result.thresholds = Thresholds(limits={"represented": (0.5, 0.25)})
    assert judged(verified(), result)[1].endswith(", by thresholds other than the default: represented 0.5/0.25")


GIVEN = {
    "origin": "given",
    "encoder": "uni",
    "sha256": "ab" * 32,
    "left_out": 0,
    "patch_encoder_sha256": "ab" * 32,
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source__focal_plane": 2, "source__focal_planes": 3}, "focal plane 2 of 3 was read"),
        ({"source__notes": ["an area as large as 9% of the tissue is unexplained"]}, "9% of the tissue is unexplained"),
        ({"source__notes": ["something that a later version says"]}, "something that a later version says"),
        (
            {"source__mpp": 0.26, "source__mpp_stated": 0.25},
            "pixel size of 0.26 µm is used, though the file states 0.25 µm",
        ),
        ({"suspect": {"count": 40, "kinds": {"pen": 40}}}, "may be an artefact (40 pen)"),
        ({"broken_tiles": {"count": 2, "positions": []}}, "2 tiles of the slide cannot be read"),
        ({"options__mask_sha256": "ab" * 32}, "a mask chose the tissue"),
        ({"features": {**GIVEN, "tissue_share": 0.5}}, "the given features cover 50"),
    ],
)
def test_what_a_person_must_look_at_is_for_review(changes, reason):
    for required in ("PASS", "REVIEW"):
        decision, why = judged(verified(**changes), required=required)
        assert decision == REVIEW
        assert reason in why


def test_what_a_remark_says_is_said_once():
    note = "the manifest's pixel size of 0.5 µm is used, though the file states 0.25 µm (Aperio MPP)"
    assert judged(verified(source__mpp=0.5, source__mpp_stated=0.25, source__notes=[note])) == (REVIEW, note)


@pytest.mark.parametrize(
    "changes",
    [
        {"options__recompress": "jxl"},  # and stored as JPEG
        {"source__mpp": 0.2501, "source__mpp_stated": 0.25},
        {"suspect": {"count": 0, "kinds": {}}},
    ],
)
def test_harmless_remarks_do_not_keep_a_slide(changes):
    assert judged(verified(**changes))[0] == COLD


def test_a_harmless_remark_hides_no_other():
    found = judged(verified(options__recompress="jxl", source__notes=["level 3 is not used"]))
    assert found == (REVIEW, "level 3 is not used")


def test_tissue_that_nobody_measured_is_for_review():
    lost = verified("PASS", "features-not-recomputed")
    for result, reason in (
        (replace(lost, measured={}), "its encoder is not here, so nothing of the tissue was measured; give --encoder"),
        (
            replace(lost, measured={}, record=record(features=GIVEN)),
            "its features were given, so nothing of the tissue",
        ),
    ):
        decision, why = judged(result)
        assert decision == REVIEW
        assert why.startswith(reason)
        assert "is wrong" not in why  # the finding says the same


def test_findings_that_are_no_fault_are_for_review():
    assert judged(verified("PASS", "embedding-not-recomputed")) == (
        REVIEW,
        "the summarizer or slide encoder that made an embedding is not available: is wrong",
    )
