"""Models that see whole slides: ONNX files in, reconstructions and embeddings out; which goes with which encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx_models import (
    DIMS,
    PROTOTYPES,
    SUMMARIZER_CARD,
    WIDTH,
    expected_embedding,
    expected_reconstruction,
    write_slide_encoder,
    write_summarizer,
)

from wsisum_cli.errors import DeviceError, ModelError, UsageError
from wsisum_cli.features.embedding import (
    CHOICES,
    ReconstructionScore,
    Tokens,
    cosine,
    embed_tissue,
    reconstruct_slide,
)
from wsisum_cli.models import choice, session, summarizer
from wsisum_cli.models.card import SLIDE_ENCODER, SUMMARIZER, Card
from wsisum_cli.models.choice import AUTO, NONE, ModelChoice, ModelChoices, SlideModels, choose, choose_models
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.places import find_model
from wsisum_cli.models.slide_encoder import SlideEncoder, load_slide_encoder
from wsisum_cli.models.summarizer import MOST_KEPT, Summarizer, load_summarizer

SIDE = 512  # level-0 px of a patch
COUNT = 40

needs_no_gpu = pytest.mark.skipif(session.nvidia_driver_found(), reason="this machine has an NVIDIA driver")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Summarizer:
    return load_summarizer(write_summarizer(tmp_path_factory.mktemp("models") / "a.onnx"), "cpu")


@pytest.fixture(scope="module")
def slide_encoder(tmp_path_factory: pytest.TempPathFactory) -> SlideEncoder:
    return load_slide_encoder(write_slide_encoder(tmp_path_factory.mktemp("models") / "a.onnx"), "cpu")


def patches(seed: int = 1, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """Features, and places on a grid in level-0 px."""
    rng = np.random.default_rng(seed)
    at = rng.permutation(20 * 20)[:count]
    return rng.normal(size=(count, DIMS)).astype(np.float32), np.stack([at % 20, at // 20], axis=1) * SIDE


def choices_of(count: int, kept: int, seed: int = 3) -> np.ndarray:
    """(B, K) rows that stay visible."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(COUNT)[:kept] for _ in range(count)])


# ------------------------------------------------------------------------------------------------ summarizers


def test_graph_gets_coords_in_patch_sides(tiny: Summarizer):
    features, coords = patches()
    kept = choices_of(3, 6)
    made = tiny(features, coords, SIDE, kept)
    assert made.reconstruction.shape == (3, COUNT, DIMS)
    assert made.embedding.shape == (3, WIDTH)
    assert (made.reconstruction.dtype, made.embedding.dtype) == (np.float32, np.float32)
    for row, visible in enumerate(kept):
        expected = expected_reconstruction(features, coords / SIDE, visible)
        np.testing.assert_allclose(made.reconstruction[row], expected, atol=1e-5)
        np.testing.assert_allclose(made.embedding[row], expected_embedding(features[visible]), rtol=1e-4, atol=1e-5)


def test_slide_offset_and_scale_do_not_matter(tiny: Summarizer):
    features, coords = patches()
    kept = choices_of(1, 6)
    here = tiny(features, coords, SIDE, kept).reconstruction
    there = tiny(features, coords * 2 + [10**6, 33], SIDE * 2, kept).reconstruction
    np.testing.assert_allclose(here, there, atol=1e-5)


@pytest.mark.parametrize("most", ["BATCH_CANDIDATES", "BATCH_PAIRS"])
def test_batched_choices_equal_single_ones(tiny: Summarizer, monkeypatch: pytest.MonkeyPatch, most: str):
    features, coords = patches()
    kept = choices_of(7, 6)
    sizes: list[int] = []
    honest = summarizer.run_graph

    def note(session: Any, feeds: Any, outputs: Any) -> Any:
        sizes.append(len(feeds["kept"]))
        return honest(session, feeds, outputs)

    monkeypatch.setattr(summarizer, "run_graph", note)
    monkeypatch.setattr(summarizer, most, 3 * COUNT * (6 if most == "BATCH_PAIRS" else 1) + 1)
    together = tiny(features, coords, SIDE, kept)
    assert sizes == [3, 2, 2]
    for row in range(7):
        alone = tiny(features, coords, SIDE, kept[row : row + 1])
        np.testing.assert_allclose(together.reconstruction[row], alone.reconstruction[0], atol=1e-6)
        np.testing.assert_allclose(together.embedding[row], alone.embedding[0], atol=1e-6)


