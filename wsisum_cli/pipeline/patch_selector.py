"""Select any number of patches from the tissue of one slide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from wsisum_cli.features.embedding import Tokens
from wsisum_cli.features.encode import GivenFeatures
from wsisum_cli.features.similarity import cosines as pairwise_cosines
from wsisum_cli.features.vectors import as_half, blocks, one_thread, unit_rows
from wsisum_cli.models.choice import SlideModels
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.pipeline.job import Options, Tools
from wsisum_cli.quality.likeness import Likeness, measure_likeness
from wsisum_cli.quality.measures import Quality, measure_selection
from wsisum_cli.quality.represented import TissuePlaces, fewest_picks, is_represented, share_curve, share_of
from wsisum_cli.selection.budget import GUESS, fewest
from wsisum_cli.selection.candidates import draw_by_cluster, sample_candidates
from wsisum_cli.selection.patches import TissuePatches
from wsisum_cli.selection.prefixes import prefixes_of
from wsisum_cli.selection.selectors import NESTED, Selection, pick, weigh
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.slide import Slide
from wsisum_cli.summary.extras.tissue_features import PackedFeatures, describe_packed, losses, pack_features
from wsisum_cli.summary.pixels import Pixels, StoredPixels
from wsisum_cli.summary.writer import SourceTiles
from wsisum_cli.tissue.artefacts import KINDS, NO_ARTEFACTS, Artefacts, Judgement
from wsisum_cli.tissue.grid import Grid
from wsisum_cli.verification.content import cosines


@dataclass(frozen=True)
class Tissue:
    """All tissue patches of a slide: positions and features."""

    grid: Grid
    features: np.ndarray  # (N, D) float32
    given: GivenFeatures | None  # None when the features were computed here
    artefacts: Artefacts = NO_ARTEFACTS  # what was removed from the tissue
    suspect: np.ndarray | None = None  # (N,) uint8 codes of `KINDS`, 0 clean; None where nobody looked
    unread: int = 0  # further tissue patches of the grid, which could not be read

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.features, self.grid.coords, self.grid.patch_size_level0)

    def places(self, mpp: float) -> TissuePlaces:
        """Where the tissue lies; `mpp` is µm per level-0 px.

        Of what was removed, all but glass and unscanned black is of one colour, as decoders fill in for lost pixels: it
        counts as unread tissue.
        """
        empty = [KINDS.index(name) for name in ("blank", "black")]
        lost = int(np.count_nonzero(~np.isin(self.artefacts.kind, empty)))
        return TissuePlaces(self.grid.coords, self.grid.patch_size_level0, mpp, self.unread + lost)

    def judged(self, judgement: Judgement) -> Tissue:
        """The patches that stay tissue, with what is known of them."""
        suspect, removed = judgement.suspect, judgement.removed
        return replace(self.rows(judgement.rows), suspect=suspect, artefacts=removed)

    def rows(self, rows: np.ndarray) -> Tissue:
        """A subset of the patches, without what is known of artefacts."""
        coords = self.grid.coords[rows]
        grid = replace(self.grid, coords=coords)
        return replace(self, grid=grid, features=self.features[rows], artefacts=NO_ARTEFACTS, suspect=None)


@dataclass(frozen=True)
class SelectedPatches:
    """K selected patches, as a summary stores them."""

    tissue: Tissue  # the K rows hold the features of the stored pixels
    pixels: Pixels
    loss: dict[str, float]  # how much re-encoding changed the features; empty when pixels were copied
    selection: Selection
    quality: Quality


def selection_input(tissue: Tissue, options: Options, models: SlideModels, threads: int = 1) -> TissuePatches:
    """The input of the selectors: tissue patches and candidates. It does not depend on how many are kept."""
    candidates = sample_candidates(tissue.features, options.candidates, options.clusters, options.seed)
    suspect = None if tissue.suspect is None else tissue.suspect > 0
    return TissuePatches(
        tissue.features,
        tissue.grid.coords,
        candidates,
        options.seed,
        tissue.grid.patch_size_level0,
        models,
        options.rare,
        suspect,
        threads,
    )


class PatchSelector:
    """Selects up to `most` patches. It never picks, reads or encodes a patch twice."""

    def __init__(
        self,
        slide: Slide,
        tissue: Tissue,
        most: int,
        options: Options,
        tools: Tools,
        models: SlideModels,
        damage: Damage,
    ) -> None:
        self.tissue, self.most, self._selector, self._encoder = tissue, most, options.selector, tools.encoder
        self._tissue_patches = selection_input(tissue, options, models, tools.threads)
        self.candidates = self._tissue_patches.candidates
        self._picked: np.ndarray = np.empty(0, np.int64)
        self._pixels = StoredPixels(slide, tissue.grid, options.pixels, options.quality, damage, tools.threads)
        # Rounded to float16, as kept features are stored: no figure of the tissue depends on which patches are kept.
        self._half = as_half(tissue.features).astype(np.float32)
        self._stored: dict[int, np.ndarray] = {}  # row -> features of the stored pixels
        self._packed: tuple[PackedFeatures, dict[str, Any]] | None = None
        self._shares: np.ndarray = np.empty(0)  # of the tissue that the first 1, 2, ... picks represent
        self._represented = np.zeros(len(self._half), bool)  # by the stored pixels of the picks counted below
        self._counts: list[int] = []  # patches that the first 1, 2, ... picks represent

    def rows(self, keep: int, most: int = 0) -> np.ndarray:
        """Tissue rows (K,) of the selected patches, in the order they were picked; `keep` may be up to `most`."""
        if self._selector not in NESTED:
            return pick(self._tissue_patches, keep, self._selector)
        if len(self._picked) < keep:
            enough = GUESS
            while enough < keep:
                enough *= 2
            self._picked = pick(self._tissue_patches, min(enough, max(self.most, most)), self._selector)
        return self._picked[:keep]

    def candidate_rows(self, keep: int) -> np.ndarray:
        """Tissue rows (M,) that a summarizer gets: the candidates, at least `keep` of them."""
        if keep <= len(self.candidates.rows):
            return self.candidates.rows
        return np.sort(draw_by_cluster(self.candidates.cluster, keep, self._tissue_patches.seed))

    @cached_property
    def likeness(self) -> Likeness:
        """The yardstick for what a patch represents. It does not depend on which patches are kept."""
        return measure_likeness(self._half, self.tissue.grid.coords, self.tissue.grid.patch_size_level0)

    def select(self, keep: int) -> SelectedPatches:
        """Select and measure `keep` patches. Raises SlideError or a subclass, ModelError when the encoder fails."""
        rows = self.rows(keep)
        pixels = self._pixels.of(rows)
        tissue, loss = self._as_stored(rows, pixels)
        selection = weigh(tissue.features, rows)
        quality = measure_selection(tissue.features, selection, self.candidates.cluster)
        return SelectedPatches(tissue, pixels, loss, selection, quality)

    def free_memory(self) -> None:
        """Forget what only the search for further patches needs; a further search computes it again."""
        self._tissue_patches.free_pool()

    def fewest(self, share: float) -> int | None:
        """Smallest number of patches that represent this share of the tissue; None if `most` do not.

        The features of the stored pixels decide. They differ slightly from the slide's, whose answer is tried first.
        Raises as `select`.
        """
        if self._selector not in NESTED:
            return fewest(lambda keep: self._share(keep) >= share, self.most)
        keep = self.needed(share, self.most) or self.most
        if self._share(keep) >= share:
            while keep > 1 and self._share(keep - 1) >= share:
                keep -= 1
            return keep
        return next((more for more in range(keep + 1, self.most + 1) if self._share(more) >= share), None)

    def needed(self, share: float, most: int) -> int | None:
        """The same by the slide's features alone; None if `most` patches do not, or the picks are not nested."""
        if self._selector not in NESTED:
            return None
        most = min(most, len(self._half))
        cosine = self.likeness.cosine
        return fewest_picks(lambda keep: self.rows(keep, most), self._half, cosine, share, most, self.unread)

    def packed(self, most: int | None) -> tuple[PackedFeatures, dict[str, Any]] | None:
        """Features of all tissue in `most` bytes a patch, and what they lost; None if None. They are packed once.

        They are those of the slide's pixels, whichever patches are kept. Raises UsageError.
        """
        if most is not None and self._packed is None:
            packed = pack_features(self._half, most)
            cosines_to = losses(self._half, packed, self._half.mean(axis=0, dtype=np.float64).astype(np.float32))
            self._packed = packed, describe_packed(packed, cosines_to, most)
        return self._packed

    def recompressed(self, pixels: Pixels) -> tuple[Pixels, np.ndarray] | None:
        """As `StoredPixels.recompressed`."""
        return self._pixels.recompressed(pixels)

    @property
    def unread(self) -> int:
        """Tissue patches that could not be read."""
        return self.tissue.places(1.0).unread

    def _share(self, keep: int) -> float:
        """The share of the tissue that `keep` patches represent, as stored."""
        rows = self.rows(keep)
        pixels = self._pixels.of(rows)
        if self._selector in NESTED and (isinstance(pixels, SourceTiles) or self.tissue.given is not None):
            return self._share_unchanged(keep)
        if self._selector in NESTED and not isinstance(pixels, SourceTiles):
            return self._share_encoded(rows, pixels)
        tissue, _ = self._as_stored(rows, pixels)
        return share_of(prefixes_of(tissue.features, rows).of(keep)[1], self.likeness.cosine, self.unread)

    def _share_unchanged(self, keep: int) -> float:
        """The same where nothing is encoded anew, so that no feature changes: for all patches picked so far at once."""
        if len(self._shares) < keep:
            prefixes = prefixes_of(self._half, self._picked)
            self._shares = share_curve(prefixes, len(self._picked), self.likeness.cosine, self.unread)
        return float(self._shares[keep - 1])

    def _share_encoded(self, rows: np.ndarray, streams: list[bytes]) -> float:
        """The same where patches are encoded anew: each further pick is compared with the tissue once."""
        known = len(self._counts)
        if known < len(rows):
            stored = as_half(self._encoded(rows, streams, self._encoder)).astype(np.float32)
            reached = self._reached_by(stored[known:])
            for turn, row in enumerate(rows[known:].tolist()):
                self._represented |= reached[:, turn]
                self._represented[row] = True  # a pick represents itself
                self._counts.append(int(self._represented.sum()))
        return self._counts[len(rows) - 1] / (len(self._half) + self.unread)

    def _reached_by(self, stored: np.ndarray) -> np.ndarray:
        """Whether each tissue patch is represented by each of the features (M, D): (N, M) bool."""
        reached, units = np.empty((len(self._half), len(stored)), bool), unit_rows(stored)
        with one_thread():
            for block in blocks(len(self._half)):
                alike = pairwise_cosines(unit_rows(self._half[block]), units)
                reached[block] = is_represented(alike, self.likeness.cosine)
        return reached

    def _as_stored(self, rows: np.ndarray, pixels: Pixels) -> tuple[Tissue, dict[str, float]]:
        """Replace the features of the kept patches by those of the stored pixels, so that the file is consistent.

        Re-encoded JPEG changes features; the change is returned too. Existing features stay unchanged.
        """
        tissue = self.tissue
        features = self._half.copy()
        features[rows] = as_half(features[rows])  # still float32 if any other row overflows float16
        if isinstance(pixels, SourceTiles) or tissue.given is not None:
            return replace(tissue, features=features), {}
        stored = self._encoded(rows, pixels, self._encoder)
        features[rows] = as_half(stored)
        cosine = cosines(tissue.features[rows], stored)
        loss = {
            "feature_cosine_mean": round(float(cosine.mean()), 6),
            "feature_cosine_min": round(float(cosine.min()), 6),
        }
        return replace(tissue, features=features), loss

    def _encoded(self, rows: np.ndarray, streams: list[bytes], encoder: Encoder) -> np.ndarray:
        """Features (K, D) of the stored JPEG streams."""
        new = {row: stream for row, stream in zip(rows.tolist(), streams, strict=True) if row not in self._stored}
        for start in range(0, len(new), encoder.batch_size):
            batch = list(new)[start : start + encoder.batch_size]
            features = encoder(np.stack([jpeg.decode(new[row]) for row in batch]))
            self._stored |= dict(zip(batch, features, strict=True))
        return np.stack([self._stored[row] for row in rows.tolist()])
