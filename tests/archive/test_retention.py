"""Retention plans: what may leave fast storage, and why."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import time
from datetime import date, timedelta
from pathlib import Path

import pytest
from draw import draw_tissue, write_svs
from running import wsisum

from wsisum_cli.archive.manifest import Entry, Manifest, read_manifest
from wsisum_cli.archive.retention import (
    ABOUT,
    COLD,
    DISCLAIMER,
    KEEP,
    REVIEW,
    Row,
    Rules,
    abouts_of,
    judge,
    kept_by_rules,
    parse_age,
    parse_where,
    plan_table,
    refuse_other_file,
)
from wsisum_cli.errors import UsageError
from wsisum_cli.quality.verdict import Verdict
from wsisum_cli.slides.source import find_source
from wsisum_cli.verification.finding import Finding, Verification

TODAY = date(2026, 6, 1)
LENIENT = ("--threshold", "represented=0/0", "--threshold", "largest_mm2=1000/1000", "--threshold", "chance=0/0")


def verified(verdict: str | None, code: str = "") -> Verification:
    found = [Finding(code, "is wrong")] if code else []
    reached = None if verdict is None else Verdict(verdict, "yes", "yes", ["12 % is not represented"])
    return Verification("a.ozx", "source", "in/a.ozx", found, verdict=reached)


@pytest.mark.parametrize(
    ("summaries", "left", "required", "decision", "reason"),
    [
        ([verified("PASS")], [], "PASS", COLD, "PASS, intact, and compared with the slide"),
        ([verified("REVIEW")], [], "PASS", REVIEW, "REVIEW: 12 % is not represented"),
        ([verified("REVIEW")], [], "REVIEW", COLD, "REVIEW, intact"),
        ([verified("FAIL")], [], "REVIEW", KEEP, "FAIL: 12 %"),
        ([verified("PASS", "tissue-differs")], [], "PASS", KEEP, "in/a.ozx: is wrong"),
        ([verified(None)], [], "PASS", KEEP, "no verdict"),
        ([], ["a.svs"], "PASS", KEEP, "no summary"),
        ([verified("PASS")], ["a.svs#2"], "PASS", KEEP, "1 of its slides have no summary: a.svs#2"),
        ([verified("PASS"), verified("REVIEW")], [], "PASS", REVIEW, "REVIEW"),
        ([verified("REVIEW"), verified("FAIL")], [], "PASS", KEEP, "FAIL"),
    ],
)
def test_worst_summary_decides(summaries, left, required, decision, reason):
    found = judge(left, summaries, required)
    assert found[0] == decision
    assert reason in found[1]


def test_thresholds_laxer_than_the_default_are_for_review():
    result = verified("PASS")
    result.by_default = Verdict("REVIEW", "no", "yes", ["90 % represented"])
    assert judge([], [result], "PASS") == (REVIEW, "REVIEW by the default thresholds: 90 % represented")


def write_slide(folder: Path, days: int) -> Path:
    path = folder / "a.svs"
    path.write_bytes(b"x")
    when = time.mktime((TODAY - timedelta(days=days)).timetuple())
    os.utime(path, (when, when))
    return path


@pytest.mark.parametrize(
    ("days", "about", "why"),
    [
        (800, {}, None),
        (700, {}, "newer than 732 days, by the file"),
        (700, {"date": "2020-01-01"}, None),
        (9000, {"date": "2026-01-01"}, "newer than 732 days, by the date in the manifest"),
        (9000, {"date": "2026-01-01T10:00:00"}, "by the date in the manifest"),
        (9000, {"date": "last year"}, "the date 'last year' is not a date"),
        (9000, {"use": " Teaching "}, "use is teaching"),
        (9000, {"use": "routine"}, None),
        (9000, {"Date": "2026-01-01"}, "by the date in the manifest"),
    ],
)
def test_rules_keep_a_slide(tmp_path, days, about, why):
    rules = Rules("PASS", parse_age("2y"), [("use", "teaching")])
    found = next(kept_by_rules(find_source(write_slide(tmp_path, days)), about, rules, TODAY), None)
    assert (found is None) if why is None else (found is not None and why in found)


@pytest.mark.parametrize("text", ["2", "y", "2 years", "-1y", "2h", "", "2100y"])
def test_age_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--keep-newer"):
        parse_age(text)


def test_condition_on_a_column_that_is_not_there_is_refused():
    manifest = Manifest(columns=("use",))
    assert parse_where(["use=teaching=1"], manifest) == [("use", "teaching=1")]
    for text in ("use", "=x", "use=", "case=7"):
        with pytest.raises(UsageError, match="--keep-where"):
            parse_where([text], manifest)


def test_plan_carries_its_own_sha256():
    rows = [Row('b#1, "x"\n.svs', KEEP, "no summary", about={"case": "7"})]
    table = plan_table(rows, ["case"], TODAY)
    body, last = table[: table.rstrip(b"\n").rindex(b"\n") + 1], table.rstrip(b"\n").rsplit(b"\n", 1)[1]
    found = list(csv.DictReader(io.StringIO(table.decode())))
    assert found[0]["slide"] == rows[0].slide
    assert found[0]["case"] == "7"
    assert found[-1]["decision"] == ABOUT
    assert found[-1]["reason"] == DISCLAIMER
    assert found[-1]["sha256"] == hashlib.sha256(body).hexdigest()
    assert last.startswith(b",about this plan,")


def test_rules_hold_for_slides_of_a_file_too():
    columns = ["use", "case"]
    entries = {
        "in/a.czi#2": Entry(about={"use": "teaching", "case": "7"}),
        "a.czi": Entry(about={"use": "", "case": "8"}),
    }
    manifest = Manifest(entries, set(entries), columns)
    assert [about["case"] for about in abouts_of("in/a.czi", manifest)] == ["8", "7"]
    assert not manifest.unused


@pytest.mark.parametrize("content", [b"II*\0", b"slide,mpp\n"])
def test_plan_never_replaces_another_file(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="expected a plan, or a new file"):
        refuse_other_file(path)
    with pytest.raises(UsageError, match=r"ending in \.csv"):
        refuse_other_file(tmp_path / "a.svs")
    path.write_bytes(plan_table([], [], TODAY))
    refuse_other_file(path)


def test_manifest_keeps_own_columns_and_refuses_misspelt_ones(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("slide,case,mpp,date\na.svs,7,0.5,2020-01-01\n")
    manifest = read_manifest(path)
    assert list(manifest.columns) == ["case", "date"]
    assert manifest.entry(Path("a.svs")).about == {"case": "7", "date": "2020-01-01"}
    for header in ("slide,MPP", "slide,names", "slide,mmp", "slide,Slide", "slide,case,case", "case", "slide,"):
        path.write_text(f"{header}\na.svs,1\n")
        with pytest.raises(UsageError, match=r"m\.csv: expected"):
            read_manifest(path)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slides, one of them twice; three of them with summaries, one of those damaged; and a file that is none."""
    root = tmp_path_factory.mktemp("plan")
    slides = root / "archive"
    (slides / "old").mkdir(parents=True)
    for name, seed in (("good", 1), ("taught", 2), ("damaged", 3), ("new", 4)):
        write_svs(slides / f"{name}.svs", draw_tissue(2400, 2100, seed=seed), tile=256)
    shutil.copy(slides / "good.svs", slides / "old" / "copy.svs")
    (slides / "broken.svs").write_bytes(b"no slide")
    (slides / "link.svs").symlink_to(slides / "nowhere.svs")
    options = ("--encoder", "texture", "--mpp", "0.25", "--keep", "12", *LENIENT)
    for name in ("good", "taught", "damaged"):
        done = wsisum("compress", slides / f"{name}.svs", "-o", root / "out", *options)
        assert done.returncode == 0, done.stderr
    damaged = bytearray((root / "out" / "damaged.ozx").read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (root / "out" / "damaged.ozx").write_bytes(damaged)
    (root / "manifest.csv").write_text("slide,case,use\ntaught.svs,7,teaching\nold/copy.svs,8,routine\ngone.svs,9,\n")
    return root


def run_plan(archive: Path, *options: object) -> tuple[dict[str, dict[str, str]], str, int]:
    plan = archive / "plan.csv"
    done = wsisum("verify", archive / "out", "--source", archive / "archive", "--plan", plan, *options)
    assert plan.exists(), done.stderr
    with open(plan, newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}, done.stderr, done.returncode


def test_plan_lists_every_slide_with_a_reason(archive):
    before = {path: path.read_bytes() for path in (archive / "archive").rglob("*") if path.is_file()}
    rows, said, code = run_plan(
        archive, "--require", "review", *LENIENT, "--manifest", archive / "manifest.csv", "--keep-where", "use=teaching"
    )
    assert code == 1
    decisions = {name: row["decision"] for name, row in rows.items()}
    assert decisions == {
        "": ABOUT,
        "broken.svs": KEEP,
        "damaged.svs": KEEP,
        "good.svs": COLD,
        "link.svs": KEEP,
        "new.svs": KEEP,
        "old/copy.svs": COLD,
        "taught.svs": KEEP,
    }
    assert rows["taught.svs"]["reason"] == "use is teaching"
    assert "by thresholds other than the default: chance 0/0" in rows["good.svs"]["reason"]
    assert rows["new.svs"]["reason"] == "no summary"
    assert rows["old/copy.svs"]["case"] == "8"
    good = rows["good.svs"]
    assert good["sha256"] == hashlib.sha256((archive / "archive/good.svs").read_bytes()).hexdigest()
    assert good["summary"] == "good.ozx"
    assert good["summary_sha256"] == hashlib.sha256((archive / "out/good.ozx").read_bytes()).hexdigest()
    assert good["verdict"] in ("PASS", "REVIEW")
    assert 0 < float(good["represented"]) <= 1
    assert "2 slides" in said
    assert "gone.svs, which is not in the archive" in said
    assert before == {path: path.read_bytes() for path in (archive / "archive").rglob("*") if path.is_file()}


def test_only_summaries_that_verify_accepts_are_for_cold_storage(archive):
    rows, _, _ = run_plan(archive)
    done = wsisum("verify", archive / "out", "--source", archive / "archive", "--json")
    enough = {found["path"] for found in json.loads(done.stdout) if found["enough"]}
    assert {row["summary"] for row in rows.values() if row["decision"] == COLD} == enough


def test_new_slides_are_kept(archive):
    rows, _, _ = run_plan(archive, *LENIENT, "--keep-newer", "1y")
    assert {row["decision"] for name, row in rows.items() if name} == {KEEP}
    assert rows["good.svs"]["reason"].startswith("newer than 366 days")


def test_options_that_need_each_other(archive, tmp_path):
    out, slides = archive / "out", archive / "archive"
    for options, said in (
        (["--plan", tmp_path / "p.csv"], "needs the archive as --source"),
        (["--source", slides, "--keep-newer", "2y"], "need --plan"),
        (
            ["--source", slides, "--plan", tmp_path / "p.csv", "--keep-where", "use=x"],
            "expected a column of the manifest",
        ),
        (["--source", slides, "--plan", tmp_path / "none" / "p.csv"], "cannot be written"),
    ):
        done = wsisum("verify", out, *options)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
