"""Files made to do harm: each ends soon, in little memory, with the outcome that a person would give it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from running import python

from wsisum_cli.slides.jpeg import holds_only_pixels
from wsisum_cli.slides.slide import open_pyramid

MOST_SECONDS, MOST_BYTES = 15, 1.5e9  # of processor time, of which starting takes 3
HANGS = 300.0  # s by the clock

#: Slides: status, reason, and what the message says of them.
SLIDES = {
    "loop_generic.tif": ("failed", "unreadable", "its pages lead in a ring"),
    "canvas_odd.svs": ("failed", "unreadable", "tiles of 8191 x 8191 px"),
    "omeplanes.ome.tif": ("failed", "unreadable", "it tells of 6000000000 planes"),
    "j2kbomb64k.svs": ("failed", "broken tiles", "it is an image of 65535 x 65535 px"),
    "lercbomb.tif": ("failed", "broken tiles", "it is an image of 16384 x 16384 px"),
}

#: Summaries: codes of the errors, and what their messages say.
SUMMARIES = {
    "white_patches.ozx": (
        {"card-differs", "features-differ", "overview-differs"},
        "the card of the encoder is not that of the model",
    ),
    "overview_black.ozx": ({"overview-differs", "ome-differs"}, "the overview does not show what patch"),
    "tissue_hidden.ozx": ({"tissue-differs"}, "the tissue map leaves out tissue"),
    "tissue8M.ozx": ({"attributes"}, "8000000 tissue patches are more than the overview has px"),
    "CRASH_109208_3_1213.ozx": ({"coords-outside"}, "1 patches reach beyond the slide"),
}


MEASURED = """
import atexit, resource, runpy, sys
sys.argv[0] = "wsisum"
WHOSE = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
USED = lambda: [resource.getrusage(who) for who in WHOSE]
atexit.register(lambda: print(max(used.ru_maxrss for used in USED()), file=sys.stderr))
atexit.register(lambda: print(sum(used.ru_utime + used.ru_stime for used in USED()), file=sys.stderr))
runpy.run_module("wsisum_cli", run_name="__main__")
"""


def run(*arguments: object) -> dict[str, Any]:
    """What the command prints as JSON; it and its processes keep within the limits."""
    done = python(MEASURED, *arguments, "--json", timeout=HANGS)
    printed, errors = done.stdout, done.stderr
    assert float(errors.splitlines()[-2]) < MOST_SECONDS  # those registered last come first
    assert int(errors.splitlines()[-1]) * 1024 < MOST_BYTES  # of the largest of its processes
    assert "Traceback" not in errors
    found: dict[str, Any] = json.loads(printed)
    return found


posix = pytest.mark.skipif(os.name != "posix", reason="measures memory by resource")


@posix
@pytest.mark.parametrize("name", SLIDES)
def test_hostile_slides_end_soon_and_small(shared: Path, tmp_path: Path, name: str):
    slide = shared / "problems/hostile" / name
    report = run("compress", slide, "-o", tmp_path, "--mpp", 0.5, "--encoder", "texture", "--summarizer", "none")
    (outcome,) = report["slides"]
    status, reason, said = SLIDES[name]
    assert (outcome["status"], outcome["reason"]) == (status, reason)
    assert said in outcome["message"]
    assert not outcome["traceback"]
    assert not list(tmp_path.glob("*.ozx"))


@posix
@pytest.mark.parametrize("name", SUMMARIES)
def test_forged_summaries_are_found_soon_and_small(shared: Path, name: str):
    result = run("verify", shared / "problems/hostile" / name)
    codes, said = SUMMARIES[name]
    assert {finding["code"] for finding in result["findings"] if finding["severity"] == "error"} == codes
    assert any(said in finding["message"] for finding in result["findings"])
    assert not result["ok"]


@posix
def test_tiles_with_hidden_text_are_not_copied(shared: Path, tmp_path: Path):
    slide = shared / "problems/hostile/tile_beforeeoi.svs"
    pyramid = open_pyramid(slide)
    tile = pyramid.encoded_tile(0, 0, 0)
    pyramid.close()
    assert tile is not None
    assert not holds_only_pixels(tile.stream)
    report = run("compress", slide, "-o", tmp_path, "--mpp", 0.5, "--encoder", "texture", "--summarizer", "none")
    assert [outcome["pixels"] for outcome in report["slides"]] == ["jpeg"]
    text = tile.stream[tile.stream.rindex(b"\xff\xd9") - 24 : -2]
    (summary,) = tmp_path.glob("*.ozx")
    assert text not in summary.read_bytes()


def test_every_hostile_file_has_an_outcome_here(shared: Path):
    assert {path.name for path in (shared / "problems/hostile").iterdir()} == {
        *SLIDES,
        *SUMMARIES,
        "tile_beforeeoi.svs",
    }
