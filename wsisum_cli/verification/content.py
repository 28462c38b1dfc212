"""Check whether the arrays, figures, features and pixels of a summary agree with each other."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wsisum_cli.errors import ModelError, SummaryError
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.quality import verdict
from wsisum_cli.quality.likeness import Likeness
from wsisum_cli.quality.verdict import Thresholds, Verdict
from wsisum_cli.slides.patches import Reading
from wsisum_cli.summary.attributes import SourcePixels
from wsisum_cli.summary.reader import Patches, Summary, reading_of
from wsisum_cli.summary.standing import left_out_of
from wsisum_cli.summary.writer import OVERVIEW, PIXELS, TILES
from wsisum_cli.tissue.coverage import LeftOut
from wsisum_cli.verification.additions import check_packed, check_reembedded, rows_that_differ
from wsisum_cli.verification.appraisal import (
    FindEncoder,
    Measured,
    ModelFinders,
    check_card,
    check_figures,
    judge_by,
    judge_with,
)
from wsisum_cli.verification.arrays import ArrayCheck
from wsisum_cli.verification.finding import Finding
from wsisum_cli.verification.kept import Looks
from wsisum_cli.verification.overview import check_overview

GIVEN_COSINE = 0.98  # existing features come from another program's decoding and resampling
BATCH, BATCH_BYTES = 64, 32 << 20  # patches, and bytes of them, decoded before they are encoded


class ContentCheck:
    """Checks the arrays of a summary against each other. The attributes must be valid.

    For a damaged file it only reports which patches are lost.
    """

    def __init__(self, summary: Summary, damaged: set[str], threads: int = 1) -> None:
        self.summary = summary
        self.damaged = damaged
        self.threads = threads
        self.attributes = summary.record
        self.verdict: Verdict | None = None  # once checked
        self.left_out: verdict.LeftOut | None = left_out_of(summary.record)  # measured once the slide is at hand
        self._thresholds: Thresholds | None = None
        self._measured: Measured = {}

    @property
    def reading(self) -> Reading:
        return reading_of(self.summary.attributes)

    def check(
        self, models: ModelFinders, measured: Measured, thresholds: Thresholds | None = None
    ) -> Generator[Finding, None, bool]:
        """Run all checks; returns whether the arrays are valid enough to compare with the source.

        `thresholds` are for the verdict; None: the recorded ones.
        """
        if self.damaged:
            yield from self.lost_patches()
            return False
        if not (yield from ArrayCheck(self.summary).check()):
            return False
        self._thresholds, self._measured = thresholds, measured
        self.verdict = yield from check_figures(self.summary, models, measured, thresholds)
        if not (yield from self.pixels(models.encoder, measured)):
            return False
        yield from check_reembedded(self.summary, models.encoder, self.threads)
        yield from check_packed(self.summary, measured)
        yield from check_overview(self.summary)
        return True

    def judge_by(self, yardstick: Likeness, unread: int) -> None:
        """Reach the verdict on a file before format 1.4, by a yardstick measured on its slide.

        `unread` tissue patches can no longer be read.
        """
        self.verdict = judge_by(self.summary, yardstick, unread, self._thresholds, self.left_out)

    def judge_left_out(self, left_out: LeftOut) -> Iterator[Finding]:
        """Reach the verdict with tissue that is left out as it was measured on the slide."""
        self.left_out = verdict.LeftOut(left_out.share, left_out.largest_mm2, self.attributes.has_mask)
        if self.verdict is not None and self.attributes.represented is not None:
            before = self.verdict.verdict
            self.verdict = judge_with(self.attributes, self.left_out, self._measured, self._thresholds)
            if self.verdict.verdict == verdict.FAIL != before:
                yield Finding("verdict-fail", "; ".join(self.verdict.reasons))

    def lost_patches(self) -> Iterator[Finding]:
        """Report the patches that cannot be read because their pixels are damaged."""
        if not any(name.startswith((TILES, PIXELS)) for name in self.damaged):
            return
        try:
            patches = self.summary.patches
        except SummaryError as error:
            yield Finding("patch-damaged", f"no patch can be read: {error}")
            return
        for row in range(min(len(patches), self.attributes.patches)):
            yield from self.decode(patches, row, [])

    def decode(self, patches: Patches, row: int, into: list[np.ndarray]) -> Iterator[Finding]:
        try:
            into.append(patches[row])
        except SummaryError as error:
            yield Finding("patch-damaged", f"patch {row}: {error}", patches.shard.member)

    def pixels(self, find_encoder: FindEncoder, measured: dict[str, float]) -> Generator[Finding, None, bool]:
        """Decode every patch and the overview, and recompute the features if the encoder is available.

        Returns whether all pixels can be read.
        """
        try:
            patches = self.summary.patches
            if OVERVIEW in {name.removesuffix("/zarr.json") for name in self.summary.members}:
                _ = self.summary.overview
        except SummaryError as error:
            yield Finding("patch-damaged", str(error))
            return False
        if not (self.summary.is_first_major or patches.shard.is_gapless):  # which 1.x did not ask for
            yield Finding("patch-damaged", "chunks overlap, or leave bytes between them", patches.shard.member)
            return False
        pixels, count = self.attributes.pixels, self.attributes.patches
        wanted = (count, pixels.tiles if isinstance(pixels, SourcePixels) else count)
        found = (len(patches), len(patches.shard))
        if found != wanted:
            yield Finding("patch-damaged", "wrong number of patches or tiles", None, str(wanted), str(found))
            return False
        encoder = yield from self.find(find_encoder)
        return (yield from self.encode(patches, encoder, measured))

    def find(self, find_encoder: FindEncoder) -> Generator[Finding, None, Encoder | None]:
        """The encoder that made the features, None when it is not at hand."""
        card = self.attributes.encoder
        encoder = find_encoder(card)
        wanted = (self.attributes.patch.patch_size, self.summary.features.shape[1])
        yield from check_card("encoder", card, encoder)
        if encoder is not None and (encoder.card.patch_size, encoder.card.dims) == wanted:
            return encoder
        given = self.attributes.features_are_given
        owner = f"whose features of {card.name} were given" if given else f"made by {card.name}"
        yield Finding("features-not-recomputed", f"a summary {owner}; pass that model, where you have it, as --encoder")
        return None

    def encode(
        self, patches: Patches, encoder: Encoder | None, measured: dict[str, float]
    ) -> Generator[Finding, None, bool]:
        features: list[np.ndarray] = []
        looks, whole = Looks(), True
        batch = min(BATCH, max(1, BATCH_BYTES // (3 * self.attributes.patch.patch_size**2)))
        for start in range(0, len(patches), batch):
            pixels: list[np.ndarray] = []
            rows = range(start, min(start + batch, len(patches)))
            for row in rows:
                yield from self.decode(patches, row, pixels)
            whole = whole and len(pixels) == len(rows)
            looks.add(pixels)
            if encoder is None or not whole:
                continue
            try:
                features.append(encode_batches(encoder, np.stack(pixels), self.threads))
            except ModelError as error:
                encoder = None
                yield Finding("features-not-recomputed", str(error))
        if encoder is not None and whole:
            yield from self.features(np.concatenate(features), measured)
        if whole:
            yield from looks.check(self.summary)
        return whole

    def features(self, now: np.ndarray, measured: dict[str, float]) -> Iterator[Finding]:
        """Compare features (K, D) computed from the stored pixels with the stored ones."""
        stored = self.summary.features
        cosine = cosines(stored, now)
        measured["feature_cosine_min"] = float(cosine.min())
        differs = np.asarray(cosine < GIVEN_COSINE)
        if not self.attributes.features_are_given:
            differs = rows_that_differ(stored, now)
        if differs.any():
            rows = ", ".join(map(str, np.flatnonzero(differs)[:8]))
            message = f"features of patches {rows} do not match their pixels"
            yield Finding("features-differ", message, "patches/features", "cosine 1", f"{float(cosine.min()):.4f}")


def encode_batches(encoder: Encoder, pixels: np.ndarray, threads: int) -> np.ndarray:
    """Features (B, D) of (B, P, P, 3) pixels, one batch of the encoder after another in each thread."""
    batches = [pixels[start : start + encoder.batch_size] for start in range(0, len(pixels), encoder.batch_size)]
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(encoder, batches)))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines (N,) of the rows of two (N, D) arrays; 0 if either row is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.where(norms > 0, norms, np.inf))
