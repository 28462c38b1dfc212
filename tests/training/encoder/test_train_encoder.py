from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg
import torch
from draw import draw_tissue, write_svs
from summaries import write_tiny
from typer.testing import CliRunner

from wsisum_cli.commands.learning.train import train_app
from wsisum_cli.errors import ModelError, UsageError
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.slides.source import find_source, sha256_of
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.training import loop
from wsisum_cli.training.encoder.augment import STAINS, Strength, draw_views, jitter_stains, lay
from wsisum_cli.training.encoder.network import Byol, Network, SimClr
from wsisum_cli.training.encoder.symmetry import FieldType
from wsisum_cli.training.encoder.teaching import (
    Poses,
    TeachingSettings,
    TeachingTask,
    check_batches,
    check_teacher,
    mean_over_poses,
    start_from,
    teaching_targets,
    train_pupil,
)
from wsisum_cli.training.encoder.tiles import Tiles, read_tiles
from wsisum_cli.training.encoder.train import (
    FIELDS,
    EncoderTask,
    Settings,
    draw_batch,
    finish_encoder,
    normalised,
    train_encoder,
)
from wsisum_cli.verification.verify import verify_summary

CARD = {"name": "tiny", "version": "1", "licence": "MIT", "description": "of a test"}
FEW = (FieldType(0, 1), FieldType(0, 1), FieldType(8, 1), FieldType(8, 1))
SMALL = Settings(steps_an_epoch=4, slides=2, tiles=6, side=64, fields=FEW, dims=16)
TRAINING = loop.Settings(epochs=2, device="cpu")
STILL = Strength(crop=(256, 256), stain=0, background=0, brightness=0, blur=0, jpeg=0)


