"""Several selections of one slide side by side, from summaries or from features; and the commands that draw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from onnx_models import write_slide_encoder, write_summarizer
from stubs import Mapped
from summaries import DIMS, KEPT, SIDE, STUB, TISSUE, StubCard, draw_slide, tiny_contents, write_tiny
from typer.testing import CliRunner, Result

from wsisum_cli.commands.inspect import Map, check_options
from wsisum_cli.commands.main import app
from wsisum_cli.errors import FeaturesError, SummaryError, UsageError
from wsisum_cli.features.h5 import load_h5
from wsisum_cli.figures.colour import INK, LUMA, as_seen, coverage_scale, squares
from wsisum_cli.figures.layout import CELL_PAD, MARGIN, arrange_panels
from wsisum_cli.figures.panels import (
    BELOW,
    KEPT_COLOUR,
    Panel,
    details,
    distinguish_titles,
    draw_panels,
    panel_of,
    panels_of,
)
from wsisum_cli.figures.selector_panels import compare_selectors, models_of
from wsisum_cli.models.choice import NO_MODELS
from wsisum_cli.selection.candidates import sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.prefixes import prefixes_of
from wsisum_cli.selection.selectors import SELECTORS, pick
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.summary.writer import write_summary

FLAT = float(np.array((214, 150, 196)) @ LUMA)  # of a stub's tissue
PATCH = 2 * SIDE  # level-0 px of a patch of tiny summaries


def stub_panels(stub: Any, *shifts: float) -> list[Panel]:
    panel = panel_of(stub)
    return [replace(panel, title=f"panel {i}", similarity=panel.similarity - shift) for i, shift in enumerate(shifts)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("size", [(400, 300), (3000, 250), (100, 1500), (1, 1)])
def test_panels_do_not_overlap_and_fit_the_page(count: int, size: tuple[int, int]):
    plan = arrange_panels(count, size)
    frames = np.array([plan.frame(index, lower) for index in range(count) for lower in (False, True)])
    assert frames[:, 0].min() > MARGIN
    assert frames[:, 2].max() <= plan.width - MARGIN
    assert frames[:, 3].max() == plan.lower < plan.height
    first, second = frames[:, None], frames[None]
    apart = ((first[..., :2] >= second[..., 2:]) | (first[..., 2:] <= second[..., :2])).any(axis=2)
    assert (apart | np.eye(len(frames), dtype=bool)).all()
    assert plan.map_size[0] <= plan.cell_width - 2 * CELL_PAD


def test_eight_panels_stay_legible():
    plan = arrange_panels(8, (559, 503))
    assert plan.columns == 4
    assert plan.map_size[0] > 600
    assert plan.height <= 1.05 * plan.width


def test_upper_rows_show_kept_patches_and_lower_rows_coverage():
    stub: Any = Mapped(3)
    panels = stub_panels(stub, 0.0, 0.3)
    pixels, plan = draw_panels(stub, panels), arrange_panels(2, (400, 300))
    scale = coverage_scale(np.concatenate([panel.similarity for panel in panels]), BELOW)
    boxes = squares(stub.tissue.coords, 512, (12800, 9600), plan.map_size)
    for index, panel in enumerate(panels):
        left, upper = plan.corner(index, lower=True)
        for row in (60, 300):
            x, y = (boxes[row, :2] + boxes[row, 2:]) // 2
            wanted = as_seen(scale.colours(panel.similarity[row : row + 1])[0], FLAT)
            assert tuple(pixels[upper + y, left + x]) == wanted
        left, upper = plan.corner(index, lower=False)
        x, y = boxes[1, :2] + (boxes[1, 2:] - boxes[1, :2]) // (2, 100)
        assert tuple(pixels[upper + y, left + x]) == KEPT_COLOUR


def test_panels_share_one_scale_bar():
    stub: Any = Mapped(3)
    plan = arrange_panels(2, (400, 300))
    row = draw_panels(stub, stub_panels(stub, 0.0, 0.1))[plan.lower + 22]
    length = int((row == INK).all(axis=1).sum())
    assert length * 0.25e-3 * 12800 / plan.map_size[0] == pytest.approx(1, rel=0.01)


def test_panels_are_deterministic():
    stub: Any = Mapped(3)
    assert np.array_equal(draw_panels(stub, stub_panels(stub, 0, 0.2)), draw_panels(stub, stub_panels(stub, 0, 0.2)))


def test_titles_name_selector_and_count_and_are_distinct():
    panel = panel_of(Mapped(5))  # type: ignore[arg-type]
    assert panel.title == "facility, K = 5"
    assert [made.title for made in distinguish_titles([panel, panel])] == ["facility, K = 5 (1)", "facility, K = 5 (2)"]
    other = replace(panel, encoder=("uni", None))
    assert [made.title for made in distinguish_titles([panel, other])] == [
        "facility, K = 5, texture",
        "facility, K = 5, uni",
    ]
    assert "cosines cannot be compared" in details([panel, other])
    assert details([panel]) == "450 tissue patches   ·   features of encoder texture"


def test_summaries_of_different_slides_are_refused_by_name():
    one, two, three = Mapped(3), Mapped(3), Mapped(3)
    two.name, two.attributes["source"] = "two.ozx", {**two.attributes["source"], "sha256": "ef" * 32}
    with pytest.raises(UsageError, match=r"stub\.ozx of stub\.svs \(sha256 cdcdcdcdcdcd\), two\.ozx of .*efefefefefef"):
        panels_of([one, three, two])  # type: ignore[list-item]
    assert len(panels_of([one, three])) == 2  # type: ignore[list-item]


@pytest.mark.parametrize("lost", ["options", "quality", "encoder", "features", "source"])
def test_summaries_with_missing_attributes_are_refused(lost: str):
    stub: Any = Mapped(3)
    del stub.attributes[lost]
    with pytest.raises(SummaryError, match=r"stub\.ozx"):
        panels_of([stub])


# ----------------------------------------------------------------------------------------- all selectors by features


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("summaries") / "tiny.ozx")


@pytest.fixture(scope="module")
def tissue(summary: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features and coords of the tissue of `summary`."""
    with open_summary(summary) as opened:
        coords = opened.tissue.coords
    slide = draw_slide()
    patches = np.stack([slide[y : y + PATCH : 2, x : x + PATCH : 2] for x, y in coords.tolist()])
    return STUB(patches), coords


