"""Embeddings of several slide models fused to one target, and a summarizer trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("onnx")
pytest.importorskip("matplotlib")

from training_data import draw_slide, write_archive, write_embedding, write_features
from typer.testing import CliRunner

from wsisum_cli.commands.learning import train as cli
from wsisum_cli.errors import FeaturesError, UsageError
from wsisum_cli.models.session import open_session
from wsisum_cli.models.summarizer import load_summarizer
from wsisum_cli.training.summarizer.teachers import (
    Teacher,
    fit_fusion,
    load_fusion,
    parse_teachers,
    read_teacher,
)

TEACHERS = {"TITAN": 768, "CHIEF": 768, "PRISM": 1280}
DEMO = "TCGA-3C-AALI-01"
NAMES = [f"TCGA-3C-AA{number:02d}-01" for number in range(13)]
TINY = [
    *("--candidates", "32", "--epochs", "1", "--draws", "1", "--batch-size", "6", "--width", "8", "--depth", "1"),
    *("--components", "4", "--holdout", "0.15"),
]


def drawn_teachers(slides: int, rank: int = 3, noise: float = 0.01, seed: int = 0) -> tuple[list[Teacher], np.ndarray]:
    """Three teachers of other lengths, scales and origins that see the same (slides, rank) of each slide."""
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(slides, rank))
    teachers = []
    for name, dims, scale in (("a", 20, 1.0), ("b", 30, 50.0), ("c", 12, 0.01)):
        values = scale * (5 + seen @ rng.normal(size=(rank, dims)) + noise * rng.normal(size=(slides, dims)))
        teachers.append(Teacher(name, dims, {str(i): row.astype(np.float32) for i, row in enumerate(values)}))
    return teachers, seen


def without(teacher: Teacher, *slides: int) -> Teacher:
    gone = {str(slide) for slide in slides}
    kept = {name: values for name, values in teacher.embeddings.items() if name not in gone}
    return Teacher(teacher.name, teacher.dims, kept)


def explained(target: np.ndarray, seen: np.ndarray) -> float:
    """Share of the variance of what was planted that a linear map of the target gives."""
    x = np.column_stack([target, np.ones(len(target))])
    left = seen - x @ np.linalg.lstsq(x, seen, rcond=None)[0]
    return float(1 - left.var() / seen.var())


SLIDES = [str(number) for number in range(30)]


def fused(teachers: list[Teacher], slides: list[str], dims: int | None = None) -> np.ndarray:
    fusion = fit_fusion(teachers, slides, dims)
    found = [fusion(teachers, slide) for slide in slides]
    return np.stack([row for row in found if row is not None])


def test_the_target_holds_what_teachers_agree_on():
    teachers, seen = drawn_teachers(30)
    target = fused(teachers, SLIDES, 3)
    assert target.shape == (30, 3)
    assert target.dtype == np.float32
    assert explained(target, seen) > 0.99
    assert fit_fusion(teachers, SLIDES, 3).explained > 0.99


def test_no_teacher_outweighs_another_by_its_scale():
    teachers, _ = drawn_teachers(30, noise=0.3)
    larger = [teachers[0], Teacher("b", 30, {k: v * 1000 for k, v in teachers[1].embeddings.items()}), teachers[2]]
    np.testing.assert_allclose(fused(teachers, SLIDES, 3), fused(larger, SLIDES, 3), atol=1e-4)


def test_embeddings_that_a_slide_lacks_are_made_up_for():
    teachers, seen = drawn_teachers(30)
    some = [without(teachers[0], 0, 1, 2), without(teachers[1], 2, 3, 4, 5), without(teachers[2], 0, 9)]
    assert explained(fused(some, SLIDES, 3), seen) > 0.98
    whole, part = fused(teachers, SLIDES, 3), fused(some, SLIDES, 3)
    assert explained(part[[0, 1, 2, 3, 4, 5, 9]], whole[[0, 1, 2, 3, 4, 5, 9]]) > 0.98


def test_a_slide_that_no_teacher_has_has_no_target():
    teachers, _ = drawn_teachers(30)
    some = [without(teacher, 7) for teacher in teachers]
    fusion = fit_fusion(some, SLIDES)
    assert fusion(some, "7") is None
    assert fusion(some, "8") is not None
    assert fusion.slides == (29, 29, 29)


def test_by_default_the_target_is_as_long_as_slides_allow():
    teachers, _ = drawn_teachers(30)
    assert fused(teachers, SLIDES).shape == (30, 29)


def test_the_fusion_is_kept_with_the_model(tmp_path: Path):
    teachers, _ = drawn_teachers(30)
    fusion = fit_fusion(teachers, SLIDES, 5)
    fusion.save(tmp_path / "fusion.npz")
    again = load_fusion(tmp_path / "fusion.npz")
    assert again.names == ("a", "b", "c")
    for slide in SLIDES:
        np.testing.assert_array_equal(again(teachers, slide), fusion(teachers, slide))
    (tmp_path / "fusion.npz").write_bytes(b"nothing")
    with pytest.raises(FeaturesError, match=r"fusion\.npz: not a fusion of teachers"):
        load_fusion(tmp_path / "fusion.npz")


@pytest.mark.parametrize(
    ("slides", "dims", "said"),
    [
        (1, None, "needs embeddings of at least 8 training slides, found 1; a PCA of n slides has n - 1 components"),
        (7, None, "at least 8 training slides, found 7"),
        (10, 10, "a target of 10 dims needs embeddings of at least 11 training slides, found 10"),
    ],
)
def test_too_few_slides_for_a_pca(slides: int, dims: int | None, said: str):
    teachers, _ = drawn_teachers(30)
    with pytest.raises(FeaturesError, match=said):
        fit_fusion(teachers, SLIDES[:slides], dims)


def test_a_teacher_that_says_nothing_is_refused():
    teachers, _ = drawn_teachers(30)
    same = Teacher("same", 4, dict.fromkeys(SLIDES, np.ones(4, np.float32)))
    with pytest.raises(FeaturesError, match="teacher same: gives all slides the same embedding; leave it out"):
        fit_fusion([*teachers, same], SLIDES)
    with pytest.raises(FeaturesError, match="teacher few: has fewer than two of the training slides"):
        fit_fusion([*teachers, Teacher("few", 4, {"3": np.ones(4, np.float32)})], SLIDES)
    with pytest.raises(FeaturesError, match="the teachers have 20 dims together, found 25"):
        fit_fusion(teachers[:1], SLIDES, 25)


def test_files_of_teachers(tmp_path: Path):
    write_embedding(tmp_path / "deep" / "a.h5", np.arange(4))
    write_embedding(tmp_path / "other.h5", np.arange(9))
    teacher = read_teacher("T", tmp_path, ["a", "b"])
    assert teacher.dims == 4
    np.testing.assert_array_equal(teacher.embeddings["a"], np.arange(4, dtype=np.float32))
    with pytest.raises(FeaturesError, match=r"teacher T: expected embeddings named like the slides \(b\.h5\)"):
        read_teacher("T", tmp_path, ["b"])
    with pytest.raises(FeaturesError, match=r"other\.h5: expected an embedding of 4 numbers, found 9"):
        read_teacher("T", tmp_path, ["a", "other"])
    write_embedding(tmp_path / "a.h5", np.arange(4))
    with pytest.raises(FeaturesError, match=r"teacher T: two files are called a\.h5"):
        read_teacher("T", tmp_path, ["a"])


def test_teachers_of_slides_that_go_by_their_paths(tmp_path: Path):
    for number, name in enumerate(("case0/1", "case1/1", "case2/1", "case0/2")):
        write_embedding(tmp_path / f"{name}.h5", np.full(4, number))
    found = read_teacher("T", tmp_path, ["case0/1", "case1/1", "1", "2"]).embeddings
    assert {slide: int(values[0]) for slide, values in found.items()} == {"case0/1": 0, "case1/1": 1, "2": 3}


def test_options_of_teachers(tmp_path: Path):
    assert parse_teachers([f"A={tmp_path}"]) == {"A": tmp_path}
    for wrong, said in (
        (["A"], "expected NAME=DIR, found 'A'"),
        ([f"A={tmp_path}", f"A={tmp_path}"], "A is given twice"),
        ([f"A={tmp_path / 'gone'}"], "A: no such folder"),
    ):
        with pytest.raises(UsageError, match=said):
            parse_teachers(wrong)


# -- end to end, with the teachers of WSISum's demonstration ------------------------------------------------------


@pytest.fixture(scope="module")
def demo(shared: Path) -> Path:
    folder = shared / "features" / "wsisum-demo"
    if not folder.is_dir():
        pytest.skip("needs the features of WSISum's demonstration")
    return folder


@pytest.fixture(scope="module")
def archive(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slide of the demonstration, with its own embeddings, and others whose embeddings vary about them."""
    folder = tmp_path_factory.mktemp("archive")
    with h5py.File(demo / f"{DEMO}_cluster.h5") as file:
        features, coords = file["features"][:500], file["coords"][:]
    write_features(folder / "features" / f"{DEMO}.h5", features, coords / 1024)
    write_archive(folder / "features", NAMES, 768, sha256="ab" * 32)
    rng = np.random.default_rng(1)
    seen = rng.normal(size=(len(NAMES), 6))
    for teacher, dims in TEACHERS.items():
        with h5py.File(demo / teacher / f"{DEMO}.h5") as file:
            own = file["features"][0]
        write_embedding(folder / teacher / f"{DEMO}.h5", own)
        others = own + own.std() * (seen @ rng.normal(size=(6, dims)))
        for name, values in zip(NAMES, others, strict=True):
            write_embedding(folder / teacher / f"{name}.h5", values)
    for teacher, name in (("CHIEF", NAMES[0]), ("PRISM", NAMES[0]), ("PRISM", NAMES[4]), ("TITAN", NAMES[7])):
        (folder / teacher / f"{name}.h5").unlink()
    for teacher in TEACHERS:
        (folder / teacher / f"{NAMES[2]}.h5").unlink()  # which no teacher has
    return folder