def draw_tile(rng: np.random.Generator) -> np.ndarray:
    """Dark blobs on pink, of a size and density of its own."""
    yy, xx = np.mgrid[:256, :256]
    tile = np.full((256, 256, 3), (225, 160, 200), np.float32)
    for _ in range(int(rng.integers(5, 60))):
        x, y, radius = *rng.uniform(0, 256, 2), rng.uniform(4, 14)
        tile[(xx - x) ** 2 + (yy - y) ** 2 < radius**2] = (90, 50, 140)
    return np.clip(tile + rng.normal(0, 6, tile.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ZIP files: a slide, and two slides in folders."""
    folder, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(0)
    for name, members in (("one", ["{}.jpg"]), ("two", ["a/{}.jpg", "b/{}.jpg"])):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as file:
            file.writestr("labels.csv", "nothing to learn from")
            for member in members:
                for number in range(8):
                    file.writestr(member.format(number), simplejpeg.encode_jpeg(draw_tile(rng), 90))
    return folder


@pytest.fixture(scope="module")
def tiles(archive: Path) -> Tiles:
    return read_tiles([archive])


def test_tiles_know_their_slide(tiles: Tiles):
    assert tiles.slides == ["a", "b", "one"]
    assert np.bincount(tiles.slide).tolist() == [8, 8, 8]
    assert tiles.pixels.shape == (24, 256, 256, 3)


def test_small_tiles_are_left_out(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "small.zip", "w") as file:
        file.writestr("0.jpg", simplejpeg.encode_jpeg(np.zeros((100, 256, 3), np.uint8)))
    with pytest.raises(UsageError, match="no tile of 256 px"):
        read_tiles([tmp_path])


def test_slides_of_which_no_tile_is_left_are_no_slides(tmp_path: Path):
    (tmp_path / "lung").mkdir()
    for name, side in {"lung/a": 256, "b": 100, "a": 300}.items():
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as file:
            file.writestr("./0.jpg", simplejpeg.encode_jpeg(np.zeros((side, side, 3), np.uint8)))
    tiles = read_tiles([tmp_path])
    assert (tiles.slides, tiles.slide.tolist()) == (["a", "lung/a"], [0, 1])


def test_patches_of_summary_slides_are_tiles(tmp_path: Path):
    write_svs(tmp_path / "a.svs", draw_tissue(2048, 1536), tile=256)
    encoder, output = load_encoder("texture", "cpu"), tmp_path / "out" / "lung" / "a.ozx"
    job = Job(find_source(tmp_path / "a.svs"), output, "a.svs")
    compress_slide(job, Options(keep=5, draws=100), Tools(encoder))
    pruned = tmp_path / "out" / ".wsisum" / "pruned" / "a.ozx"  # moved aside, so no longer of the archive
    pruned.parent.mkdir(parents=True)
    pruned.write_bytes(output.read_bytes())
    tiles = read_tiles([tmp_path / "out"])
    assert (tiles.slides, tiles.slide.tolist()) == (["lung/a"], [0] * 5)
    with open_summary(output) as summary:
        assert np.array_equal(tiles.pixels, np.stack(list(summary.patches)))


def test_summaries_of_other_patches_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"tiny\.ozx: expected patches of 256 px at 0.5 µm per px, found 32 px"):
        read_tiles([write_tiny(tmp_path / "tiny.ozx")])


def test_batches_of_one_tile_are_refused(tiles: Tiles):
    alone = Tiles(tiles.pixels[:9], tiles.slide[:9], tiles.slides[:2])
    check_batches(alone, Settings(slides=2))
    with pytest.raises(UsageError, match="--slides 1: expected batches of two tiles or more"):
        check_batches(alone, Settings(slides=1))


def test_a_folder_without_tiles_is_an_error(tmp_path: Path):
    with pytest.raises(UsageError, match="expected ZIP files of JPEG tiles, or summary slides"):
        read_tiles([tmp_path])


def damaged(archive: Path, path: Path) -> Path:
    """A copy with bytes of its first tile changed, which the ZIP file's checksum tells."""
    content = bytearray((archive / "two.zip").read_bytes())
    with zipfile.ZipFile(archive / "two.zip") as file:
        start = file.getinfo("a/0.jpg").header_offset
    content[start + 400 : start + 500] = bytes(100)
    path.write_bytes(content)
    return path


def test_files_that_cannot_be_read_are_told(archive: Path, tmp_path: Path):
    (tmp_path / "none.zip").write_bytes(b"no ZIP file")
    with pytest.raises(UsageError, match=r"none\.zip: expected a ZIP file of JPEG tiles, found .*; give one"):
        read_tiles([tmp_path / "none.zip"])
    with pytest.raises(UsageError, match=r"bad\.zip: expected a JPEG tile as a/0\.jpg, .*; make the file again"):
        read_tiles([damaged(archive, tmp_path / "bad.zip")])
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as file:
        file.writestr("0.jpg", "no JPEG")
    with pytest.raises(UsageError, match=r"text\.zip: expected a JPEG tile as 0\.jpg"):
        read_tiles([tmp_path / "text.zip"])


def test_views_of_no_strength_are_turned_tiles(tiles: Tiles):
    rng = np.random.default_rng(1)
    view = draw_views(tiles.pixels[:1], 256, STILL, rng)[0].astype(float)
    assert abs(view.mean() - tiles.pixels[0].mean()) < 6  # turned and mirrored: only its corners are lost
    assert np.array_equal(jitter_stains(tiles.pixels[:1], STILL, rng), np.maximum(tiles.pixels[:1], 1))


def test_stain_jitter_changes_the_amounts_of_the_stains_alone():
    amounts = np.random.default_rng(0).uniform(0.1, 0.8, (1, 32, 32, 3)) * (1, 1, 0)
    tile = np.exp(-amounts @ STAINS) * 255
    changed = jitter_stains(tile.astype(np.uint8), replace(STILL, stain=0.3), np.random.default_rng(3))
    found = -np.log(np.maximum(changed, 1) / 255) @ np.linalg.inv(STAINS)
    ratio = (found[..., :2] / amounts[..., :2]).reshape(-1, 2)
    assert np.all(np.abs(np.median(ratio, 0) - 1) > 0.01)
    assert np.all(np.percentile(ratio, 90, 0) - np.percentile(ratio, 10, 0) < 0.1)
    assert np.abs(found[..., 2]).max() < 0.06


def test_batches_follow_from_the_seed(tiles: Tiles):
    first, again, other = (draw_batch(tiles, SMALL, (0, step)) for step in (0, 0, 1))
    assert first.shape == (24, 64, 64, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_training_brings_the_views_of_a_tile_together(method: str, tiles: Tiles, tmp_path: Path):
    settings = replace(SMALL, method=method, steps_an_epoch=12)
    task = EncoderTask(tiles, settings, tiles)
    losses: list[float] = []
    loop.train(task, tmp_path, loop.Settings(epochs=3, device="cpu"), {}, lambda *seen: losses.append(seen[2]["loss"]))
    assert losses[-1] < losses[0]
    assert 0 <= task.evaluate()["held_out_same_tile"] <= 1


def test_byol_copy_follows_slowly(tiles: Tiles, tmp_path: Path):
    task = EncoderTask(tiles, replace(SMALL, method="byol"))
    before = {name: value.clone() for name, value in task.module.named_parameters()}
    loop.train(task, tmp_path, loop.Settings(epochs=1, device="cpu"), {})
    after = dict(task.module.named_parameters())
    moved = {part: (after[part] - before[part]).abs().mean().item() for part in before if "stem.0" in part}
    assert 0 < moved["target.0.stem.0.weight"] < moved["network.stem.0.weight"]


def test_an_unknown_method_is_an_error(tiles: Tiles):
    with pytest.raises(UsageError, match="expected one of simclr, byol"):
        EncoderTask(tiles, replace(SMALL, method="magic"))


def test_one_process_of_several_writes(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "train", lambda *_: loop.Trained(1, (), stopped_early=False, first_process=False))
    assert train_encoder([archive], tmp_path, SMALL, loop.Settings(), CARD) is None
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def trained(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = train_encoder([archive], tmp_path_factory.mktemp("run"), SMALL, TRAINING, CARD)
    assert path is not None
    return path


def test_a_summary_is_made_with_it(trained: Path, tmp_path: Path):
    encoder, slide, summary = load_encoder(trained, "cpu"), tmp_path / "slide.svs", tmp_path / "slide.ozx"
    write_svs(slide, draw_tissue(3000, 2500, 3))
    compress_slide(Job(find_source(slide), summary, slide.name), Options(pixels="jpeg"), Tools(encoder))
    result = verify_summary(summary, lambda _: encoder, "source", slide)
    assert result.findings == []
    with open_summary(summary) as opened:
        assert opened.attributes["encoder"]["name"] == "tiny"
        assert opened.features.shape[1] == 16


def test_train_export_and_load(archive: Path, trained: Path, tiles: Tiles, tmp_path: Path):
    path = trained
    encoder = load_encoder(path, "cpu")
    assert (encoder.card.dims, encoder.card.patch_size, encoder.card.mpp) == (16, 256, 0.5)
    features = encoder(tiles.pixels)
    assert np.abs(features.mean(0)).max() < 1e-3  # of the tiles that it was standardised by
    assert np.array_equal(features[3:5], encoder(tiles.pixels[3:5]))
    again = train_encoder([archive], tmp_path / "again", SMALL, TRAINING, CARD)
    assert again is not None
    assert path.read_bytes() == again.read_bytes()


class Tinted:
    """A teacher who sees the mean colour of a patch and how much its halves differ."""

    def __init__(self, patch_size: int = 256, mpp: float = 0.5) -> None:
        self.card = SimpleNamespace(name="tinted", sha256="0" * 64, patch_size=patch_size, mpp=mpp, dims=6)
        self.seen: list[np.ndarray] = []

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.seen.append(pixels)
        half = pixels.shape[2] // 2
        left, right = pixels[:, :, :half].mean((1, 2)), pixels[:, :, half:].mean((1, 2))
        return np.concatenate([(left + right) / 2, left - right], axis=1).astype(np.float32)


def test_a_tile_is_laid_in_its_middle_at_the_scale_asked_for():
    tile = np.zeros((256, 256, 3), np.uint8)
    tile[96:160, 96:160] = 255  # a square of 64 px in the middle: as much of it at any turn
    for side, scale in ((256, 1.0), (256, 2.0), (192, 0.8)):
        for seed in range(4):
            laid = lay(tile, side, scale, np.random.default_rng(seed))
            assert laid.shape == (side, side, 3)
            assert laid.sum() / 255 / 3 == pytest.approx((64 * scale) ** 2, rel=0.04)
            rows, columns = np.nonzero(laid[..., 0] > 128)
            assert (rows.mean(), columns.mean()) == pytest.approx(((side - 1) / 2, (side - 1) / 2), abs=0.7)


def test_the_mean_over_poses_forgets_how_a_tile_lies(tiles: Tiles):
    teacher, pixels, poses = Tinted(), tiles.pixels[::2], Poses(32)
    many = mean_over_poses(teacher, pixels, poses, 0)
    once = np.concatenate([teacher(pixels[i : i + 1]) for i in range(len(pixels))])
    assert np.abs(many[:, 3:]).mean() < 0.35 * np.abs(once[:, 3:]).mean()
    assert np.abs(many[:, :3] - once[:, :3]).mean() < 4
    turned = mean_over_poses(teacher, pixels[:, ::-1, ::-1].copy(), poses, 0)
    assert np.abs(many - turned)[:, 3:].mean() < 0.5 * np.abs(once[:, 3:]).mean()


def test_a_teacher_gets_patches_of_its_own_size_and_mpp(tiles: Tiles):
    teacher = Tinted(128, 1.0)  # shows just what a tile does
    mean_over_poses(teacher, tiles.pixels[:4], Poses(1, (1.0, 1.0)), 0)
    assert teacher.seen[0].shape == (4, 128, 128, 3)
    assert teacher.seen[0].mean() == pytest.approx(tiles.pixels[:4].mean(), abs=6)
    with pytest.raises(UsageError, match=r"teacher 'tinted': expected one whose patches show at most 384 px .* 512"):
        check_teacher(Tinted(256, 1.0).card)


def test_lessons_are_kept_for_the_same_teacher_and_tiles(tiles: Tiles, tmp_path: Path):
    teacher, seen = Tinted(), []
    first = teaching_targets(teacher, tiles, Poses(2), tmp_path, lambda *counts: seen.append(counts))
    assert seen == [(24, 24)]
    assert first.mean(0) == pytest.approx(0, abs=1e-4)
    assert first.std(0) == pytest.approx(1, abs=1e-3)
    teacher.seen.clear()
    assert np.array_equal(teaching_targets(teacher, tiles, Poses(2), tmp_path), first)
    assert not teacher.seen
    assert not np.array_equal(teaching_targets(teacher, tiles, Poses(3), tmp_path), first)
    assert [path.name for path in tmp_path.iterdir()] == ["lessons.npz"]
    for damage in (b"cut short", b""):
        (tmp_path / "lessons.npz").write_bytes(damage)
        assert np.array_equal(teaching_targets(teacher, tiles, Poses(2), tmp_path), first)
    other = Tiles(255 - tiles.pixels, tiles.slide, tiles.slides)
    assert not np.array_equal(teaching_targets(teacher, other, Poses(2), tmp_path), first)


def test_a_pupil_learns_what_its_teacher_sees(archive: Path, trained: Path, tiles: Tiles, tmp_path: Path):
    losses: list[float] = []
    path = train_pupil(
        [archive], tmp_path / "pupil", TeachingSettings(trained, trained.parent), replace(SMALL, steps_an_epoch=6),
        loop.Settings(epochs=3, device="cpu"), CARD, lambda *seen: losses.append(seen[2]["loss"]),
    )  # fmt: skip
    assert losses[-1] < losses[0]
    assert path is not None
    pupil, teacher = load_encoder(path, "cpu"), load_encoder(trained, "cpu")
    assert pupil(tiles.pixels).shape == teacher(tiles.pixels).shape
    again = train_pupil(
        [archive], tmp_path / "again", TeachingSettings(trained, trained.parent), replace(SMALL, steps_an_epoch=6),
        loop.Settings(epochs=3, device="cpu"), CARD,
    )  # fmt: skip
    assert again is not None
    assert again.read_bytes() == path.read_bytes()
    configuration = json.loads((path.parent / "configuration.json").read_text())
    assert configuration["teacher"]["sha256"] == teacher.card.sha256
    assert configuration["start_sha256"] == sha256_of(trained.parent / "checkpoint.pt")
    kept = (path.parent / "lessons.npz").read_bytes()
    for other in (
        TeachingSettings(trained),
        TeachingSettings(trained, path.parent),
        TeachingSettings(trained, trained.parent, Poses(3)),
    ):
        with pytest.raises(UsageError, match="holds a run of another configuration"):
            train_pupil(
                [archive], path.parent, other, replace(SMALL, steps_an_epoch=6),
                loop.Settings(epochs=3, device="cpu"), CARD,
            )  # fmt: skip
    assert (path.parent / "lessons.npz").read_bytes() == kept


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "pupil"], "--method pupil: expected --teacher FILE"),
        (["--teacher", "ENCODER"], "expected --method pupil, found simclr"),
        (["--start", "RUN", "--method", "byol"], "expected --method pupil, found byol"),
    ],
)
def test_a_pupil_and_its_teacher_go_together(
    options: list[str], words: str, archive: Path, trained: Path, tmp_path: Path
):
    places = {"ENCODER": str(trained), "RUN": str(trained.parent)}
    given = ["encoder", "--tiles", str(archive), "-o", str(tmp_path), *(places.get(o, o) for o in options)]
    with pytest.raises(UsageError, match=words):
        CliRunner().invoke(train_app, given, catch_exceptions=False)


