"""Check the features that further encoders made of the stored pixels, and packed features of all tissue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from wsisum_cli.errors import ModelError, SummaryError
from wsisum_cli.features.vectors import unit_rows
from wsisum_cli.summary.attributes import JpegPixels, Reembedded
from wsisum_cli.summary.extras.tissue_features import TISSUE_FEATURES, losses
from wsisum_cli.summary.extras.views import encode_view, plan_view
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.writer import REEMBEDDED, ROOT
from wsisum_cli.verification.appraisal import QUALITY_TOLERANCE, FindEncoder, Measured, check_card
from wsisum_cli.verification.finding import Finding

HALF_STEP = 2.0**-10  # relative spacing of float16 numbers


def expected_reembedded(summary: Summary) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Array -> its types, and its shape."""
    record = summary.record
    return {
        f"{REEMBEDDED}/{place}": ("float16 float32", (record.patches, entry.encoder.dims))
        for place, entry in enumerate(record.reembedded or ())
    }


def expected_packed(summary: Summary) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """The same of packed features of all tissue."""
    record = summary.record
    if record.tissue_features is None:
        return {}
    components, card = record.tissue_features.components, record.encoder_card
    shapes: dict[str, tuple[str, tuple[int | None, ...]]] = {
        "codes": ("int8 int16", (components, record.tissue_patches)),
        "basis": ("int8", (components, None if card is None else card.dims)),
        "scale": ("float32", (components,)),
    }
    return {f"{TISSUE_FEATURES}/{name}": shape for name, shape in shapes.items()}


def packed_values(summary: Summary) -> dict[str, np.ndarray]:
    """Array -> which of its numbers are possible."""
    packed = summary.packed_features
    return {} if packed is None else {f"{TISSUE_FEATURES}/scale": np.isfinite(packed.scale)}


def check_packed(summary: Summary, measured: Measured) -> Iterator[Finding]:
    """Whether packed features of the kept patches are as near to the stored ones as the record says of all tissue."""
    stated, packed = summary.record.tissue_features, summary.packed_features
    if stated is None or packed is None:
        return
    row_of = {tuple(at): row for row, at in enumerate(summary.tissue.coords.tolist())}
    rows = np.array([row_of[tuple(at)] for at in summary.coords.tolist()])
    unpacked = unit_rows(packed.unpack(summary.embedding, rows))
    found = (unpacked * unit_rows(summary.features.astype(np.float32))).sum(axis=1)
    measured["tissue_features_kept"] = float(found.mean())
    pixels = summary.record.pixels
    encoding = pixels.feature_cosine_min if isinstance(pixels, JpegPixels) else None
    # Features of encoded pixels differ from the slide's, which were packed: at most, both angles add up.
    angle = np.arccos(min(1.0, stated.cosine_min)) + np.arccos(min(1.0, 1.0 if encoding is None else encoding))
    least = float(np.cos(min(angle, np.pi)))
    if found.min() < least - QUALITY_TOLERANCE:
        message = f"packed features of patch {int(found.argmin())} are not those that are stored"
        expected, cosine = f"cosine {least:.4f}", f"{found.min():.4f}"
        yield Finding("features-differ", message, f"{TISSUE_FEATURES}/codes", expected, cosine)


def compare_packed(summary: Summary, features: np.ndarray, rows: np.ndarray, measured: Measured) -> Iterator[Finding]:
    """Compare packed features with (M, D) `features` computed from the slide, of these `rows` of the tissue."""
    stated, packed = summary.record.tissue_features, summary.packed_features
    if stated is None or packed is None:
        return
    codes = replace(packed, codes=packed.codes[:, rows])
    found = float(losses(features, codes, summary.embedding).mean())
    measured["source_tissue_features"] = found
    if abs(found - stated.cosine_mean) > QUALITY_TOLERANCE:
        message = "packed features of all tissue differ from the slide's"
        yield Finding("features-differ", message, TISSUE_FEATURES, f"cosine {stated.cosine_mean:.4f}", f"{found:.4f}")


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