def with_nan(features: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(features))[:, None] == 3, np.nan, features).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda f, c, k: (f[:, :-1], c, k), r"expected features \(N, 12\), found float32 \(40, 11\)"),
        (lambda f, c, k: (f.astype(np.int32), c, k), r"expected features \(N, 12\), found int32"),
        (lambda f, c, k: (f[:0], c[:0], k), r"expected features \(N, 12\)"),
        (lambda f, c, k: (with_nan(f), c, k), "NaN or infinity; encode the slide again"),
        (lambda f, c, k: (f, c[:-1], k), r"expected coords \(40, 2\), found \(39, 2\)"),
        (lambda f, c, k: (f, c, k[:0]), "expected rows"),
        (lambda f, c, k: (f, c, k[:, :0]), "expected rows"),
        (lambda f, c, k: (f, c, k + COUNT), "expected rows"),
        (lambda f, c, k: (f, c, k - COUNT), "expected rows"),
        (lambda f, c, k: (f, c, k.astype(np.float32)), "expected rows"),
    ],
)
def test_invalid_summarizer_input_is_refused(tiny: Summarizer, change: Any, complaint: str):
    features, coords = patches()
    features, coords, kept = change(features, coords, choices_of(1, 6))
    with pytest.raises(ModelError, match=complaint) as caught:
        tiny(features, coords, SIDE, kept)
    assert "tiny-summarizer" in str(caught.value)


def test_memory_is_bounded(tiny: Summarizer):
    count = 2 * MOST_KEPT + 1
    with pytest.raises(ModelError, match="keep fewer patches"):
        tiny(np.zeros((count, DIMS), np.float32), np.zeros((count, 2)), SIDE, np.array([[0]]))


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({"licence": ...}, "lacks 'licence'"),
        ({"kind": "encoder"}, "expected 'summarizer', found 'encoder'"),
        ({"kind": "slide-encoder"}, "expected 'summarizer', found 'slide-encoder'"),
        ({"dims": 0}, "'dims'"),
        ({"graph_dims": DIMS + 1}, "expected the inputs features: float32"),
        ({"fixed": 500}, "expected the inputs features: float32"),
        ({"leaks": True}, "not to depend on the features of masked"),
        ({"last": "Log"}, "NaN or infinity"),
        ({"output": "rebuilt"}, "expected the outputs reconstruction: float32"),
        ({"encoder_sha256": "x"}, "'encoder_sha256'"),
    ],
    ids=str,
)
def test_unusable_summarizer_is_not_loaded(tmp_path: Path, model: dict[str, Any], complaint: str):
    path = write_summarizer(tmp_path / "a.onnx", **model)
    with pytest.raises(ModelError, match=complaint) as caught:
        load_summarizer(path, "cpu")
    assert str(tmp_path) not in str(caught.value)


def test_file_that_is_not_a_model_is_refused(tmp_path: Path):
    bare = write_summarizer(tmp_path / "bare.onnx", **dict.fromkeys(SUMMARIZER_CARD, ...))
    with pytest.raises(
        ModelError, match=r"bare\.onnx: expected a card, found none of its fields; .* candidates, licence"
    ):
        load_summarizer(bare, "cpu")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match=r"text\.onnx: expected an ONNX model"):
        load_summarizer(tmp_path / "text.onnx", "cpu")


@needs_no_gpu
def test_summarizer_devices_match_encoders(tmp_path: Path):
    path = write_summarizer(tmp_path / "a.onnx")
    assert load_summarizer(path, "auto").provider == "CPUExecutionProvider"
    with pytest.raises(DeviceError, match="CUDA was requested"):
        load_summarizer(path, "cuda")
    with pytest.raises(UsageError, match="device"):
        load_slide_encoder(write_slide_encoder(tmp_path / "b.onnx"), "tpu")


# --------------------------------------------------------------------------------------------- slide encoders


