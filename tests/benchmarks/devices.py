"""Shipped models on one core and, where there is one, on a GPU: how fast, and whether they agree.

    python tests/benchmarks/devices.py [--encoders texture encoder] [--batch 256] [--rounds 5] [--json FILE]

Each session has one thread, so the CPU's figures are those of one core. Rounds alternate between the models, medians
are shown; the ratio is to the first encoder on the CPU. Import torch before, where CUDA's libraries are torch's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wsisum_cli.errors import DeviceError
from wsisum_cli.models.encoder import load_encoder
from wsisum_cli.models.places import find_model
from wsisum_cli.models.summarizer import load_summarizer

Name = TypeVar("Name", bound=Hashable)
CANDIDATES, KEPT, CHOICES = 500, 63, 64  # of a slide, as the paper has them, and how many choices are scored


def measured(jobs: Mapping[Name, Callable[[], Any]], rounds: int) -> dict[Name, float]:
    """Median seconds of each, one after the other in each round; a first round warms up."""
    seconds: dict[Name, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def devices(load: Callable[[str], Any]) -> dict[str, Any]:
    """The model on the CPU, and on CUDA where that becomes active."""
    found = {"cpu": load("cpu")}
    try:
        found["cuda"] = load("cuda")
    except DeviceError as error:
        print(f"no CUDA: {error}")
    return found


def encoders(names: list[str], batch: int, rounds: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    jobs: dict[tuple[str, str], Callable[[], Any]] = {}
    made: dict[tuple[str, str], np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    for name in names:
        for device, encoder in devices(partial(load_encoder, name)).items():
            side = encoder.card.patch_size
            coarse = rng.integers(60, 230, (batch, side // 8, side // 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
            made[name, device] = encoder(coarse)
            jobs[name, device] = partial(encoder, coarse)
    seconds = measured(jobs, rounds)
    slowest = seconds[names[0], "cpu"]
    for (name, device), value in seconds.items():
        apart = float(np.abs(made[name, device] - made[name, "cpu"]).max())
        row = {"model": name, "device": device, "patches/s": round(batch / value), "ratio": round(slowest / value, 2)}
        rows.append(row | {"largest difference to CPU": apart})
    return rows


def summarizers(rounds: int) -> list[dict[str, Any]]:
    """Choices of kept patches scored per second."""
    loaded = devices(lambda device: load_summarizer(find_model("summarizer"), device))
    rng = np.random.default_rng(0)
    features = rng.standard_normal((CANDIDATES, loaded["cpu"].card.dims)).astype(np.float32)
    coords = np.column_stack([np.arange(CANDIDATES) % 25, np.arange(CANDIDATES) // 25]) * 512
    kept = np.stack([np.sort(rng.choice(CANDIDATES, KEPT, replace=False)) for _ in range(CHOICES)])
    made = {device: model(features, coords, 512, kept) for device, model in loaded.items()}
    jobs = {device: partial(model, features, coords, 512, kept) for device, model in loaded.items()}
    rows = []
    for device, value in measured(jobs, rounds).items():
        apart = max(
            float(np.abs(made[device].reconstruction - made["cpu"].reconstruction).max()),
            float(np.abs(made[device].embedding - made["cpu"].embedding).max()),
        )
        row = {"model": "summarizer", "device": device, "choices/s": round(CHOICES / value, 1)}
        rows.append(row | {"largest difference to CPU": apart})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=["texture", "encoder"], help="names, or ONNX files")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if importlib.util.find_spec("torch") is not None:
        import torch  # noqa: F401 - brings CUDA's libraries
    rows = encoders(options.encoders, options.batch, options.rounds)
    if find_model("encoder").with_name("summarizer.onnx").is_file():
        rows += summarizers(options.rounds)
    for row in rows:
        print("  ".join(f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
