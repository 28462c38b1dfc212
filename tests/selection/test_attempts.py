from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_models import DIMS, expected_embedding, write_slide_encoder, write_summarizer

from wsisum_cli.errors import ModelError
from wsisum_cli.features.vectors import unit_rows
from wsisum_cli.models.choice import SlideModels
from wsisum_cli.models.slide_encoder import load_slide_encoder
from wsisum_cli.models.summarizer import load_summarizer
from wsisum_cli.selection.baselines import pick_attempts, score_draws
from wsisum_cli.selection.candidates import Candidates, sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.selectors import pick


def slide(models: SlideModels, seed: int = 0) -> TissuePatches:
    features = np.random.default_rng(4).normal(size=(300, DIMS)).astype(np.float32) + 0.5
    coords = np.stack([np.arange(300) % 20, np.arange(300) // 20], axis=1) * 512
    return TissuePatches(features, coords, sample_candidates(features, 80, 9), seed, 512, models)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> SlideModels:
    return SlideModels(load_summarizer(write_summarizer(tmp_path_factory.mktemp("models") / "a.onnx"), "cpu"))


def test_draw_with_the_closest_embedding_is_kept(models):
    tissue_patches = slide(models)
    rows = tissue_patches.candidates.rows
    best = pick_attempts(tissue_patches, 10, 30)
    assert np.isin(best, rows).all()
    assert len(set(best.tolist())) == 10

    def score(kept: np.ndarray) -> float:
        pair = np.stack([expected_embedding(tissue_patches.features[picked]) for picked in (kept, rows)])
        units = unit_rows(pair)
        return float(units[0] @ units[1])

    fewer = [score(pick_attempts(tissue_patches, 10, count)) for count in (1, 5, 30)]
    assert fewer == sorted(fewer)
    assert fewer[0] < fewer[-1]
    assert score_draws(tissue_patches, rows, np.searchsorted(rows, best)[None])[0] == pytest.approx(fewer[-1], abs=1e-5)


def test_attempts_differ_and_depend_on_the_seed(models):
    first, again, other = (pick_attempts(slide(models, seed), 10, 20).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_mean_is_the_embedding_without_a_summarizer():
    tissue_patches = slide(SlideModels())
    mean = tissue_patches.features[tissue_patches.candidates.rows].mean(axis=0)
    best, one = (tissue_patches.features[pick_attempts(tissue_patches, 10, count)].mean(axis=0) for count in (200, 1))
    assert np.linalg.norm(best - mean) < np.linalg.norm(one - mean)


def test_more_patches_than_candidates_can_be_drawn():
    tissue_patches = slide(SlideModels())
    assert len(set(pick_attempts(tissue_patches, 200, 3).tolist())) == 200
    gaps = Candidates(np.arange(5), np.repeat(np.array([0, 7], np.int16), 150))
    assert len(pick_attempts(TissuePatches(tissue_patches.features, tissue_patches.coords, gaps), 3, 2)) == 3


def test_large_draws_stay_within_the_summarizer_limit(models, monkeypatch):
    monkeypatch.setattr("wsisum_cli.models.summarizer.MOST_KEPT", 100)
    assert len(set(pick_attempts(slide(models), 100, 3).tolist())) == 100  # from 200 of 300


def attentive(path: Path, **options) -> SlideModels:
    return SlideModels(slide_encoder=load_slide_encoder(write_slide_encoder(path, attention=True, **options), "cpu"))


def test_attention_is_the_graph_output(tmp_path):
    tissue_patches = slide(attentive(tmp_path / "a.onnx"))
    assert (
        pick(tissue_patches, 7, "attention").tolist()
        == np.argsort(-tissue_patches.features[:, 0], kind="stable")[:7].tolist()
    )
    plain = load_slide_encoder(write_slide_encoder(tmp_path / "b.onnx"), "cpu")
    assert plain(tissue_patches.features, tissue_patches.coords, 512).attention is None


def test_attention_of_wrong_length_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"expected attention \(9,\)"):
        attentive(tmp_path / "a.onnx", doubled=True)
