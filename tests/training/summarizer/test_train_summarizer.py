"""A summarizer trained by the command on a small archive: what it writes, what it computes, what it refuses."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("onnx")
pytest.importorskip("matplotlib")

from onnx_models import write_slide_encoder, write_summarizer  # noqa: E402
from summaries import compress, shipped_encoder  # noqa: E402
from training_data import draw_slide, write_archive, write_features  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from wsisum_cli.commands.learning import train as cli  # noqa: E402
from wsisum_cli.errors import FeaturesError, ModelError, UsageError  # noqa: E402
from wsisum_cli.models.choice import SlideModels  # noqa: E402
from wsisum_cli.models.session import Session, open_session  # noqa: E402
from wsisum_cli.models.slide_encoder import load_slide_encoder  # noqa: E402
from wsisum_cli.models.summarizer import Summarizer, load_summarizer, run_graph  # noqa: E402
from wsisum_cli.summary.reader import open_summary  # noqa: E402
from wsisum_cli.training import loop  # noqa: E402
from wsisum_cli.training.data import Cases, TrainingData, estimate_side, find_files, read_cases, read_slides  # noqa: E402
from wsisum_cli.training.summarizer.masked_autoencoder import MaskedAutoencoder, Sizes  # noqa: E402
from wsisum_cli.training.summarizer.masking import Masking, training_batch  # noqa: E402
from wsisum_cli.training.summarizer.start import set_start  # noqa: E402
from wsisum_cli.training.summarizer.targets import PARTS, SlideEncoderTargets, Targets  # noqa: E402
from wsisum_cli.training.summarizer.train import Options, SummarizerTask, sizes_of, split  # noqa: E402

NAMES = ["A-1", "A-2", "B-1", "C-1", "C-2", "D-1"]
WIDTH = 5
OUTPUTS = ("reconstruction", "embedding")
TINY = [
    *("--candidates", "40", "--epochs", "3", "--draws", "2", "--batch-size", "4", "--width", "16", "--depth", "1"),
    *("--components", "8", "--case-regex", r"^(\w)-", "--name", "tiny", "--licence", "CC0-1.0", "--seed", "3"),
]


@pytest.fixture(scope="module")
def dims() -> int:
    """Those of the shipped encoder, with which the summarizer is to be used."""
    return shipped_encoder().card.dims


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, dims: int) -> Path:
    card = shipped_encoder().card
    return write_archive(tmp_path_factory.mktemp("archive"), NAMES, dims, encoder=card.name, sha256=card.sha256)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, dims: int) -> Path:
    path = tmp_path_factory.mktemp("target") / "slide_encoder.onnx"
    return write_slide_encoder(path, dims=dims, embedding_dims=WIDTH, encoder_sha256=shipped_encoder().card.sha256)


def train(archive: Path, target: Path, folder: Path, *options: str, tiny: list[str] = TINY) -> Any:
    asked = ["--features", archive, "--slide-encoder", target, "-o", folder, "--device", "cpu", *tiny, *options]
    return CliRunner().invoke(cli.train_app, ["summarizer", *map(str, asked)])


@pytest.fixture(scope="module")
def run(archive: Path, target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "summarizer"
    result = train(archive, target, folder)
    assert result.exception is None, result.output
    assert result.stdout.strip() == str(folder / "summarizer.onnx")
    assert "epoch 3 of 3" in result.stderr
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> Summarizer:
    return load_summarizer(run / "summarizer.onnx", "cpu")


@pytest.fixture(scope="module")
def session(run: Path) -> Session:
    return open_session(run / "summarizer.onnx", "cpu", lambda session: session)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / max(1.0, float(np.abs(a).max())))


def test_the_run_folder(run: Path):
    assert sorted(path.name for path in run.iterdir()) == [
        *("checkpoint.pt", "clusters", "configuration.json", "curves.png", "metrics.csv", "metrics.json"),
        "summarizer.onnx",
    ]
    found = json.loads((run / "configuration.json").read_text())
    training, held_out = ({name[0] for name in found[part]} for part in ("training", "held_out"))
    assert not training & held_out
    assert training
    assert held_out
    assert found["cases"] == {name: name[0] for name in NAMES}
    assert {*found["training"], *found["held_out"]} == set(NAMES)
    measured = json.loads((run / "metrics.json").read_text())
    losses = [row["held_out_loss"] for row in measured["epochs"]]
    assert len(losses) == 4  # the start, and each epoch
    assert measured["best_epoch"] == np.argmin(losses)


def test_it_learns(tmp_path: Path):
    """From nothing but its own beginnings: weights that the training slides set at the start are left as they are."""
    archive = write_archive(tmp_path / "features", NAMES, 6)
    data = read_slides([archive], read_cases(None, r"^(\w)-"))
    targets = Targets({slide.name: slide.features.mean(axis=0) for slide in data.slides}, 6, {})
    options = Options(Masking(40), loop.Settings(epochs=4, learning_rate=1e-3, device="cpu"), draws=8)
    training, held_out = split(data, options)
    torch.manual_seed(0)
    task = SummarizerTask(MaskedAutoencoder(sizes_of(data, targets, options)), training, held_out, targets, options)
    rows = loop.train(task, tmp_path / "run", options.settings, {}).metrics
    for name in ("loss", "held_out_loss", "held_out_reconstruction_error", "held_out_embedding_error"):
        assert rows[-1][name] < 0.98 * rows[0][name], name


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingData, Targets, Options]:
    """Ten slides, and what a slide encoder makes of them and of parts of those to train on: maps of their means."""
    folder = tmp_path_factory.mktemp("divided")
    for number in range(10):
        write_features(folder / f"{number}.h5", *draw_slide(number, 24, 300))
    encoding = SlideEncoderTargets(
        load_slide_encoder(write_slide_encoder(folder / "slide_encoder.onnx", dims=24, embedding_dims=WIDTH), "cpu")
    )
    data, options = read_slides([folder], Cases(), visit=encoding.visit), Options(Masking(200), components=12)
    return data, encoding.targets(data, split(data, options)[0], 0), options


def start(data: TrainingData, targets: Targets, options: Options) -> dict[str, float]:
    """How good it is on held-out slides before the first epoch."""
    training, held_out = split(data, options)
    torch.manual_seed(0)
    module = MaskedAutoencoder(sizes_of(data, targets, options)).eval()
    known = [targets.embeddings[slide.name] for slide in training]
    set_start(module, training, known, options.masking, 0, targets.parts)
    with torch.no_grad():
        return SummarizerTask(module, training, held_out, targets, options).evaluate()


def test_parts_of_slides_teach_more_than_slides(divided: tuple[TrainingData, Targets, Options]):
    data, targets, options = divided
    with_parts, without = start(data, targets, options), start(data, replace(targets, parts={}), options)
    assert with_parts["held_out_embedding_cosine"] > without["held_out_embedding_cosine"] + 0.05
    assert with_parts["held_out_embedding_error"] < 0.5 * without["held_out_embedding_error"]
    assert with_parts["held_out_reconstruction_cosine"] == without["held_out_reconstruction_cosine"]


def test_a_draw_of_a_part_has_its_target(divided: tuple[TrainingData, Targets, Options]):
    data, targets, options = divided
    training, held_out = split(data, options)
    assert set(targets.parts) == {slide.name for slide in training}
    assert not set(targets.parts) & {slide.name for slide in held_out}
    slide, parts = training[0], targets.parts[training[0].name]
    sizes = [len(part.rows) for part in parts]
    assert len(parts) == PARTS
    assert 100 <= min(sizes) < 150 < 250 < max(sizes) <= 300
    for seed in range(5):
        masking = Masking(500, queries=500, crops=1.0)
        batch = training_batch([slide], [targets.embeddings[slide.name]], masking, (seed,), targets.parts)
        drawn = {row.tobytes() for row in batch["features"][0, batch["valid"][0]].numpy()}
        of = [part for part in parts if {row.tobytes() for row in slide.features[part.rows]} == drawn]
        assert any(np.array_equal(part.target, batch["target"][0].numpy()) for part in of)
    whole = training_batch([slide], [targets.embeddings[slide.name]], Masking(crops=0.0), (0,), targets.parts)
    assert not whole["targeted"].any()


def test_the_card_says_what_it_is_and_how_good(model: Summarizer, run: Path, dims: int):
    card, encoder = model.card, shipped_encoder().card
    assert (card.name, card.licence, card.dims, card.embedding_dims) == ("tiny", "CC0-1.0", dims, WIDTH)
    assert (card.candidates, card.mask_ratio) == (40, 0.875)
    assert (card.encoder, card.encoder_sha256) == (encoder.name, encoder.sha256)
    found = json.loads(open_session(run / "summarizer.onnx", "cpu", lambda s: s.metadata["wsisum.card"]))
    cosines = found["figures"]["reconstruction_cosine"]
    assert set(cosines) >= {"summarizer", "visible mean", "nearest visible", "inverse distance", "Gaussian process"}
    better = all(cosines["summarizer"] > value for name, value in cosines.items() if name != "summarizer")
    assert ("It does not reconstruct" in card.description) == (not better)
    assert f"{cosines['summarizer']:.3f}" in card.description
    figures = found["figures"]
    assert -1 <= figures["embedding_cosine_of_visible_mean"] <= 1
    said = f"{figures['embedding_cosine']:.3f}; {figures['embedding_cosine_of_visible_mean']:.3f} of the visible mean"
    assert said in card.description


def test_torch_and_onnx_agree(model: Summarizer, run: Path, dims: int):
    network = MaskedAutoencoder(Sizes(dims, WIDTH, components=8, pooled=16, width=16, depth=1)).eval()
    stored = torch.load(run / "checkpoint.pt", weights_only=True)
    network.load_state_dict(stored["state"]["best_weights"])
    features, coords = draw_slide(70, dims)
    kept = np.random.default_rng(0).permutation(120)[:24].reshape(2, 12)
    made = model(features, coords * 512, 512, kept)
    places = torch.from_numpy(coords - coords.min(axis=0)).float()
    with torch.no_grad():
        expected = network(
            torch.from_numpy(features).float().expand(2, -1, -1),
            places.expand(2, -1, -1),
            torch.ones(2, 120, dtype=torch.bool),
            torch.from_numpy(kept),
        )
    assert apart(expected[0].numpy(), made.reconstruction) < 1e-4
    assert apart(expected[1].numpy(), made.embedding) < 1e-4


@pytest.mark.parametrize(("batch", "candidates", "kept"), [(1, 1, 1), (3, 2, 1), (1, 500, 63), (2, 64, 64)])
def test_any_batch_candidates_and_kept(model: Summarizer, dims: int, batch: int, candidates: int, kept: int):
    features, coords = draw_slide(71, dims, candidates)
    rng = np.random.default_rng(1)
    rows = np.stack([rng.permutation(candidates)[:kept] for _ in range(batch)])
    made = model(features, coords, 1, rows)
    assert made.reconstruction.shape == (batch, candidates, dims)
    for i, alone in enumerate(rows):
        one = model(features, coords, 1, alone[None])
        assert apart(one.reconstruction[0], made.reconstruction[i]) < 1e-4
        assert apart(one.embedding[0], made.embedding[i]) < 1e-4


@pytest.mark.parametrize("filling", [0.0, 1e5, float("nan")])
def test_nothing_depends_on_padding(session: Session, dims: int, filling: float):
    features, coords = draw_slide(72, dims, 30)
    kept = np.array([[3, 8, 20, 29]])
    plain = [features[None], coords[None], np.ones((1, 30), bool), kept]
    padded = [
        np.concatenate([features, np.full((7, dims), filling)])[None],
        np.concatenate([coords, np.full((7, 2), filling)])[None],
        np.arange(37)[None] < 30,
        np.concatenate([kept, [[33, 36]]], axis=1),  # rows of padding among the kept ones are ignored
    ]
    expected, found = (graph(session, *arrays) for arrays in (plain, padded))
    assert apart(expected[0], found[0][:, :30]) < 1e-4
    assert apart(expected[1], found[1]) < 1e-4
    assert np.isfinite(found[0]).all()


def graph(
    session: Session, features: np.ndarray, coords: np.ndarray, valid: np.ndarray, kept: np.ndarray
) -> list[np.ndarray]:
    feeds = {"features": features.astype(np.float32), "coords": coords.astype(np.float32), "valid": valid, "kept": kept}
    return run_graph(session, feeds, OUTPUTS)


@pytest.mark.parametrize(
    "moved",
    [
        pytest.param(lambda coords: coords + np.array([300, -40]), id="moved"),
        pytest.param(lambda coords: coords[:, ::-1], id="turned"),
    ],
)
def test_only_distances_between_patches_matter(session: Session, dims: int, moved: Callable[[np.ndarray], np.ndarray]):
    features, coords = draw_slide(73, dims, 40)
    valid, kept = np.ones((1, 40), bool), np.arange(0, 40, 7)[None]
    before = graph(session, features[None], coords[None], valid, kept)
    after = graph(session, features[None], moved(coords)[None], valid, kept)
    assert apart(before[0], after[0]) < 1e-4
    assert apart(before[1], after[1]) < 1e-4
    other = graph(session, features[None], coords[None] * np.array([1, 9]), valid, kept)
    assert apart(before[0], other[0]) > 1e-3


def test_masked_patches_are_not_seen(model: Summarizer, dims: int):
    features, coords = draw_slide(74, dims)
    kept = np.arange(0, 120, 9)[None]
    hidden = np.setdiff1d(np.arange(120), kept)
    before = model(features, coords, 1, kept)
    changed = features.copy()
    changed[hidden] = np.random.default_rng(2).normal(size=(len(hidden), dims)) * 50
    after = model(changed, coords, 1, kept)
    np.testing.assert_array_equal(before.reconstruction, after.reconstruction)
    np.testing.assert_array_equal(before.embedding, after.embedding)
    changed[kept[0, 0]] += 1
    assert apart(before.reconstruction, model(changed, coords, 1, kept).reconstruction) > 1e-3
    # what is predicted for a place does not depend on which other places are asked for
    some = np.sort(np.concatenate([kept[0], hidden[::3]]))
    fewer = model(features[some], coords[some], 1, np.searchsorted(some, kept))
    assert apart(before.reconstruction[:, some], fewer.reconstruction) < 1e-4


def test_an_interrupted_run_resumes_and_gives_the_same_bytes(
    archive: Path, target: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli, "show_epoch", interrupt)
        stopped = train(archive, target, tmp_path)
    assert stopped.exit_code == 130
    assert "run the same command again" in stopped.stderr
    assert not (tmp_path / "summarizer.onnx").exists()
    resumed = train(archive, target, tmp_path)
    assert resumed.exception is None, resumed.output
    assert "epoch 1 of 3" not in resumed.stderr
    for name in ("summarizer.onnx", "metrics.json", "metrics.csv", "curves.png", "configuration.json"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes(), name
    refused = train(archive, target, tmp_path, "--seed", "4")
    assert isinstance(refused.exception, UsageError)
    assert "holds a run of another configuration" in str(refused.exception)


def test_a_summary_is_made_with_it(run: Path, target: Path, tmp_path: Path):
    from draw import draw_tissue, write_svs

    write_svs(tmp_path / "slide.svs", draw_tissue(3000, 2500, 3))
    models = SlideModels(load_summarizer(run / "summarizer.onnx", "cpu"), load_slide_encoder(target, "cpu"))
    with open_summary(compress(tmp_path / "slide.svs", tmp_path / "slide.ozx", "jpeg", models)) as summary:
        assert summary.attributes["summarizer"]["name"] == "tiny"
        assert -1 <= summary.attributes["quality"]["reconstruction"] <= 1
        assert summary.reference.embedding.shape == (WIDTH,)


# -- bad input -----------------------------------------------------------------------------------------------


def empty(path: Path, *_: np.ndarray) -> None:
    path.write_bytes(b"")


def no_rows(path: Path, features: np.ndarray, coords: np.ndarray) -> None:
    write_features(path, features[:0], coords[:0])


def no_arrays(path: Path, *_: np.ndarray) -> None:
    h5py.File(path, "w").close()


def not_finite(path: Path, features: np.ndarray, coords: np.ndarray) -> None:
    features[3, 5] = np.nan
    write_features(path, features, coords)


def too_short(path: Path, features: np.ndarray, coords: np.ndarray) -> None:
    write_features(path, features[:, :7], coords)


def fewer_coords(path: Path, features: np.ndarray, coords: np.ndarray) -> None:
    write_features(path, features, coords[1:])


@pytest.mark.parametrize(
    ("write", "error", "said"),
    [
        (empty, FeaturesError, "E-1.h5: not a readable h5 file"),
        (no_rows, FeaturesError, "no patches; encode the slide again, or remove the file"),
        (no_arrays, FeaturesError, "E-1.h5: expected a numeric array features or feats, found nothing"),
        (not_finite, FeaturesError, "E-1.h5: some features or coords are not finite"),
        (fewer_coords, FeaturesError, "E-1.h5: 60 features but 59 coords"),
        (too_short, FeaturesError, "E-1.h5: expected features of"),
    ],
)
def test_bad_features_are_refused(
    target: Path, tmp_path: Path, dims: int, write: Callable[..., None], error: type[Exception], said: str
):
    write_archive(tmp_path / "features", ["A-1", "B-1"], dims)
    write(tmp_path / "features" / "E-1.h5", *draw_slide(5, dims, 60))
    result = train(tmp_path / "features", target, tmp_path / "run")
    assert isinstance(result.exception, error)
    assert said in str(result.exception)
    assert str(tmp_path) not in str(result.exception)


def test_slides_of_another_length_are_refused(archive: Path, tmp_path: Path, dims: int):
    """With teachers there is no slide encoder to say how long features must be."""
    features, coords = draw_slide(5, dims, 60)
    write_features(tmp_path / "E-1.h5", features[:, :7], coords)
    seen: list[int] = []
    said = rf"E-1\.h5: expected features of {dims} numbers, as A-1 has them, found 7; take one of the two out"
    shutil.copy(archive / "D-1.h5", tmp_path / "F-1.h5")
    with pytest.raises(FeaturesError, match=said):
        read_slides([archive, tmp_path], Cases(), progress=lambda done, total: seen.append(done))
    assert seen == list(range(1, 7))  # F-1 was not waited for


def test_a_slide_without_a_case_is_refused_before_any_is_read(archive: Path):
    seen: list[int] = []
    with pytest.raises(UsageError, match="does not match slide D-1"):
        read_slides([archive], read_cases(None, "^[ABC]"), progress=lambda done, total: seen.append(done))
    assert not seen


def mirrored(folder: Path, dims: int) -> Path:
    """As `wsisum features` mirrors a tree where slides of several cases are called alike."""
    for number, name in enumerate(("case0/1", "case1/1", "case1/2")):
        write_features(folder / f"{name}.h5", *draw_slide(number, dims, 60))
    return folder


def test_slides_called_alike_go_by_their_paths(tmp_path: Path):
    folder = mirrored(tmp_path / "features", 6)
    assert list(find_files([folder])) == ["2", "case0/1", "case1/1"]
    assert find_files([folder, folder / "case1", folder]) == find_files([folder])
    data = read_slides([folder], read_cases(None, r"^(case\d)/|2"), cache=tmp_path / "clusters")
    assert {slide.name: slide.case for slide in data.slides} == {"2": "2", "case0/1": "case0", "case1/1": "case1"}
    assert (tmp_path / "clusters" / "case0" / "1.npz").is_file()
    table = tmp_path / "cases.csv"
    table.write_text("slide,case\n2,b\ncase0/1,a\ncase1/1,b\n")
    assert [slide.case for slide in read_slides([folder], read_cases(table, None)).slides] == ["b", "a", "b"]
    with pytest.raises(FeaturesError, match=r"1\.h5: there are two of that name; .* give the folder that both lie in"):
        find_files([folder / "case0", folder / "case1"])


def test_the_case_of_a_slide():
    assert Cases()("batch/TCGA-3C-AALI-01Z") == "TCGA-3C-AALI"
    assert Cases()("case0/1") == "case0/1"
    optional = read_cases(None, "(A)|s")
    assert [optional(name) for name in ("A1", "s1")] == ["A", "s"]


def test_the_side_of_patches_on_no_grid_is_estimated_in_little_memory():
    rng = np.random.default_rng(0)
    places = rng.permutation(4900)
    coords = np.stack(np.divmod(places, 70), axis=1) * 512.0 + rng.uniform(-1, 1, (4900, 2))
    tracemalloc.start()
    side = estimate_side(coords)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert side == pytest.approx(512, abs=2)
    assert peak < 20e6


def test_targets_that_are_all_the_same_give_a_loss(tmp_path: Path):
    data = read_slides([write_archive(tmp_path, NAMES, 6)], Cases())
    targets, options = Targets(dict.fromkeys(data.names, np.ones(3, np.float32)), 3, {}), Options(Masking(40))
    module = MaskedAutoencoder(sizes_of(data, targets, options)).eval()
    set_start(module, data.slides, [np.ones(3, np.float32)] * len(NAMES), options.masking, 0)
    with torch.no_grad():
        found = SummarizerTask(module, data.slides, data.slides[:2], targets, options).evaluate()
    assert np.isfinite(list(found.values())).all()


def test_an_empty_folder_is_refused(target: Path, tmp_path: Path):
    (tmp_path / "features").mkdir()
    result = train(tmp_path / "features", target, tmp_path / "run")
    assert isinstance(result.exception, FeaturesError)
    assert "no h5 features here; make them with `wsisum features`" in str(result.exception)


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"dims": 9}, "takes features of 9 numbers"),
        ({"encoder_sha256": "cd" * 32, "encoder": "other"}, "was trained on features of encoder other"),
    ],
)
def test_a_slide_encoder_of_other_features_is_refused(
    archive: Path, tmp_path: Path, dims: int, card: dict[str, Any], said: str
):
    path = write_slide_encoder(tmp_path / "other.onnx", **{"dims": dims, **card})
    result = train(archive, path, tmp_path / "run")
    assert isinstance(result.exception, ModelError)
    assert said in str(result.exception)
    assert "wsisum train slide-encoder" in str(result.exception)


def test_another_kind_of_model_is_no_slide_encoder(archive: Path, tmp_path: Path):
    result = train(archive, write_summarizer(tmp_path / "summarizer.onnx"), tmp_path / "run")
    assert isinstance(result.exception, ModelError)
    assert "slide-encoder" in str(result.exception)


def test_a_checkpoint_with_foreign_pickles_is_refused(archive: Path, target: Path, run: Path, tmp_path: Path):
    folder, ran = tmp_path / "run", tmp_path / "ran"
    shutil.copytree(run, folder)

    class Foreign:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    torch.save({"module": Foreign(), "optimizer": {}, "state": {}}, folder / "checkpoint.pt")
    result = train(archive, target, folder)
    assert isinstance(result.exception, ModelError)
    assert "objects that would run code when loaded" in str(result.exception)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--case-regex", r"^(\d)-"], "does not match slide A-1"),
        (["--case-regex", "("], "is no regular expression"),
        (["--case-regex", "-"], "all 6 slides are of one case"),
        (["--teacher", "TITAN=."], "expected one kind of target"),
        (["--width", "12"], "--width: expected a multiple of 8, found 12"),
        (["--embedding-dims", "4"], "--embedding-dims: expected --teacher"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    archive: Path, target: Path, tmp_path: Path, options: list[str], said: str
):
    result = train(archive, target, tmp_path / "run", *options)
    assert isinstance(result.exception, UsageError)
    assert said in str(result.exception)


def test_a_table_of_cases_must_know_each_slide(archive: Path, target: Path, tmp_path: Path):
    table = tmp_path / "cases.csv"
    table.write_text("slide,case\n" + "".join(f"{name},{name[0]}\n" for name in NAMES[:-1]))
    result = train(archive, target, tmp_path / "run", "--cases", str(table), tiny=[])
    assert isinstance(result.exception, UsageError)
    assert "--cases: no row for slide D-1" in str(result.exception)
