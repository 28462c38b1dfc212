"""An archive of summaries as a page of HTML."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from html_pages import Page, check_page
from running import wsisum
from summaries import LENIENT, write_tiny

from wsisum_cli.archive.gallery import COLUMNS, SIDE, bin_edges, gallery_of, histogram
from wsisum_cli.archive.outcome import FAILED, WRITTEN, Outcome
from wsisum_cli.archive.report import write_report
from wsisum_cli.figures.words import size
from wsisum_cli.slides import jpeg

RANGES = [(0.951, 0.963), (3, 3), (0, 0), (1, 1000), (12.5, 31), (0.4, 900), (5e5, 2e6)]
HOSTILE = "c/</script><script>alert(1)</script>\x1b[31m\u202e.svs"
COUNT = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    outcomes = [Outcome(HOSTILE, FAILED, "<b>odd</b>", "\x1b]0;x\x07<img src=x onerror=alert(1)>")]
    for number in range(COUNT):
        write_tiny(folder / f"slide-{number}.ozx")
        outcomes.append(Outcome(f"slide-{number}.svs", WRITTEN, summary=f"slide-{number}.ozx", verdict="REVIEW"))
    outcomes.append(Outcome("lost.svs", WRITTEN, summary="lost.ozx", verdict="REVIEW"))
    options = {"thresholds": list(LENIENT)}
    write_report(folder, outcomes, {"wsisum": "0.1.0", "options": options, "encoder_sha256": "ab" * 32})
    return folder


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return gallery_of(folder)[1]


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return check_page(text)


def test_every_slide_has_a_row_with_every_column(page: Page):
    rows = [element for element in page.all("tr") if element.attributes.get("id", "").startswith("slide-")]
    assert len(rows) == COUNT + 2
    assert len(page.all("td")) == len(rows) * len(COLUMNS)
    assert len(page.all("th", scope="col")) == len(COLUMNS) + 1


def test_every_column_can_be_sorted_and_filtered(page: Page):
    (form,) = page.all("form")
    assert "hidden" in form.attributes  # until the script runs
    offered = {element.attributes["value"] for element in page.all("option") if "value" in element.attributes}
    assert {str(at) for at in range(-1, len(COLUMNS) + 1)} <= offered
    filtered = {element.attributes["data-column"] for element in page.elements if "data-column" in element.attributes}
    assert filtered == {str(at) for at in range(len(COLUMNS) + 1)}


def test_summaries_have_small_thumbnails(page: Page):
    images = page.all("img")
    assert len(images) == COUNT
    for image in images:
        data = base64.b64decode(image.attributes["src"].partition(",")[2])
        height, width = jpeg.decode(data).shape[:2]
        assert max(height, width) <= SIDE
        assert (image.attributes["width"], image.attributes["height"]) == (str(width), str(height))
        assert image.attributes["alt"].startswith("Overview of slide-")
        assert len(data) < 16_000


def test_what_needs_eyes_comes_first(page: Page):
    rows = [element for element in page.all("tr") if element.attributes.get("id", "").startswith("slide-")]
    assert "its summary is missing" in rows[0].text
    assert "failed" in rows[1].text
    (urgent,) = page.all("ol", class_="urgent")
    assert urgent.text.index("lost.svs") < urgent.text.index("alert(1)")


def test_failures_are_listed_under_their_reason(page: Page):
    summaries = [element.text for element in page.all("summary")]
    assert "<b>odd</b>: 1" in summaries


def test_names_and_messages_are_escaped(text: str, page: Page):
    assert len(page.all("script")) == 1
    assert not page.all("b")
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    names = [element.text for element in page.all("a")]
    assert r"c/</script><script>alert(1)</script>\x1b[31m\u202e.svs" in names


def test_the_page_names_no_folder_of_the_machine(folder: Path, text: str):
    assert folder.name in text
    assert str(folder.parent) not in text


def test_the_same_archive_gives_the_same_page(folder: Path, text: str):
    assert gallery_of(folder)[1] == text


def test_a_thousand_slides_stay_small(text: str):
    rows = text[text.index("<tbody") : text.index("</tbody>")]
    a_row = max(len(row) for row in rows.split("<tr ")[1:])
    assert len(text) - len(rows) + 1000 * a_row < 30e6


def test_the_command_writes_the_page(folder: Path, text: str, tmp_path: Path):
    done = wsisum("report", folder, "--html", tmp_path / "page.html")
    assert done.returncode == 1  # a summary is missing
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text


# histograms


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_bins_hold_all_values_and_are_few(low: float, high: float):
    edges = bin_edges(low, high)
    assert edges == sorted(set(edges))
    assert edges[0] <= low + 1e-9
    assert edges[-1] >= high - 1e-9
    assert 2 <= len(edges) <= 15


@pytest.mark.parametrize("words", [size, "{:g}".format])
def test_a_histogram_counts_each_value_once(words: Callable[[float], str]):
    values = [1.0, 1.0, 2.5, 7.0, 7.0, 7.0]
    found = histogram("Ratio", values, words)
    assert sum(bar.count for bar in found.bars) == len(values)
    assert max(bar.height for bar in found.bars) == 1
    assert "3 from" in found.words
