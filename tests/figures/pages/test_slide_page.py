"""One summary as a page of HTML."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_pages import Page, check_page
from running import wsisum
from summaries import KEPT, tiny_contents, unpack, write_as, write_changed, write_tiny

from wsisum_cli.commands.inspect import check_page as refuse_misfits
from wsisum_cli.commands.inspect import inspect_each
from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.figures.heatmap import MAPS
from wsisum_cli.figures.pages.overlays import painted
from wsisum_cli.figures.pages.plan import outline
from wsisum_cli.figures.pages.slide_page import CHANGED, slide_page
from wsisum_cli.figures.words import NO_VERDICT
from wsisum_cli.slides import jpeg
from wsisum_cli.summary.attributes import Artefacts, Suspect
from wsisum_cli.summary.container import write_container
from wsisum_cli.summary.inspection import inspect_summary
from wsisum_cli.summary.reader import open_summary

HOSTILE = "<script>alert(1)<\x1b[31m\u202e.svs"


def page_of(path: Path) -> str:
    with open_summary(path) as summary:
        return slide_page(summary)


@pytest.fixture(scope="module", params=["jpeg", "source"])
def tiny(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp(request.param) / "tiny.ozx", request.param)


@pytest.fixture(scope="module")
def page(tiny: Path) -> Page:
    return check_page(page_of(tiny))


def pixels_of(address: str) -> np.ndarray:
    return jpeg.decode(base64.b64decode(address.removeprefix("data:image/jpeg;base64,")))


def test_boxes_lead_to_patches_and_back(page: Page):
    links = {element.attributes["href"] for element in page.all("a")}
    for number in range(1, KEPT + 1):
        assert {f"#patch-{number}", f"#box-{number}"} <= links
        assert {f"patch-{number}", f"box-{number}"} <= set(page.ids)


def test_patches_are_shown_in_full(tiny: Path, page: Page):
    shown = [pixels_of(image.attributes["src"]) for image in page.all("img")]
    with open_summary(tiny) as summary:
        order = [patch.picked - 1 for patch in inspect_summary(summary).kept]
        expected = [summary.patches[row] for row in order]
        encoded_again = summary.record.pixels.mode == "source"
    assert len(shown) == len(expected) == KEPT
    for found, wanted in zip(shown, expected, strict=True):
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).mean() < (4 if encoded_again else 1e-9)


def test_of_very_many_patches_the_heaviest_are_shown(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wsisum_cli.figures.pages.slide_page.MOST_PATCHES", 3)
    text = page_of(tiny)
    page = check_page(text)  # no link leads to a patch that is not there
    assert len(page.all("img")) == 3
    assert f"The 3 heaviest of {KEPT} are shown." in text
    assert len(page.all("rect", class_="core")) >= KEPT


def test_the_verdict_comes_first_and_in_words(tiny: Path, page: Page):
    with open_summary(tiny) as summary:
        verdict = summary.record.verdict.verdict
    headings = [element for element in page.elements if element.tag in ("h1", "h2")]
    assert headings[0].text == "tiny.svs"
    assert headings[1].text.startswith(verdict)
    assert len(headings[1].text) > len(verdict) + 10


def test_every_map_is_a_layer_to_switch(page: Page):
    layers = {f"layer-{name}" for name in ("none", *MAPS)}
    assert layers <= {element.attributes["id"] for element in page.all("input", type="radio", name="layer")}
    sheet = page.all("style")[0].text
    for name in MAPS:
        assert f"#layer-{name}:checked" in sheet
    shown = [
        element.attributes["class"] for element in page.all("image") if "layer" in element.attributes.get("class", "")
    ]
    assert {"layer of-represented", "layer of-coverage", "layer of-weight", "layer of-cluster"} <= set(shown)


def test_unrepresented_areas_are_listed_and_marked(tiny: Path, page: Page):
    with open_summary(tiny) as summary:
        regions = summary.record.represented.regions
    assert regions, "the tiny summary must have some"
    for at in range(min(len(regions), 12)):
        assert {f"mark-{chr(65 + at)}", f"region-{chr(65 + at)}"} <= set(page.ids)
    rows = [element.text for element in page.all("tr") if element.attributes.get("id", "").startswith("region-")]
    assert all(f"{region.x}, {region.y}" in row for region, row in zip(regions, rows, strict=False))
    assert len(page.all("svg", class_="crop")) == len(regions)


def test_suspect_tissue_is_shown_by_kind(tmp_path: Path):
    contents = tiny_contents()
    suspect = np.zeros(len(contents.tissue.coords), np.uint8)
    suspect[:3] = 2
    suspect[-1] = 1
    tissue = replace(contents.tissue, suspect=suspect)
    attributes = contents.attributes.model_copy(
        update={
            "suspect": Suspect(count=4, kinds={"blurred": 3, "pen": 1}),
            "artefacts": Artefacts(count=0, kinds={}, looked_at=len(suspect), ignored=False),
        }
    )
    page = check_page(page_of(write_tiny(tmp_path / "tiny.ozx", tissue=tissue, attributes=attributes)))
    headings = [element.text for element in page.all("h3")]
    assert [heading for heading in headings if heading.startswith(("blurred: 3", "pen: 1"))] == headings[:2]
    labels = [element.attributes.get("aria-label", "") for element in page.all("svg", class_="crop")]
    assert sum(label.startswith("Suspect tissue at") for label in labels) == 4
    badges = [element.text for element in page.all("span", class_="badge review")]
    assert [badge for badge in badges if badge != "REVIEW"] == ["may be blurred"]  # the first of them was kept


def test_the_page_holds_the_provenance_and_no_path(tiny: Path):
    text = page_of(tiny)
    with open_summary(tiny) as summary:
        assert summary.record.source.sha256 in text
        assert summary.record.disclaimer in text
    assert str(tiny.parent) not in text
    assert "/tmp" not in text


def test_the_same_summary_gives_the_same_page(tiny: Path):
    assert page_of(tiny) == page_of(tiny)


def test_names_and_notes_are_escaped(tmp_path: Path):
    contents = tiny_contents()
    source = {
        **contents.attributes.as_json()["source"],
        "name": HOSTILE,
        "vendor": "\x1b]0;x\x07",
        "notes": ["</style></script>&"],
    }
    text = page_of(write_changed(tmp_path / "hostile.ozx", contents, {"source": source}))
    page = check_page(text)
    assert not page.all("script")
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert page.all("h1")[0].text == r"<script>alert(1)<\x1b[31m\u202e.svs"
    assert "</style></script>&" in "".join(element.text for element in page.all("dd"))


def test_a_summary_before_format_1_4_lacks_one_map_and_says_so(tiny: Path, tmp_path: Path):
    page = check_page(page_of(write_as(tmp_path / "older.ozx", tiny)))
    assert "layer of-represented" not in [element.attributes.get("class") for element in page.all("image")]
    (legend,) = page.all("div", id="legend-represented")
    assert "1.3" in legend.text
    assert "mark-A" not in page.ids


def test_a_summary_of_format_1_0_has_no_verdict_and_says_so(tmp_path: Path):
    contents = tiny_contents()
    lost = ("verdict", "draws", "represented", "guarantee", "suspect", "artefacts", "bound", "target_reached")
    page = check_page(page_of(write_changed(tmp_path / "first.ozx", contents, {"migrated_from": "1.0"}, lost)))
    assert page.all("h2")[0].text == NO_VERDICT
    assert not page.all("span", class_="badge pass")


def test_changed_attributes_are_said_first(tiny: Path, tmp_path: Path):
    forged = tmp_path / "forged.ozx"
    forged.write_bytes(tiny.read_bytes().replace(b'"tiny.svs"', b'"tinY.svs"', 1))
    page = check_page(page_of(forged))
    (alert,) = page.all("p", role="alert")
    assert CHANGED in alert.text
    assert not check_page(page_of(tiny)).all("p", role="alert")


def test_a_damaged_summary_gives_no_page(tmp_path: Path):
    path = write_tiny(tmp_path / "tiny.ozx")
    members = unpack(path)
    pixels = next(name for name in members if name.startswith("patches/pixels/c"))
    members[pixels] = members[pixels][:40] + bytes(40) + members[pixels][80:]
    write_container(path, members)
    with pytest.raises(SummaryError, match="chunk 0"):
        page_of(path)
    assert inspect_each([str(path)], None, None, tmp_path / "page.html", False, True)
    assert not (tmp_path / "page.html").exists()


def test_a_stream_that_holds_more_than_pixels_is_not_copied(tmp_path: Path):
    contents = tiny_contents()
    streams = [stream[:2] + b"\xff\xfe\x00\x0cDOE^JANE!!" + stream[2:] for stream in contents.pixels]
    text = page_of(write_tiny(tmp_path / "tiny.ozx", pixels=streams))
    for image in Page(text).all("img"):
        assert b"DOE^JANE" not in base64.b64decode(image.attributes["src"].partition(",")[2])


# pieces


def test_an_outline_has_the_outer_edges_alone():
    boxes = np.array([[0, 0, 10, 10], [10, 0, 20, 10]])
    assert "M10 0L10 10" not in outline(boxes)
    assert outline(boxes).count("M") == 6


def test_an_overlay_is_transparent_off_the_tissue():
    image = painted((4, 6), np.array([[1, 1, 3, 2]]), [(9, 8, 7)])
    assert image[1, 1].tolist()[:3] == [9, 8, 7]
    assert 0 < image[1, 2, 3] < 255
    assert image[..., 3].astype(bool).sum() == 2


# command line


def test_inspect_writes_the_page(tmp_path: Path):
    summary, page = write_tiny(tmp_path / "tiny.ozx"), tmp_path / "page.html"
    done = wsisum("inspect", summary, "--html", page)
    assert done.returncode == 0, done.stderr
    assert page.read_text(encoding="utf-8") == page_of(summary)
    assert f"page: {page}" in done.stderr


@pytest.mark.parametrize(
    ("page", "summaries", "draws", "expected"),
    [
        ("page.png", ["a.ozx"], False, "use a file name ending in .html"),
        ("page.html", ["a.ozx"], True, "without --image, --map and --compare"),
        ("page.html", ["a.ozx", "b.ozx"], False, "single summary"),
    ],
)
def test_options_that_do_not_fit_are_refused(page: str, summaries: list[str], draws: bool, expected: str):
    with pytest.raises(UsageError, match=expected):
        refuse_misfits(Path(page), summaries, draws)
