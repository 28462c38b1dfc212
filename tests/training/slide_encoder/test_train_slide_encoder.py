"""SLPD end to end: planted tissue in, a slide encoder out that tells it apart, from the command to the ONNX file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from draw import draw_tissue, write_svs  # noqa: E402
from summaries import compress, shipped_encoder  # noqa: E402
from training_data import draw_slide  # noqa: E402
from training_data import write_features as write_archive_file  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from wsisum_cli.commands.learning.train import train_app  # noqa: E402
from wsisum_cli.errors import FeaturesError, UsageError  # noqa: E402
from wsisum_cli.features.h5 import read_feature_file  # noqa: E402
from wsisum_cli.models.choice import SlideModels  # noqa: E402
from wsisum_cli.models.session import open_session  # noqa: E402
from wsisum_cli.models.slide_encoder import SlideEmbedding, load_slide_encoder  # noqa: E402
from wsisum_cli.summary.reader import open_summary  # noqa: E402
from wsisum_cli.training.data import Cases, in_patch_sides  # noqa: E402
from wsisum_cli.training.loop import Settings  # noqa: E402
from wsisum_cli.training.slide_encoder.distillation import DistillationSettings, SlideDistillation  # noqa: E402
from wsisum_cli.training.slide_encoder.prototypes import find_neighbours  # noqa: E402
from wsisum_cli.training.slide_encoder.slide_graph import OUTPUTS, SlideEncoder, lay_out  # noqa: E402
from wsisum_cli.training.slide_encoder.train import (  # noqa: E402
    Options,
    read_archive,
    sizes_of,
    slide_encoder_of,
    train_slide_encoder,
)
from wsisum_cli.training.summarizer.train import CardText  # noqa: E402
from wsisum_cli.verification.verify import verify_summary  # noqa: E402

DIMS = 16
SIDE = 512  # level-0 px of a patch
REGION = 16  # patches
#: Regions of each of the three kinds of tissue that a slide has.
COUNTS = (5, 3, 2)
TEXT = CardText("planted", "1", "CC0-1.0")
TINY = ["--width", "16", "--depth", "1", "--epochs", "2", "--regions", "4", "--batch-size", "8", "--prototypes", "3"]


def write_features(path: Path, features: np.ndarray, coords: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = features, coords
        file["coords"].attrs["patch_size_level0"] = SIDE
    return path


def plant(kinds: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A slide whose regions are each of one of three kinds (3, D), in any order: features, coords in level-0 px."""
    features, coords = [], []
    for number, kind in enumerate(rng.permutation(np.repeat(kinds, COUNTS, axis=0))):
        inside = rng.permutation(REGION**2)[:60]
        inside[0] = 0  # the grid of regions begins where the patches do
        corner = np.divmod(number, 4)
        coords.append((np.stack(np.divmod(inside, REGION), axis=1) + np.multiply(corner, REGION)) * SIDE)
        features.append(kind + 1.5 * rng.normal(size=(len(inside), DIMS)))
    return np.concatenate(features).astype(np.float32), np.concatenate(coords)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slides, a0 to d0, and the twin of each, a1 to d1: of the same three kinds of tissue, elsewhere."""
    folder, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    for letter in "abcd":
        kinds = rng.normal(size=(3, DIMS))
        for twin in "01":
            write_features(folder / f"{letter}{twin}.h5", *plant(kinds, rng))
    return folder


def train(folder: Path, output: Path, *more: str) -> Path:
    asked = ["slide-encoder", "--features", str(folder), "-o", str(output), "--case-regex", "^.", "--device", "cpu"]
    result = CliRunner().invoke(train_app, [*asked, *TINY, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return output / "slide_encoder.onnx"


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(folder, tmp_path_factory.mktemp("run"), "--licence", "CC0-1.0", "--name", "planted")


@pytest.fixture(scope="module")
def embedded(folder: Path, model: Path) -> Mapping[str, SlideEmbedding]:
    encoder, found = load_slide_encoder(model, "cpu"), {}
    for path in sorted(folder.glob("*.h5")):
        file = read_feature_file(path)
        found[path.stem] = encoder(file.features, file.coords, SIDE)
    return found


# ------------------------------------------------------------------------------------------ what it learns


def test_prototypes_are_the_planted_kinds(embedded: Mapping[str, SlideEmbedding]):
    for slide in embedded.values():
        assert sorted(slide.prototype_weights.tolist()) == pytest.approx([0.2, 0.3, 0.5], abs=1e-5)
        assert np.linalg.norm(slide.prototypes, axis=1) == pytest.approx(1, abs=1e-5)


def test_a_slide_s_prototypes_and_its_embedding_find_its_twin(embedded: Mapping[str, SlideEmbedding]):
    twins = [1, 0, 3, 2, 5, 4, 7, 6]
    assert (
        find_neighbours(np.stack([slide.prototypes for slide in embedded.values()]), 1).slides[:, 0].tolist() == twins
    )
    unit = np.stack([slide.embedding for slide in embedded.values()])
    assert np.linalg.norm(unit, axis=1) == pytest.approx(1, abs=1e-5)
    assert (unit @ unit.T - 2 * np.eye(8)).argmax(axis=1).tolist() == twins


def test_training_distils_from_the_twin(folder: Path):
    task = make_task(folder)
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    task.before_epoch(0)
    batch = next(task.batches(0, 0, 1))
    assert set(task.loss(task.module, batch, 0.0)) == {"loss", "self", "teacher_entropy", "teacher_spread"}
    task.before_epoch(1)  # warm
    assert task.distilled.neighbours[:, 0].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    losses = task.loss(task.module, batch, 0.5)
    parts = torch.stack([losses["self"], losses["intra"], losses["inter"]]).detach()
    assert losses["loss"].item() == pytest.approx(parts.sum().item(), rel=1e-5)
    losses["loss"].backward()
    assert all(weights.grad is None for weights in task.distilled.teacher.parameters())
    assert all(weights.grad is not None for weights in task.distilled.student.parameters())
    with torch.no_grad():
        for weights in task.distilled.student.parameters():
            weights.add_(1.0)
    task.after_step(0.0)
    moved = task.distilled.teacher.encoder.places - before["teacher.encoder.places"]
    assert moved.numpy() == pytest.approx(1 - task.settings.momentum, abs=1e-5)


def make_task(folder: Path, seed: int = 0) -> SlideDistillation:
    archive = read_archive([folder], Cases())
    options = Options(width=16, depth=1)
    cells = list(archive.cells.values())
    return SlideDistillation(
        cells, [], sizes_of(archive.data, options), DistillationSettings(prototypes=3, warm=0.5), 2, seed
    )


# --------------------------------------------------------------------------------------------- what is written


def test_card_and_configuration_say_what_was_done(model: Path):
    card = load_slide_encoder(model, "cpu").card
    assert (card.name, card.dims, card.embedding_dims, card.prototypes, card.region) == ("planted", 16, 32, 3, 16)
    assert "finds its other half" in card.description
    asked = json.loads((model.parent / "configuration.json").read_text())
    assert len(asked["training"]) == 6
    assert len(asked["held_out"]) == 2
    assert len(asked["held_out_cases"]) == 1  # twins are held out together
    assert {path.name for path in model.parent.iterdir()} >= {"curves.png", "metrics.csv", "checkpoint.pt"}


def test_onnx_gives_what_torch_gives(folder: Path, model: Path):
    module = torch_module(folder, model)
    file = read_feature_file(folder / "a0.h5")
    for features, coords in ((file.features, file.coords), overlapping(file.features, file.coords)):
        places = in_patch_sides(coords, SIDE)
        with torch.no_grad():
            expected = module(torch.from_numpy(features), torch.from_numpy(places))
        found = run(model, features, places)
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)
        assert found[3].sum() == pytest.approx(1, abs=1e-5)
        assert len(found[3]) == len(features)


def torch_module(folder: Path, model: Path) -> SlideEncoder:
    """The best weights of the run, put together without the ONNX file."""
    asked = json.loads((model.parent / "configuration.json").read_text())
    archive = read_archive([folder], Cases())
    cells = [archive.cells[name] for name in asked["training"]]
    options = Options(width=16, depth=1)
    task = SlideDistillation(cells, [], sizes_of(archive.data, options), DistillationSettings(prototypes=3), 2, 0)
    state = torch.load(model.parent / "checkpoint.pt", weights_only=True)
    task.module.load_state_dict(state["state"]["best_weights"])
    return slide_encoder_of(task)


def overlapping(features: np.ndarray, coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A second grid between the first, so that patches share cells."""
    return np.concatenate([features, features[::-1]]), np.concatenate([coords, coords + SIDE // 2])


def run(model: Path, features: np.ndarray, coords: np.ndarray) -> list[np.ndarray]:
    feeds = {"features": features, "coords": coords}
    return open_session(model, "cpu", lambda session: session.run(feeds, list(OUTPUTS)))


def test_the_order_of_patches_does_not_matter(folder: Path, model: Path):
    file = read_feature_file(folder / "b1.h5")
    features, coords = overlapping(file.features, in_patch_sides(file.coords, SIDE) * SIDE)
    places = in_patch_sides(coords, SIDE)
    order = np.random.default_rng(1).permutation(len(features))
    embedding, prototypes, weights, attention = run(model, features, places)
    again = run(model, features[order], places[order])
    np.testing.assert_allclose(again[0], embedding, atol=1e-5)
    np.testing.assert_allclose(again[1], prototypes, atol=1e-5)
    np.testing.assert_allclose(again[2], weights, atol=1e-6)
    np.testing.assert_allclose(again[3], attention[order], atol=1e-6)


def test_the_same_seed_gives_the_same_bytes(folder: Path, model: Path, tmp_path: Path):
    again = train(folder, tmp_path, "--licence", "CC0-1.0", "--name", "planted")
    assert again.read_bytes() == model.read_bytes()


def test_another_seed_draws_and_starts_otherwise(folder: Path):
    one, other = make_task(folder), make_task(folder, seed=1)
    starts = [task.distilled.student.encoder.embedding.weight for task in (one, other)]
    assert not torch.equal(*starts)
    slides = [next(task.batches(0, 0, 1))["slide"] for task in (one, other)]
    assert not torch.equal(*slides)


def test_patches_share_the_cells_that_training_gives_them(folder: Path):
    file = read_feature_file(folder / "a0.h5")
    _, coords = overlapping(file.features, file.coords)
    places = in_patch_sides(coords, SIDE)
    layout = lay_out(torch.from_numpy(places), REGION)
    at = np.floor(places + 1e-3).astype(int)
    assert len(layout.patches) == len(np.unique(at, axis=0))
    assert layout.patches.sum() == len(at)
    assert len(layout.at) == len(np.unique(at // REGION, axis=0))


def test_a_summary_is_made_with_it(tmp_path: Path):
    card = shipped_encoder().card
    for number in range(3):
        write_archive_file(tmp_path / "features" / f"{number}.h5", *draw_slide(number, card.dims), sha256=card.sha256)
    encoder = load_slide_encoder(train(tmp_path / "features", tmp_path / "run", "--holdout", "0"), "cpu")
    slide = tmp_path / "slide.svs"
    write_svs(slide, draw_tissue(3000, 2500, 3))
    path = compress(slide, tmp_path / "slide.ozx", "jpeg", SlideModels(slide_encoder=encoder))
    result = verify_summary(path, lambda _: shipped_encoder(), "source", slide, find_slide_encoder=lambda _: encoder)
    assert result.findings == []
    with open_summary(path) as summary:
        assert summary.reference.slide_embedding.shape == (encoder.card.embedding_dims,)


# ------------------------------------------------------------------------------------------------ bad input


def copy_of(folder: Path, target: Path, *names: str) -> Path:
    target.mkdir(exist_ok=True)
    for name in names:
        (target / f"{name}.h5").write_bytes((folder / f"{name}.h5").read_bytes())
    return target


def train_on(folder: Path, options: Options) -> None:
    train_slide_encoder(read_archive([folder], Cases()), folder / "run", options, TEXT)


def refused(folder: Path, holdout: float = 0.0) -> str:
    with pytest.raises(FeaturesError) as caught:
        train_on(folder, Options(holdout=holdout, settings=Settings(epochs=1)))
    assert not (folder / "run").exists()
    return str(caught.value)


def test_features_of_another_length(folder: Path, tmp_path: Path):
    copy_of(folder, tmp_path, "a0", "a1")
    write_features(tmp_path / "b0.h5", np.ones((4, DIMS + 1), np.float32), np.zeros((4, 2), np.int64))
    assert "b0.h5: expected features of 16 numbers, found 17" in refused(tmp_path)


def test_features_that_are_not_finite(folder: Path, tmp_path: Path):
    copy_of(folder, tmp_path, "a0", "a1")
    write_features(tmp_path / "b0.h5", np.full((4, DIMS), np.nan, np.float32), np.zeros((4, 2), np.int64))
    assert "b0.h5" in refused(tmp_path)


def test_a_file_without_patches(folder: Path, tmp_path: Path):
    copy_of(folder, tmp_path, "a0", "a1")
    write_features(tmp_path / "b0.h5", np.ones((0, DIMS), np.float32), np.zeros((0, 2), np.int64))
    assert "b0.h5" in refused(tmp_path)


def test_one_slide_alone(folder: Path, tmp_path: Path):
    assert "expected at least two to train on, found one" in refused(copy_of(folder, tmp_path, "a0"))


def test_one_slide_left_when_others_are_held_out(folder: Path, tmp_path: Path):
    assert "lower --holdout" in refused(copy_of(folder, tmp_path, "a0", "a1"), holdout=0.5)


def test_two_files_of_one_name(folder: Path, tmp_path: Path):
    elsewhere = [copy_of(folder, tmp_path / name, "a0") for name in ("x", "y")]
    assert set(read_archive([tmp_path], Cases()).cells) == {"x/a0", "y/a0"}
    with pytest.raises(FeaturesError, match=r"a0\.h5: there are two of that name"):
        read_archive(elsewhere, Cases())


def test_no_files(tmp_path: Path):
    assert "wsisum features" in refused(tmp_path)


def test_a_width_that_cannot_be_shared(folder: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="--width: expected a multiple of 8, found 12"):
        train(folder, tmp_path, "--width", "12")


def test_a_run_of_other_options_is_not_gone_on_with(folder: Path, model: Path):
    with pytest.raises(UsageError, match="another configuration"):
        train(folder, model.parent, "--learning-rate", "0.01", "--name", "planted")