def test_a_pupil_by_the_command(archive: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TeachingTask, "steps", lambda *_: 3)  # of an epoch
    given = ["encoder", "--tiles", str(archive), "-o", str(tmp_path), "--method", "pupil", "--epochs", "1"]
    given += ["--teacher", str(trained), "--slides", "1", "--tiles-each", "2", "--device", "cpu", "--dims", "8"]
    result = CliRunner().invoke(train_app, given, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "encoder.onnx")
    assert "the teacher has seen 24 of 24 tiles" in result.stderr
    assert load_encoder(tmp_path / "encoder.onnx", "cpu").card.dims == 8


def test_a_pupil_starts_from_a_run_of_the_same_network_alone(trained: Path, tmp_path: Path):
    network = Network(SMALL.fields)
    start_from(network, trained.parent)
    with pytest.raises(ModelError, match="of another shape; train it again"):
        start_from(Network((FieldType(8), FieldType(8), FieldType(16), FieldType(16))), trained.parent)
    with pytest.raises(UsageError, match=r"found no checkpoint\.pt"):
        start_from(network, tmp_path)
    torch.save({"module": 3}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match="of another shape"):
        start_from(network, tmp_path)


def test_the_exported_graph_is_the_trained_network(tiles: Tiles):
    """Normalising is folded into the stem: what comes out is what the network gives for normalised pixels."""
    torch.manual_seed(0)
    network = Network(SMALL.fields)
    network(torch.randn(8, 3, 136, 136))  # means and variances of maps that are not 0 and 1
    network.eval()
    encoder = finish_encoder(network, tiles, 16).eval()
    with torch.no_grad():
        plain = (network(normalised(torch.from_numpy(tiles.pixels[:5]))) - encoder.centre) @ encoder.axes
        assert torch.allclose(encoder(torch.from_numpy(tiles.pixels[:5])), plain, atol=1e-4)


def test_features_are_at_most_as_long_as_what_the_network_gives(tmp_path: Path):
    longest = Network(FIELDS).dims
    given = ["encoder", "--tiles", str(tmp_path), "-o", str(tmp_path / "run"), "--dims", str(longest + 1)]
    result = CliRunner().invoke(train_app, given)
    assert result.exit_code == 2
    assert f"expected at most {longest}" in result.output


def test_the_networks_are_as_wide_as_they_say():
    network = Network((FieldType(8), FieldType(0, 2), FieldType(8, 2), FieldType(24, 2)))
    assert network(torch.zeros(2, 3, 256, 256)).shape == (2, network.dims)
    assert SimClr(network)(torch.rand(6, 3, 64, 64)).ndim == Byol(network)(torch.rand(6, 3, 64, 64)).ndim == 0