def train(archive: Path, output: Path, *more: str) -> Any:
    teachers = [text for name in TEACHERS for text in ("--teacher", f"{name}={archive / name}")]
    named = ["--features", str(archive / "features"), "-o", str(output), "--device", "cpu"]
    return CliRunner().invoke(cli.train_app, ["summarizer", *named, *teachers, *TINY, *more])


def test_three_teachers_end_to_end(archive: Path, tmp_path: Path):
    result = train(archive, tmp_path / "run")
    assert result.exception is None, result.output
    model = load_summarizer(tmp_path / "run" / "summarizer.onnx", "cpu")
    fusion = load_fusion(tmp_path / "run" / "fusion.npz")
    assert fusion.names == tuple(TEACHERS)
    assert fusion.dims == tuple(TEACHERS.values())
    assert (model.card.dims, model.card.embedding_dims) == (768, len(fusion.axes))
    card = json.loads(open_session(tmp_path / "run" / "summarizer.onnx", "cpu", lambda s: s.metadata["wsisum.card"]))
    assert [(t["name"], t["dims"]) for t in card["target"]["teachers"]] == list(TEACHERS.items())
    configuration = json.loads((tmp_path / "run" / "configuration.json").read_text())
    assert NAMES[2] in {**configuration["training"], **configuration["held_out"]}  # reconstructed all the same
    assert max(fusion.slides) < len(configuration["training"]) + 1
    features, coords = draw_slide(50, 768)
    assert model(features, coords, 1, np.arange(15)[None]).embedding.shape == (1, len(fusion.axes))


def test_one_slide_makes_no_pca(archive: Path, tmp_path: Path):
    """As the demonstration has it."""
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / f"{DEMO}.h5").symlink_to(archive / "features" / f"{DEMO}.h5")
    teachers = [text for name in TEACHERS for text in ("--teacher", f"{name}={archive / name}")]
    asked = ["summarizer", "--features", tmp_path / "features", "-o", tmp_path / "run", *teachers, "--holdout", "0"]
    result = CliRunner().invoke(cli.train_app, list(map(str, asked)))
    assert isinstance(result.exception, FeaturesError)
    assert "needs embeddings of at least 8 training slides, found 1" in str(result.exception)
    assert not (tmp_path / "run" / "summarizer.onnx").exists()


def test_a_target_longer_than_slides_allow(archive: Path, tmp_path: Path):
    result = train(archive, tmp_path / "run", "--embedding-dims", "64")
    assert isinstance(result.exception, FeaturesError)
    assert "a target of 64 dims needs embeddings of at least 65 training slides" in str(result.exception)