def test_slide_encoder_returns_embedding_and_prototypes(slide_encoder: SlideEncoder):
    features, coords = patches()
    made = slide_encoder(features, coords, SIDE)
    np.testing.assert_allclose(made.embedding, expected_embedding(features), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made.prototypes[1], 2 * features.mean(axis=0), atol=1e-5)
    assert made.prototypes.shape == (PROTOTYPES, DIMS)
    np.testing.assert_allclose(made.prototype_weights, [3 / 6, 2 / 6, 1 / 6], rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({"kind": "summarizer"}, "expected 'slide-encoder', found 'summarizer'"),
        ({"licence": ...}, "lacks 'licence'"),
        ({"shares": (0.5, 0.5)}, "expected the outputs embedding: float32"),
        ({"shares": (0.5, 0.4, 0.4)}, "expected shares of the regions"),
        ({"shares": (1.5, 0.0, -0.5)}, "expected shares of the regions"),
        ({"last": "Log"}, "NaN or infinity"),
    ],
    ids=str,
)
def test_unusable_slide_encoder_is_not_loaded(tmp_path: Path, model: dict[str, Any], complaint: str):
    path = write_slide_encoder(tmp_path / "a.onnx", **model)
    with pytest.raises(ModelError, match=complaint):
        load_slide_encoder(path, "cpu")


def test_slide_encoder_refuses_other_feature_lengths(slide_encoder: SlideEncoder):
    features, coords = patches()
    with pytest.raises(ModelError, match=r"tiny-slide-encoder.*use features of the encoder"):
        slide_encoder(features[:, 1:], coords, SIDE)
    with pytest.raises(ModelError, match="encode the slide again"):
        slide_encoder(with_nan(features), coords, SIDE)


# ------------------------------------------------------------------------------------- how much is told again


def test_reconstruction_is_measured_on_candidates_not_kept(tiny: Summarizer):
    """The candidates are half of the tissue; two of the kept patches are none of them."""
    features, coords = patches()
    candidates, kept = np.arange(0, COUNT, 2), np.array([8, 3, 20, 5])
    told = reconstruct_slide(tiny, Tokens(features, coords, SIDE), candidates, kept)
    masked = np.setdiff1d(candidates, kept)
    made = expected_reconstruction(features, coords / SIDE, kept)[masked]
    expected = np.mean([cosine(a, b) for a, b in zip(made, features[masked], strict=True)])
    assert told.reconstruction == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(told.embedding, expected_embedding(features[candidates]), rtol=1e-4, atol=1e-5)
    of_kept = expected_embedding(features[kept])
    assert told.embedding_cosine == pytest.approx(cosine(of_kept, expected_embedding(features[candidates])), abs=1e-5)


