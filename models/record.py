"""Record what the shipped models are and give: models/models.json and tests/data/shipped.npz.

    python models/record.py

Run it after a model was made anew. Tests compare every shipped file with these records.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.slide_encoder import load_slide_encoder
from wsisum_cli.models.summarizer import load_summarizer

HERE = Path(__file__).parent
RECORD = HERE.parent / "tests" / "data" / "shipped.npz"
ENCODERS = ("encoder", "texture")


def patches() -> np.ndarray:
    """Four patches (4, 256, 256, 3) that any machine draws alike: noise, blurred by repetition, in four tints."""
    rng = np.random.Generator(np.random.PCG64(0))
    coarse = rng.integers(60, 230, (4, 32, 32, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    return np.minimum(coarse // 2 + rng.integers(0, 100, coarse.shape, np.uint8), 255).astype(np.uint8)


def slide(dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (600, dims) and coords (600, 2), level-0 px, of patches of 512 px: four kinds of tissue side by side."""
    rng = np.random.Generator(np.random.PCG64(1))
    kind = np.arange(600) // 150
    features = rng.standard_normal((4, dims))[kind] + rng.standard_normal((600, dims))
    coords = np.column_stack([np.arange(600) % 30, np.arange(600) // 30]) * 512
    return features.astype(np.float32), coords


def outputs() -> dict[str, np.ndarray]:
    """What each shipped model makes of them."""
    found = {name: load_encoder(name, "cpu")(patches()) for name in ENCODERS}
    summarizer = load_summarizer(HERE / "summarizer.onnx", "cpu")
    slide_encoder = load_slide_encoder(HERE / "slide_encoder.onnx", "cpu")
    features, coords = slide(summarizer.card.dims)
    result = summarizer(features[:500], coords[:500], 512, np.arange(0, 500, 8)[None])
    found["summarizer.reconstruction"] = result.reconstruction[0, ::50]
    found["summarizer.embedding"] = result.embedding[0]
    encoded = slide_encoder(features, coords, 512)
    found["slide_encoder.embedding"] = encoded.embedding
    found["slide_encoder.prototypes"] = encoded.prototypes
    found["slide_encoder.prototype_weights"] = encoded.prototype_weights
    return found


def main() -> None:
    manifest = {
        path.stem: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(HERE.glob("*.onnx"))
    }
    (HERE / "models.json").write_text(json.dumps(manifest, indent=1) + "\n")
    np.savez_compressed(RECORD, **outputs())
    for name, entry in manifest.items():
        print(name, entry["sha256"])


if __name__ == "__main__":
    main()
