"""Check the features that further encoders made of the stored pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wsisum_cli.errors import ModelError, SummaryError
from wsisum_cli.summary.attributes import Reembedded
from wsisum_cli.summary.extras.views import encode_view, plan_view
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.writer import REEMBEDDED, ROOT
from wsisum_cli.verification.appraisal import FindEncoder, check_card
from wsisum_cli.verification.finding import Finding

HALF_STEP = 2.0**-10  # relative spacing of float16 numbers


def expected_reembedded(summary: Summary) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Array -> its types, and its shape."""
    record = summary.record
    return {
        f"{REEMBEDDED}/{place}": ("float16 float32", (record.patches, entry.encoder.dims))
        for place, entry in enumerate(record.reembedded or ())
    }


def reembedded_values(summary: Summary) -> dict[str, np.ndarray]:
    """Array -> which of its numbers are possible."""
    return {f"{REEMBEDDED}/{place}": np.isfinite(found) for place, found in enumerate(summary.reembedded)}


def check_reembedded(summary: Summary, find_encoder: FindEncoder, threads: int) -> Iterator[Finding]:
    """Whether each further encoder sees the patches as recorded, and gives the stored features where it is at hand."""
    for place, entry in enumerate(summary.record.reembedded or ()):
        name = f"{REEMBEDDED}/{place}"
        try:
            view = plan_view(summary, entry.encoder)
        except SummaryError as error:
            yield Finding("attributes", f"{REEMBEDDED}[{place}] cannot be: {error}", ROOT)
            continue
        reading = None if entry.reading is None else entry.reading.model_dump()
        if reading != (view.reading and view.reading.as_dict()) or abs(entry.mpp / view.mpp - 1) > 1e-6:
            yield Finding("attributes", f"{REEMBEDDED}[{place}] does not say how its encoder sees the patches", ROOT)
            continue
        encoder = find_encoder(entry.encoder)
        yield from check_card("encoder", entry.encoder, encoder)
        if encoder is None or encoder.card.sha256 != entry.encoder.sha256:
            words = f"features added by {entry.encoder.name}; pass that model, where you have it, as --encoder"
            yield Finding("features-not-recomputed", words, name)
            continue
        try:
            now = encode_view(summary, view, encoder, threads)
        except (ModelError, SummaryError) as error:
            yield Finding("features-not-recomputed", str(error), name)
            continue
        yield from compare_features(summary.reembedded[place], now, entry, name)


def compare_features(stored: np.ndarray, now: np.ndarray, entry: Reembedded, name: str) -> Iterator[Finding]:
    """Compare features (K, E) computed from the stored pixels with the stored ones."""
    wrong = np.flatnonzero(rows_that_differ(stored, now))
    if len(wrong):
        rows = ", ".join(map(str, wrong[:8]))
        yield Finding("features-differ", f"features of patches {rows} by {entry.encoder.name} are others", name)


def rows_that_differ(stored: np.ndarray, now: np.ndarray) -> np.ndarray:
    """(K,) whether features (K, E) are further from the stored ones than rounding and other processors explain."""
    step = HALF_STEP * np.abs(stored.astype(np.float64)).max(initial=0)
    close = np.isclose(now.astype(np.float64), stored.astype(np.float64), rtol=2 * HALF_STEP, atol=step / 4)
    return np.asarray(~close.all(axis=1))