def test_score_combines_reconstruction_and_embedding(tiny: Summarizer):
    features, coords = patches()
    tissue, candidates = Tokens(features, coords, SIDE), np.arange(0, COUNT, 2)
    choices = np.array([[2 * (first + place) for place in range(3)] for first in range(18)]) % (2 * (COUNT // 2))
    scores = ReconstructionScore(tiny, tissue, candidates)(choices)
    for choice_of, score in zip(choices, scores, strict=True):
        told = reconstruct_slide(tiny, tissue, candidates, choice_of)
        assert told.reconstruction is not None
        assert score == pytest.approx(told.reconstruction + told.embedding_cosine / 4, abs=1e-5)
    assert ReconstructionScore(tiny, tissue, candidates)(candidates[None])[0] == pytest.approx(
        0.25, abs=1e-5
    )  # nothing is left


def test_scores_are_the_same_in_any_number_of_threads(tiny: Summarizer):
    features, coords = patches()
    tissue, candidates = Tokens(features, coords, SIDE), np.arange(0, COUNT, 2)
    rng = np.random.default_rng(0)
    choices = np.array([rng.permutation(COUNT)[:3] for _ in range(3 * CHOICES + 1)])
    expected = ReconstructionScore(tiny, tissue, candidates)(choices)
    for threads in (2, 3):
        np.testing.assert_array_equal(ReconstructionScore(tiny, tissue, candidates, threads)(choices), expected)


def test_nothing_is_reconstructed_when_all_are_kept(tiny: Summarizer):
    features, coords = patches()
    told = reconstruct_slide(tiny, Tokens(features, coords, SIDE), np.arange(COUNT), np.arange(COUNT)[::-1])
    assert told.reconstruction is None
    assert told.embedding_cosine == pytest.approx(1, abs=1e-6)


def test_without_models_nothing_is_measured():
    features, coords = patches()
    embedded = embed_tissue(SlideModels(), Tokens(features, coords, SIDE), np.arange(COUNT), np.array([1]))
    assert embedded.arrays() == {}
    assert embedded.figures() == {"reconstruction": None, "embedding_cosine": None, "slide_cosine": None}


def test_cosine_with_a_zero_vector_is_zero():
    assert cosine(np.zeros(3, np.float32), np.ones(3, np.float32)) == 0


# ------------------------------------------------------------------------------ which goes with which encoder


ENCODER = Card(
    name="stub", patch_size=32, mpp=0.5, mean=(0, 0, 0), std=(1, 1, 1), dims=DIMS, licence="CC0-1.0", sha256="ab" * 32
)


@pytest.fixture(autouse=True)
def nothing_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what ships some day does not count here."""
    monkeypatch.setattr(choice, "shipped_models", dict)


def in_folder(folder: Path, name: str, **card: Any) -> Path:
    """Where `wsisum models add` would lay it."""
    return write_summarizer(folder / name / f"{name}.onnx", name=name, **card)


def test_auto_takes_the_model_trained_on_the_encoder(tmp_path: Path):
    in_folder(tmp_path, "a-other", encoder_sha256="cd" * 32)
    in_folder(tmp_path, "b-any", encoder_sha256="")
    in_folder(tmp_path, "c-longer", dims=DIMS + 1)
    (tmp_path / "d-broken").mkdir()
    (tmp_path / "d-broken/d-broken.onnx").write_bytes(b"\x3a\xff\xff\xff")
    write_slide_encoder(tmp_path / "e-slide" / "e-slide.onnx", name="e-slide")
    assert choose(SUMMARIZER, AUTO, ENCODER, False, None, [tmp_path]) is None
    fitting = in_folder(tmp_path, "f-fits")
    in_folder(tmp_path, "g-fits-too", version="2")
    found = choose(SUMMARIZER, AUTO, ENCODER, False, None, [tmp_path])
    assert found is not None
    assert (found.path, found.card.name, found.named) == (fitting, "f-fits", False)
    slide = choose(SLIDE_ENCODER, AUTO, ENCODER, False, None, [tmp_path])
    assert slide is not None
    assert slide.card.name == "e-slide"


def test_auto_takes_the_model_that_hides_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shipped = write_summarizer(tmp_path / "package/mine.onnx", name="mine")
    monkeypatch.setattr(choice, "shipped_models", lambda: {"mine": shipped})
    ours = in_folder(tmp_path / "user", "mine", version="2")
    for folders, wanted in (([], shipped), ([tmp_path / "user"], ours)):
        found = choose(SUMMARIZER, AUTO, ENCODER, False, None, folders)
        assert found is not None
        assert found.path == wanted


def test_none_is_logged(tmp_path: Path):
    in_folder(tmp_path, "a")
    model = write_summarizer(tmp_path / "encoder.onnx")
    assert choose(SUMMARIZER, NONE, ENCODER, False, None, [tmp_path]) is None
    assert choose_models(NONE, NONE, model, False, None).describe() == "summarizer: none, slide encoder: none"
    named = ModelChoices(choose(SUMMARIZER, str(model), ENCODER, False, None))
    assert named.describe() == "summarizer: tiny-summarizer, slide encoder: none"


def test_log_says_why_no_model_is_used():
    encoder = find_model("texture")
    unfit = "none (none fits the features of 'texture')"
    assert choose_models(AUTO, NONE, encoder, False, None).describe() == f"summarizer: {unfit}, slide encoder: none"
    both = choose_models(AUTO, AUTO, encoder, False, MOST_KEPT + 1).describe()
    assert both == f"summarizer: none (limited to {MOST_KEPT} patches), slide encoder: {unfit}"


def test_named_model_is_used_if_feature_lengths_match(tmp_path: Path):
    other = write_summarizer(tmp_path / "a.onnx", encoder_sha256="cd" * 32)
    found = choose(SUMMARIZER, str(other), ENCODER, False, None)
    assert found is not None
    assert found.fits_features(None)
    longer = write_summarizer(tmp_path / "b.onnx", dims=DIMS + 1)
    with pytest.raises(UsageError, match=r"--summarizer b\.onnx: expected a model for the 12 features of 'stub'"):
        choose(SUMMARIZER, str(longer), ENCODER, False, None)
    assert choose(SUMMARIZER, str(longer), ENCODER, True, None) is not None  # what length given ones have is not known
    with pytest.raises(ModelError, match="expected 'slide-encoder', found 'summarizer'"):
        choose(SLIDE_ENCODER, str(other), ENCODER, False, None)
    with pytest.raises(ModelError, match="no model with this name"):
        choose(SUMMARIZER, "nothing", ENCODER, False, None)


def test_keep_above_the_summarizer_limit(tmp_path: Path):
    in_folder(tmp_path, "a")
    assert choose(SUMMARIZER, AUTO, ENCODER, False, MOST_KEPT, [tmp_path]) is not None
    assert choose(SUMMARIZER, AUTO, ENCODER, False, MOST_KEPT + 1, [tmp_path]) is None
    with pytest.raises(UsageError, match="--keep: at most 2048"):
        choose(SUMMARIZER, "a", ENCODER, False, MOST_KEPT + 1, [tmp_path])


def test_automatic_model_ignores_features_of_other_encoders(tiny: Summarizer, slide_encoder: SlideEncoder):
    models = SlideModels(tiny, slide_encoder, frozenset({"summarizer"}))
    for sha256 in (None, "cd" * 32):
        for_features_of = models.for_features_of(sha256)
        assert (for_features_of.summarizer, for_features_of.slide_encoder) == (None, slide_encoder)
    assert models.for_features_of("ab" * 32).summarizer is tiny


def test_output_of_other_models_is_remade(tmp_path: Path):
    path = write_summarizer(tmp_path / "a.onnx")
    found = choose(SUMMARIZER, str(path), ENCODER, False, None)
    assert found is not None
    used, other = {"summarizer": found.card.sha256}, {"summarizer": "0" * 64}
    unused: dict[str, str] = {}
    named, by_itself = ModelChoices(found), ModelChoices(ModelChoice(found.path, found.card, named=False))
    for encoder in ("ab" * 32, None):
        assert [named.match(made, encoder) for made in (used, unused, other)] == [True, False, False]
        assert [ModelChoices().match(made, encoder) for made in (used, unused, other)] == [False, True, False]
    assert [by_itself.match(made, "ab" * 32) for made in (used, unused)] == [True, False]
    assert [by_itself.match(made, None) for made in (used, unused)] == [False, True]


def test_load_marks_automatic_models(tmp_path: Path):
    summarizer_path = write_summarizer(tmp_path / "a.onnx")
    slide_path = write_slide_encoder(tmp_path / "b.onnx")
    first = choose(SUMMARIZER, str(summarizer_path), ENCODER, False, None)
    second = choose(SLIDE_ENCODER, str(slide_path), ENCODER, False, None)
    assert first is not None
    models = ModelChoices(ModelChoice(first.path, first.card, named=False), second).load("cpu")
    assert models.implicit == {"summarizer"}
    assert models.summarizer is not None
    assert models.slide_encoder is not None
    assert find_model(str(summarizer_path)) == summarizer_path


def test_only_the_encoder_keeps_memory_between_runs(monkeypatch: pytest.MonkeyPatch):
    """Its runs are all alike; those of the other models grow with the slide, and would keep what the largest took."""
    kept: dict[str, bool] = {}
    honest = onnxruntime.InferenceSession

    def note(path: str, options: Any, **others: Any) -> Any:
        kept[Path(path).stem] = options.enable_cpu_mem_arena
        return honest(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    for name, load in (
        ("encoder", load_encoder),
        ("summarizer", load_summarizer),
        ("slide_encoder", load_slide_encoder),
    ):
        load(find_model(name), "cpu")
    assert kept == {"encoder": True, "summarizer": False, "slide_encoder": False}