def write_features(path: Path, features: np.ndarray, coords: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = features, coords
        file.attrs["encoder"] = "stub"
    return path


def test_every_selector_has_its_panel(summary: Path, tissue: tuple[np.ndarray, np.ndarray], tmp_path: Path):
    features, coords = tissue
    path, heard = write_features(tmp_path / "tiny.h5", features, coords), []
    with open_summary(summary) as opened:
        panels = compare_selectors(opened, path, listen=heard.append)
        assert draw_panels(opened, panels).shape[1] == 3000
    assert heard == list(SELECTORS)
    assert [panel.title for panel in panels] == [f"{name}, K = {KEPT}" for name in SELECTORS if name != "attention"]
    for panel in panels:
        rows = [int(np.flatnonzero((coords == place).all(axis=1))[0]) for place in panel.coords]
        assert len(set(rows)) == KEPT
        assert np.array_equal(panel.similarity, prefixes_of(features, np.array(rows)).of(len(rows))[1])
        assert panel.quality["coverage"] == pytest.approx(panel.similarity.astype(np.float16).mean(dtype=float))
    best = max(panels, key=lambda panel: panel.quality["coverage"])
    assert best.title.split(",")[0] in ("wsisum", "facility")


def test_row_order_of_the_feature_file_does_not_matter(
    summary: Path, tissue: tuple[np.ndarray, np.ndarray], tmp_path: Path
):
    order = np.random.default_rng(0).permutation(TISSUE)
    straight = write_features(tmp_path / "a.h5", *tissue)
    shuffled = write_features(tmp_path / "b.h5", *(values[order] for values in tissue))
    with open_summary(summary) as opened:
        for one, two in zip(compare_selectors(opened, straight), compare_selectors(opened, shuffled), strict=True):
            assert np.array_equal(one.coords, two.coords)
            assert np.array_equal(one.similarity, two.similarity)


def test_rare_share_comes_from_the_summary(summary: Path, tissue: tuple[np.ndarray, np.ndarray], tmp_path: Path):
    path, picked = write_features(tmp_path / "tiny.h5", *tissue), []
    for rare in (None, 0.5):
        with open_summary(summary) as opened:
            opened.attributes["options"]["rare"] = rare
            kept = next(panel for panel in compare_selectors(opened, path) if panel.title.startswith("wsisum")).coords
        tissue_patches = TissuePatches(*tissue, sample_candidates(tissue[0]), patch_size_level0=PATCH, rare=rare)
        assert np.array_equal(kept, tissue[1][pick(tissue_patches, KEPT)])
        picked.append(set(map(tuple, kept.tolist())))
    assert picked[0] != picked[1]


@pytest.mark.parametrize("change", ["shifted", "fewer", "more"])
def test_features_of_other_patches_are_refused(
    summary: Path, tissue: tuple[np.ndarray, np.ndarray], tmp_path: Path, change: str
):
    features, coords = tissue
    more = np.vstack([coords, [[64, 576]]])
    made = {"shifted": (features, coords + 1), "fewer": (features[1:], coords[1:])}
    path = write_features(tmp_path / "other.h5", *made.get(change, (np.vstack([features, features[:1]]), more)))
    with open_summary(summary) as opened, pytest.raises(FeaturesError, match=r"other\.h5: expected features of the 80"):
        compare_selectors(opened, path)


def test_available_models_of_the_summary_are_used(tissue: tuple[np.ndarray, np.ndarray], tmp_path: Path):
    path, folder = write_features(tmp_path / "tiny.h5", *tissue), tmp_path / "models"
    card = {"dims": DIMS, "encoder_sha256": StubCard.sha256}
    for name, write in {"tiny": write_summarizer, "slide": write_slide_encoder}.items():
        (folder / name).mkdir(parents=True)
        write(folder / name / f"{name}.onnx", **card)
    with open_summary(write_tiny(tmp_path / "models.ozx", "models")) as opened:
        assert models_of(opened, load_h5(path), [folder]) == NO_MODELS  # nobody knows by which encoder these are
        with h5py.File(path, "a") as file:
            file.attrs["encoder_sha256"] = StubCard.sha256
        found = models_of(opened, load_h5(path), [folder])
        assert found.summarizer is not None
        assert found.slide_encoder is not None
        assert models_of(opened, load_h5(path), []) == NO_MODELS
        assert (
            len(compare_selectors(opened, path, [folder])) == len(SELECTORS) - 1
        )  # that slide encoder says no attention
    with open_summary(write_tiny(tmp_path / "none.ozx")) as opened:
        assert models_of(opened, load_h5(path), [folder]) == NO_MODELS


# ---------------------------------------------------------------------------------------------------------- commands


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((["a", "b"], None, Map.coverage, True, None), "--map draws one summary, --compare several"),
        ((["a"], None, None, False, Path("f.h5")), "--features needs --compare"),
        ((["a", "b"], None, None, True, Path("f.h5")), "--features draws all selectors for one summary"),
        ((["a"], None, None, True, None), "give several of the same slide, or use --features"),
        ((["a", "b"], Path("x.png"), Map.weight, False, None), "--image draws one summary"),
        ((["x/a.ozx", "y/a.ozx"], None, Map.weight, False, None), "share a name"),
    ],
)
def test_incompatible_options_are_refused(arguments: Any, complaint: str):
    with pytest.raises(UsageError, match=complaint):
        check_options(*arguments)


