"""What `inspect`, `verify` and the plan say of verdicts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from draw import draw_tissue, write_svs
from running import wsisum
from summaries import LENIENT, tiny_contents, write_changed, write_tiny

from wsisum_cli.figures.words import guarantee_words, standing_lines
from wsisum_cli.quality.verdict import Verdict
from wsisum_cli.summary.attributes import Region, Represented
from wsisum_cli.summary.inspection import inspect_summary
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.summary.standing import explain, largest_mm2

PATCH = 0.016384  # mm²


def region(patches: int, x: int = 0) -> Region:
    mm2 = patches * PATCH
    return Region(patches=patches, mm2=mm2, x=x, y=64, width=64, height=64, nearest=0, cosine=0.4)


def represented(share: float, *regions: Region, needed: int | None = None, unread: int = 0) -> Represented:
    return Represented(
        share=share,
        mm2=share * 10,
        tissue_mm2=10.0,
        unread=unread,
        patch_mm2=PATCH,
        cosine=0.75,
        pairs=100,
        contrast=0.9,
        needed=needed,
        region_count=len(regions),
        regions=list(regions),
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.ozx")


# words


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((), "0.016 mm² or more has a look-alike among the kept patches"),
        ((4,), "0.016 mm² or more has a look-alike among the kept patches, except the area above"),
        ((9, 9, 4), "0.016 mm² or more has a look-alike among the kept patches, except the 3 areas above"),
        ((9, 8, 7, 2, 1), "0.049 mm² or more has a look-alike among the kept patches, except the 3 areas above"),
        ((2, 2, 2, 2), "0.049 mm² or more has a look-alike among the kept patches"),
    ],
)
def test_guarantee_names_its_exceptions(sizes, expected):
    section = represented(0.9, *map(region, sizes))
    assert guarantee_words(section) == f"every tissue area of {expected}"


REVIEWED = Verdict("REVIEW", "REVIEW", "PASS", ("because",))


def test_advice_names_what_is_missing_and_the_number_that_would_do(tiny):
    with open_summary(tiny) as summary:
        record = summary.record
    section = represented(0.88, region(24, 10240), region(2), needed=96)
    assert explain(record.model_copy(update={"represented": section}), REVIEWED) == (
        "12 % of the tissue (1.2 mm², largest area 0.39 mm² at 10240, 64) has no look-alike among the kept patches; "
        "--keep 96 would represent 95 %"
    )


@pytest.mark.parametrize(
    ("section", "verdict", "expected"),
    [
        (represented(0.88, region(9)), REVIEWED, "keep the slide if they matter"),
        (represented(0.6, region(9)), replace(REVIEWED, verdict="FAIL"), "and keep the slide"),
        (represented(0.2, unread=900), REVIEWED, "part of the slide cannot be read"),
        (represented(0.97), replace(REVIEWED, representative="PASS", well_chosen="REVIEW"), "more patches"),
        (represented(0.97).model_copy(update={"contrast": 0.5}), REVIEWED, "use another --encoder"),
        (represented(0.8, needed=96), replace(REVIEWED, well_chosen="FAIL"), "keep the slide, or compress"),
        (represented(0.99), replace(REVIEWED, verdict="FAIL"), "a larger --keep"),
        (None, REVIEWED, "compress the slide again"),
    ],
)
def test_advice_fits_the_cause(tiny, section, verdict, expected):
    with open_summary(tiny) as summary:
        record = summary.record.model_copy(update={"represented": section})
    assert expected in explain(record, verdict)


def test_advice_is_empty_for_a_pass(tiny):
    with open_summary(tiny) as summary:
        assert explain(summary.record, replace(REVIEWED, verdict="PASS")) == ""


def test_unread_tissue_is_an_exception_and_one_area():
    section = represented(0.8, region(4), unread=500)
    assert largest_mm2(section) == pytest.approx(500 * PATCH)
    assert guarantee_words(section).endswith("except the area above, and not counting what could not be read")


def test_lines_say_share_beside_random_patches(tiny):
    with open_summary(tiny) as summary:
        facts = inspect_summary(summary)
    facts = facts.model_copy(
        update={
            "represented": represented(0.9549, region(9, 512)),
            "random": {"represented": 0.86},
            "random_patches": 64,
        }
    )
    lines = standing_lines(facts, REVIEWED)
    assert lines["represented"] == "95.4 % of 10.0 mm² of tissue; 64 random patches: 86 %"
    assert lines["unrepresented"].startswith("0.45 mm² in 1 area: 0.15 mm² at 512, 64 (most like patch ")
    assert lines["because"] == "because"


# commands


def test_inspect_starts_with_the_verdict(tiny):
    done = wsisum("inspect", tiny)
    assert done.returncode == 0
    assert done.stdout.split(":")[0] in ("PASS", "REVIEW", "FAIL")
    assert "represented" in done.stdout
    assert "weighted cosine" not in done.stdout
    assert "(random " in wsisum("inspect", tiny, "--details").stdout


@pytest.mark.parametrize(
    ("threshold", "verdict", "codes"),
    [("chance=0/0", "REVIEW", {"pass": 1, "review": 0}), ("chance=100/100", "FAIL", {"pass": 1, "review": 1})],
)
def test_require_sets_the_exit_code(tiny, threshold, verdict, codes):
    for required, code in codes.items():
        options = [option for text in (*LENIENT, threshold) for option in ("--threshold", text)]
        done = wsisum("verify", tiny, *options, "--require", required, "--json")
        found = json.loads(done.stdout)
        assert found["verdict"]["verdict"] == verdict
        assert (done.returncode, found["required"], found["enough"]) == (code, required.upper(), code == 0)
    assert wsisum("verify", tiny, *options).returncode == codes["pass"]


def test_quick_reads_the_recorded_verdict(tiny):
    found = json.loads(wsisum("verify", tiny, "--quick", "--json").stdout)
    with open_summary(tiny) as summary:
        recorded = summary.record.verdict
    assert recorded is not None
    assert found["verdict"]["verdict"] == recorded.verdict


def test_explain_gives_all_three_answers(tiny):
    done = wsisum("verify", tiny, "--explain")
    for answer in ("intact: yes", "representative: ", "well chosen: ", "verdict: ", "what to do: "):
        assert answer in done.stdout


def test_summaries_in_folders_are_named_by_their_path(tiny, tmp_path):
    for name in ("a/x.ozx", "b/x.ozx"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(tiny, tmp_path / name)
    done = wsisum("verify", tmp_path, "--json")
    assert [found["path"] for found in json.loads(done.stdout)] == ["a/x.ozx", "b/x.ozx"]
    assert "b/x.ozx: ok" in wsisum("verify", tmp_path).stdout


def test_file_without_a_verdict_is_never_enough(tmp_path):
    lost = ("summarizer", "slide_encoder", "draws", "verdict", "guarantee", "trimmed_from", "represented")
    contents = tiny_contents()
    names = {"coverage", "coverage_p05", "coverage_min", "weighted_cosine"}
    quality = contents.attributes.quality.model_dump(include=names)
    write_changed(tmp_path / "old.ozx", contents, {"migrated_from": "1.0", "quality": quality}, lost)
    done = wsisum("verify", tmp_path / "old.ozx")
    assert done.returncode == 1
    assert "no verdict" in done.stdout


def test_lenient_thresholds_of_a_summary_are_not_enough(tmp_path):
    slide = tmp_path / "a.svs"
    write_svs(slide, draw_tissue(1800, 1500, 1))
    options = [option for text in ("represented=0/0", "chance=0/0") for option in ("--threshold", text)]
    command = ["compress", slide, "-o", tmp_path / "out", "--encoder", "texture", "--draws", 100, "--keep", 1, *options]
    assert wsisum(*command).returncode == 0
    summary = tmp_path / "out" / "a.ozx"
    found = json.loads(wsisum("verify", summary, "--json").stdout)
    assert (found["verdict"]["verdict"], found["enough"]) == ("PASS", False)
    done = wsisum("verify", summary)
    assert done.returncode == 1
    assert "by the default ones REVIEW" in done.stdout or "by the default ones FAIL" in done.stdout
    assert wsisum("verify", summary, *options).returncode == 0


# plans


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for seed in (1, 2):
        write_svs(folder / f"slide-{seed}.svs", draw_tissue(1800, 1500, seed))
    return folder


def test_plan_says_what_makes_slides_again_and_thresholds_never_do(archive, tmp_path):
    command = ["compress", archive, "-o", tmp_path, "--encoder", "texture", "--draws", 100]
    assert wsisum(*command).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.ozx")}
    again = wsisum(*command, "--threshold", "represented=1.0/1.0", "--threshold", "chance=100/100", "--json")
    report = json.loads(again.stdout)
    assert report["counts"]["skipped"] == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.ozx")} == before
    assert "made again" not in again.stderr
    dry = wsisum(*command, "--keep", 5, "--dry-run")
    assert "made again: 2 slides, keep default -> 5" in dry.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.ozx")} == before


def test_report_judges_summaries_that_are_up_to_date_by_this_runs_thresholds(archive, tmp_path):
    command = ["compress", archive, "-o", tmp_path, "--encoder", "texture", "--draws", 100, "--keep", 1, "--json"]
    first = json.loads(wsisum(*command, "--threshold", "represented=0/0").stdout)["slides"]
    then = json.loads(wsisum(*command, "--threshold", "represented=1.0/1.0").stdout)["slides"]
    assert [row["status"] for row in then] == ["skipped"] * 2
    assert [row["represented"] for row in first] == [row["represented"] for row in then]
    assert all(row["verdict"] == "FAIL" for row in then if row["represented"] < 1)
