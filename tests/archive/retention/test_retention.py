"""The whole plan: `wsisum verify --plan` over an archive."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from draw import draw_tissue, write_svs
from running import wsisum

from wsisum_cli.archive.retention.standing import COLD, KEEP
from wsisum_cli.archive.retention.table import ABOUT

LENIENT = ("--threshold", "represented=0/0", "--threshold", "largest_mm2=1000/1000", "--threshold", "chance=0/0")


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
    (root / "manifest.csv").write_text("slide,case,use\ntaught.svs,7,teaching\nold/copy.svs,8,routine\n")
    with open(root / "manifest.csv", "a") as file:
        file.writelines(f"{name}.svs,9,\n" for name in ("good", "damaged", "new", "broken", "link"))
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
    assert "not in the archive" not in said
    assert before == {path: path.read_bytes() for path in (archive / "archive").rglob("*") if path.is_file()}


def test_only_summaries_that_verify_accepts_are_for_cold_storage(archive):
    rows, _, _ = run_plan(archive)
    done = wsisum("verify", archive / "out", "--source", archive / "archive", "--json")
    enough = {found["path"] for found in json.loads(done.stdout) if found["enough"]}
    assert {row["summary"] for row in rows.values() if row["decision"] == COLD} == enough


def test_new_slides_are_kept(archive):
    rows, _, _ = run_plan(archive, *LENIENT, "--keep-newer", "1y")
    assert {row["decision"] for name, row in rows.items() if name} == {KEEP}
    assert rows["good.svs"]["reason"].startswith("newer than 1y, by the file")


def test_rows_that_match_nothing_end_the_plan_where_rules_need_them(archive):
    manifest, plan = archive / "more.csv", archive / "none.csv"
    manifest.write_text((archive / "manifest.csv").read_text() + "gone.svs,9,\n")
    base = ("verify", archive / "out", "--source", archive / "archive", "--plan", plan, "--manifest", manifest)
    done = wsisum(*base, "--keep-where", "use=teaching")
    assert done.returncode == 2
    assert "found 1 that match none, or several: gone.svs (no such file)" in done.stderr
    assert not done.stdout  # nothing was verified
    assert not plan.exists()


def test_summaries_that_were_left_out_are_no_missing_ones(archive):
    manifest = archive / "manifest.csv"
    rules = ("--manifest", manifest, "--keep-where", "use=teaching")
    rows, said, _ = run_plan(archive, "--include", "good.ozx", "--require", "review", *LENIENT, *rules)
    assert rows["good.svs"]["decision"] == COLD
    assert rows["taught.svs"]["decision"] == KEEP
    assert rows["taught.svs"]["reason"] == "left out by --include or --exclude: taught.ozx"
    assert rows["new.svs"]["reason"] == "no summary"
    assert "left out: 2 of 3 summaries" in said
    with open(archive / "plan.csv", newline="") as file:
        made = list(csv.DictReader(file))[-2]  # how it was made
    assert made["decision"] == ABOUT
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    for words in ("--require review", "--keep-where use=teaching", f"manifest.csv (sha256 {digest})", "chance 0/0"):
        assert words in made["reason"]
    assert str(archive) not in (archive / "plan.csv").read_text()


def test_a_summary_that_was_left_out_may_be_another_of_the_same_slide(archive):
    """Without rules, a row that matches nothing is a warning."""
    shutil.copy(archive / "out/good.ozx", archive / "out/second.ozx")
    (archive / "more.csv").write_text("slide,case\ngone.svs,9\nbroken.svs,8\n")
    options = ("--include", "good.ozx", "--require", "review", *LENIENT, "--manifest", archive / "more.csv")
    rows, said, _ = run_plan(archive, *options)
    (archive / "out/second.ozx").unlink()
    assert rows["good.svs"]["decision"] == KEEP
    assert "the manifest lists gone.svs, which is not in the archive (no such file)" in said
    assert "lists broken.svs" not in said


def test_settings_for_a_plan_are_idle_without_one(archive, tmp_path):
    settings = tmp_path / "wsisum.toml"
    settings.write_text(f"manifest = '{archive / 'manifest.csv'}'\n[verify]\nkeep-newer = '2y'\n")
    base = ("--config", settings, "verify", archive / "out/good.ozx", "--quick")
    done = wsisum(*base)
    assert "need --plan" not in done.stderr
    assert "settings:" not in done.stderr
    assert done.returncode in (0, 1)
    done = wsisum(*base, "--keep-newer", "3y")
    assert done.returncode == 2
    assert "need --plan" in done.stderr


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
