"""The models that ship are the ones that were recorded, and give what they gave then."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from types import ModuleType

import numpy as np
import pytest
from places import MODELS

from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.registry import read_card

MANIFEST = json.loads((MODELS / "models.json").read_text())


def test_every_model_is_in_the_manifest():
    assert {path.stem for path in MODELS.glob("*.onnx")} == set(MANIFEST)


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_model_matches_the_manifest_and_has_a_card(name: str):
    path = MODELS / MANIFEST[name]["file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == MANIFEST[name]["sha256"]
    assert path.stat().st_size < 40e6
    page = (MODELS / f"{name}.md").read_text()
    assert MANIFEST[name]["sha256"] in page
    assert read_card(path).licence in page
    for heading in ("## Data", "## Figures", "## Limits"):
        assert heading in page


def test_bundled_models_match_each_other():
    encoder, summarizer, slide_encoder = (
        read_card(MODELS / f"{name}.onnx") for name in ("encoder", "summarizer", "slide_encoder")
    )
    for card in (summarizer, slide_encoder):
        assert card.encoder_sha256 == encoder.sha256
        assert card.dims == encoder.dims


def load_record() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record", MODELS / "record.py")
    assert spec is not None
    assert spec.loader is not None
    record = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(record)
    return record


def test_encoder_is_invariant_to_orientation():
    patches = load_record().patches()
    encoder = load_encoder("encoder", "cpu")
    before = encoder(patches)
    assert np.abs(before[0] - before[1]).max() > 0.1
    for mirrored in (patches, patches[:, :, ::-1]):
        for quarters in range(4):
            lying = np.ascontiguousarray(np.rot90(mirrored, quarters, (1, 2)))
            np.testing.assert_allclose(encoder(lying), before, rtol=1e-4, atol=1e-4)


def test_model_outputs_are_unchanged():
    record = load_record()
    found = record.outputs()
    with np.load(record.RECORD) as recorded:
        assert set(recorded) == set(found)
        for name in found:
            np.testing.assert_allclose(found[name], recorded[name], rtol=1e-4, atol=1e-4, err_msg=name)