def chunks(png: bytes) -> set[bytes]:
    """The kinds of chunks of a PNG."""
    found, at = set(), 8
    while at < len(png):
        found.add(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return found


@pytest.mark.parametrize("kind", [kind.value for kind in Map])
def test_maps_are_written_to_the_default_or_given_path(
    kind: str, summary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = run(summary, "--map", kind)
    assert (done.exit_code, done.stderr) == (0, f"picture: tiny.{kind}.png\n")
    assert "tiny.svs" in done.stdout
    assert run(summary, "--map", kind, "--image", "here.png", "--json").exit_code == 0
    drawn = (tmp_path / "here.png").read_bytes()
    assert drawn == (tmp_path / f"tiny.{kind}.png").read_bytes()
    assert chunks(drawn) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}  # nothing that holds text or times
    assert str(summary.parent) not in done.output


def test_each_map_gets_its_own_picture(summary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    other = Path(tmp_path / "other.ozx")
    other.write_bytes(summary.read_bytes())
    assert run(summary, other, "--map", "coverage").exit_code == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["other.coverage.png", "tiny.coverage.png"]


def test_summaries_are_compared(summary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = run(summary, summary, "--compare")
    assert (done.exit_code, done.stderr) == (0, "picture: tiny.compare.png\n")
    assert "5th percentile" in done.stdout
    done = run(summary, summary, "--compare", "--json", "--image", tmp_path / "out.png")
    rows = json.loads(done.stdout)
    keys = ["title", "patches", "tissue_patches", "encoder", "coverage", "coverage_p05", "coverage_min"]
    assert [list(row) for row in rows] == [keys, keys]
    assert (rows[0]["patches"], rows[0]["tissue_patches"]) == (KEPT, TISSUE)
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "tiny.compare.png").read_bytes()


def test_selectors_are_compared(summary: Path, tissue: tuple[np.ndarray, np.ndarray], tmp_path: Path):
    path = write_features(tmp_path / "tiny.h5", *tissue)
    done = run(summary, "--compare", "--features", path, "--image", tmp_path / "out.png", "--json")
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)) == len(SELECTORS) - 1
    assert "picking: facility" in done.stderr


def test_comparison_errors_give_exit_code_1(summary: Path, tissue: tuple[np.ndarray, np.ndarray], tmp_path: Path):
    path = write_features(tmp_path / "tiny.h5", tissue[0], tissue[1] + 1)
    for arguments in ((summary, "--features", path), (summary, tmp_path / "none.ozx")):
        done = run(*arguments, "--compare", "--image", tmp_path / "out.png")
        assert done.exit_code == 1
        assert str(tmp_path) not in done.stderr
        assert not (tmp_path / "out.png").exists()


def test_comparison_of_different_slides_is_refused(summary: Path, tmp_path: Path):
    contents = tiny_contents()
    source = contents.attributes.source.model_copy(update={"sha256": "ef" * 32})
    attributes = contents.attributes.model_copy(update={"source": source})
    write_summary(tmp_path / "other.ozx", replace(contents, attributes=attributes))
    with pytest.raises(UsageError, match=r"other\.ozx of tiny\.svs"):
        run(summary, tmp_path / "other.ozx", "--compare")
