"""Check whether the arrays, figures, features and pixels of a summary agree with each other."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wsisum_cli.errors import ModelError, SummaryError
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.models.slide_encoder import SHARES as ROUNDING
from wsisum_cli.quality.likeness import Likeness
from wsisum_cli.quality.random_draws import BY_FEATURES, DRAWN, SHARES
from wsisum_cli.quality.verdict import Thresholds, Verdict
from wsisum_cli.slides.patches import Reading
from wsisum_cli.slides.slide import MAX_EXTENT_UM
from wsisum_cli.summary.attributes import SourcePixels
from wsisum_cli.summary.reader import JpegRows, Patches, Summary, parse_json, reading_of
from wsisum_cli.summary.writer import ICC_PROFILE, OVERVIEW, PIXELS, PORTABLE, ROOT, SUSPECT, TILES
from wsisum_cli.tissue.artefacts import KINDS
from wsisum_cli.verification.additions import (
    check_packed,
    check_reembedded,
    expected_packed,
    expected_reembedded,
    packed_values,
    reembedded_values,
    rows_that_differ,
)
from wsisum_cli.verification.appraisal import (
    WEIGHT_TOLERANCE,
    FindEncoder,
    Measured,
    ModelFinders,
    check_card,
    check_figures,
    judge_by,
)
from wsisum_cli.verification.finding import Finding
from wsisum_cli.verification.overview import check_overview

GIVEN_COSINE = 0.98  # existing features come from another program's decoding and resampling
ROUNDED_SIDE = 1.5  # px by which rounding may change the side of an overview
BATCH = 64  # patches decoded before they are encoded


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
        self._thresholds: Thresholds | None = None

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
        if not (yield from self.hierarchy()) or not (yield from self.extent()) or not (yield from self.shapes()):
            return False
        if (yield from self.values()) or (yield from self.places()):
            return False
        self._thresholds = thresholds
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
        self.verdict = judge_by(self.summary, yardstick, unread, self._thresholds)

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

    def hierarchy(self) -> Generator[Finding, None, bool]:
        """Check every zarr.json, so that other readers can open the file."""
        sound = True
        for name in self.summary.members:
            if not name.endswith("/zarr.json"):
                continue
            try:
                metadata = parse_json(self.summary.read(name))
                if metadata["zarr_format"] != 3 or metadata["node_type"] not in ("array", "group"):
                    raise ValueError("neither a Zarr v3 array nor group")
            except (ValueError, KeyError, TypeError) as error:
                sound = False
                yield Finding("array-damaged", f"{name} is not Zarr metadata ({error})", name)
        return sound

    def extent(self) -> Generator[Finding, None, bool]:
        """Whether the slide has a size that slides have, has room for the tissue, and the shape of its overview.

        Looked at before any array is read: a small file can claim a slide of a kilometre.
        """
        source, size = self.attributes.source, self.attributes.patch.patch_size_level0
        sides = (source.width, source.height)
        wrong = []
        if max(sides) * source.mpp > MAX_EXTENT_UM:
            metres = max(sides) * source.mpp / 1e6
            wrong.append(
                Finding("attributes", f"a slide cannot be {metres:.3g} m wide", ROOT, f"{MAX_EXTENT_UM / 1e6:g} m")
            )
        claimed, room = self.attributes.tissue_patches, (sides[0] // size) * (sides[1] // size)
        if not self.attributes.features_are_given and claimed > room:
            message = f"{claimed} tissue patches are more than the slide has room for"
            wrong.append(Finding("attributes", message, ROOT, f"at most {room}", str(claimed)))
        overviews = self.overview_sizes()
        pixels = max((width * height for width, height in overviews.values()), default=claimed)
        if claimed > pixels:
            message = f"{claimed} tissue patches are more than the overview has px"
            wrong.append(Finding("attributes", message, ROOT, f"at most {pixels}", str(claimed)))
        for name, (width, height) in overviews.items():
            scale = max(width / sides[0], height / sides[1])
            if max(abs(sides[0] * scale - width), abs(sides[1] * scale - height)) > ROUNDED_SIDE:
                found = f"{width} x {height}"
                wrong.append(Finding("attributes", f"{name} has not the shape of the slide", name, None, found))
        yield from wrong
        return not wrong

    def overview_sizes(self) -> dict[str, tuple[int, int]]:
        """Width and height of each overview by its name; those that cannot be told come out in later checks."""
        from wsisum_cli.summary.chunks import read_layout

        found = {}
        with contextlib.suppress(SummaryError, ValueError):
            _, height, width = read_layout(self.summary.read(f"{PORTABLE}/zarr.json")).shape
            found[PORTABLE] = (width, height)
        with contextlib.suppress(SummaryError, ValueError):
            height, width = JpegRows(self.summary, OVERVIEW).size(0)
            found[OVERVIEW] = (width, height)
        return found

    def expected(self) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """Array -> its types, and its shape; None where the attributes do not say."""
        kept, tissue = self.attributes.patches, self.attributes.tissue_patches
        card = self.attributes.encoder_card
        dims = None if card is None else card.dims
        arrays: dict[str, tuple[str, tuple[int | None, ...]]] = {
            PORTABLE: ("uint8", (3, None, None)),
            "patches/coords": ("int32", (kept, 2)),
            "patches/features": ("float16 float32", (kept, dims)),
            "patches/weights": ("float64", (kept,)),
            "patches/cluster": ("int16", (kept,)),
            "tissue/coords": ("int32", (tissue, 2)),
            "tissue/representative": ("int32", (tissue,)),
            "tissue/similarity": ("float16", (tissue,)),
            "tissue/cluster": ("int16", (tissue,)),
            "reference/mean": ("float32", (dims,)),
            "reference/components": ("float16", (None, dims)),
            "reference/variances": ("float64", (None,)),
        }
        if isinstance(self.attributes.pixels, SourcePixels):
            tiles = self.attributes.pixels.tiles
            arrays["patches/tile_positions"] = ("int32", (tiles, 2))
            arrays["patches/tile_spliced"] = ("int32", (tiles,))
            rows = {f"{TILES}_bytes": tiles}
        else:
            rows = {f"{PIXELS}_bytes": kept}
        if f"{OVERVIEW}/zarr.json" in self.summary.members:
            rows[f"{OVERVIEW}_bytes"] = 1
        if not self.summary.is_first_major:
            arrays |= {name: ("int32", (count,)) for name, count in rows.items()}
        if f"{ICC_PROFILE}/zarr.json" in self.summary.members:
            arrays[ICC_PROFILE] = ("uint8", (None,))
        found = self.attributes.artefact_count
        if found:
            arrays |= {"artefact/coords": ("int32", (found, 2)), "artefact/kind": ("uint8", (found,))}
        if self.knows_suspects():
            arrays[SUSPECT] = ("uint8", (tissue,))
        added = expected_reembedded(self.summary) | expected_packed(self.summary)
        return arrays | self.expected_embeddings() | self.expected_since_1_2() | added

    def expected_embeddings(self) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        """The same for the outputs of a summarizer and slide encoder, if used."""
        arrays: dict[str, tuple[str, tuple[int | None, ...]]] = {}
        summarizer, slide_encoder = self.attributes.summarizer, self.attributes.slide_encoder
        if summarizer is not None:
            arrays["reference/candidates"] = ("int32", (None,))
            arrays["reference/embedding"] = ("float32", (summarizer.embedding_dims,))
        if slide_encoder is not None:
            prototypes = slide_encoder.prototypes
            arrays["reference/slide_embedding"] = ("float32", (slide_encoder.embedding_dims,))
            arrays["reference/prototypes"] = ("float32", (prototypes, None))
            arrays["reference/prototype_weights"] = ("float32", (prototypes,))
        return arrays

    def expected_since_1_2(self) -> dict[str, tuple[str, tuple[int | None, ...]]]:
        draws = self.attributes.draws
        if draws is None:
            return {}
        figures = len(DRAWN if self.attributes.revision >= 4 else BY_FEATURES)
        arrays: dict[str, tuple[str, tuple[int | None, ...]]] = {
            "patches/counts": ("int32", (self.attributes.patches,)),
            "tissue/earlier_count": ("int32", (self.attributes.tissue_patches,)),
            "reference/draws": ("float32", (len(draws.keep), figures, len(SHARES))),
        }
        if self.attributes.patches > 1:
            arrays["tissue/earlier_representative"] = ("int32", (None,))
            arrays["tissue/earlier_similarity"] = ("float16", (None,))
        if draws.models:
            arrays["reference/model_draws"] = ("float32", (len(draws.models), len(SHARES)))
        return arrays

    def shapes(self) -> Generator[Finding, None, bool]:
        """Decode each array; returns whether all have the expected dtype and shape."""
        sound = True
        shapes: dict[str, tuple[int, ...]] = {}
        for name, (types, shape) in self.expected().items():
            try:
                array = self.summary.array(name)
            except SummaryError as error:
                sound = False
                yield Finding("array-damaged", str(error), name)
                continue
            shapes[name] = array.shape
            fits = len(array.shape) == len(shape) and all(
                want in (None, have) for want, have in zip(shape, array.shape, strict=True)
            )
            if not fits or array.dtype.name not in types.split():
                sound = False
                found = f"{array.dtype.name} {array.shape}"
                yield Finding("array-damaged", f"{name} has a wrong shape or type", name, f"{types} {shape}", found)
        if sound and not same_dims(shapes):
            sound = False
            yield Finding("array-damaged", "reference and features have different lengths", "reference/mean")
        return sound

    def values(self) -> Generator[Finding, None, bool]:
        """Numbers that can be; gives back whether there are others."""
        summary, kept = self.summary, self.attributes.patches
        checks = {
            "patches/features": np.isfinite(summary.features),
            "patches/weights": (summary.weights >= 0) & (summary.weights <= 1 + WEIGHT_TOLERANCE),  # false for NaN
            "patches/cluster": summary.cluster >= 0,
            "tissue/representative": (summary.tissue.representative >= 0) & (summary.tissue.representative < kept),
            "tissue/similarity": np.abs(summary.tissue.similarity.astype(np.float32)) <= 1.001,
            "tissue/cluster": summary.tissue.cluster >= 0,
            "reference/mean": np.isfinite(summary.reference.mean),
            "reference/components": np.isfinite(summary.reference.components),
            "reference/variances": np.isfinite(summary.reference.variances) & (summary.reference.variances >= 0),
        }
        checks |= self.embedding_checks() | self.artefact_checks() | self.checks_since_1_2()
        checks |= reembedded_values(summary) | packed_values(summary)
        wrong = {name: good for name, good in checks.items() if not good.all()}
        for name, good in wrong.items():
            value = summary.array(name)[~good].flat[0]
            yield Finding("values", f"{int((~good).sum())} values of {name} are impossible", name, None, f"{value:g}")
        return bool(wrong)

    def checks_since_1_2(self) -> dict[str, np.ndarray]:
        """The same of what stands for the tissue when fewer patches are kept, and of random draws."""
        if self.attributes.revision < 2:
            return {}
        summary, kept = self.summary, self.attributes.patches
        counts = summary.array("tissue/earlier_count")
        checks = {"patches/counts": summary.counts >= 0, "tissue/earlier_count": (counts >= 0) & (counts < kept)}
        for name in ("reference/draws", "reference/model_draws"):
            if (quantiles := summary.optional(name)) is not None:
                checks[name] = np.isfinite(quantiles) & (np.diff(quantiles, axis=-1, append=np.inf) >= 0)
        if kept > 1:
            picks, cosines_to = (summary.array(f"tissue/earlier_{name}") for name in ("representative", "similarity"))
            checks["tissue/earlier_count"] &= counts.sum(dtype=np.int64) == len(picks) == len(cosines_to)
            checks["tissue/earlier_representative"] = (picks >= 0) & (picks < kept)
            checks["tissue/earlier_similarity"] = np.abs(cosines_to.astype(np.float32)) <= 1.001
            if all(good.all() for good in checks.values()):
                checks["tissue/earlier_representative"] = self.are_ascending(picks)
        return checks

    def are_ascending(self, picks: np.ndarray) -> np.ndarray:
        """Whether each patch's list starts with the first pick, and its picks and cosines ascend; (R,) bool."""
        found = self.summary.prefixes
        assert found is not None
        begins = np.diff(found.patch, prepend=-1) != 0
        rises = (np.diff(found.pick, prepend=-1) > 0) & (np.diff(found.similarity.astype(np.float32), prepend=-2) >= 0)
        sound = np.where(begins, found.pick == 0, rises)
        return np.full(len(picks), bool(sound.all()))

    def embedding_checks(self) -> dict[str, np.ndarray]:
        """The same for the outputs of a summarizer and slide encoder."""
        checks: dict[str, np.ndarray] = {}
        expected, summary = self.expected_embeddings(), self.summary
        for name in ("reference/embedding", "reference/slide_embedding", "reference/prototypes"):
            if name in expected:
                checks[name] = np.isfinite(summary.array(name))
        if "reference/candidates" in expected:
            rows = summary.array("reference/candidates")
            ascending = np.diff(rows.astype(np.int64), prepend=-1) > 0
            checks["reference/candidates"] = ascending & (rows < self.attributes.tissue_patches)
        if "reference/prototype_weights" in expected:
            shares = summary.array("reference/prototype_weights")
            adds_up = abs(float(shares.sum(dtype=np.float64)) - 1) <= ROUNDING
            checks["reference/prototype_weights"] = (shares >= 0) & adds_up  # false for NaN
        return checks

    def artefact_checks(self) -> dict[str, np.ndarray]:
        """The same of what was removed from the tissue, and of suspect tissue: kinds as often as the attributes say."""
        checks: dict[str, np.ndarray] = {}
        record = self.attributes
        if record.artefacts is not None and record.artefacts.count:
            checks["artefact/kind"] = as_stated(self.summary.artefacts.kind, record.artefacts.kinds, clean=0)
        if self.knows_suspects():
            kinds = record.suspect.kinds if record.suspect is not None else {}
            clean = record.tissue_patches - record.suspect_count
            checks[SUSPECT] = as_stated(self.summary.array(SUSPECT), kinds, clean)
        return checks

    def knows_suspects(self) -> bool:
        """Whether some tissue is suspect, by the attributes or by an array that they do not call for."""
        stored = self.attributes.revision >= 3 and f"{SUSPECT}/zarr.json" in self.summary.members
        return stored or self.attributes.suspect_count > 0

    def places(self) -> Generator[Finding, None, bool]:
        """Patches lie on the slide, each once, and the kept ones among the tissue; gives back whether some do not."""
        size = self.attributes.patch.patch_size_level0
        extent = np.array([self.attributes.source.width, self.attributes.source.height])
        kept, tissue = self.summary.coords.astype(np.int64), self.summary.tissue.coords.astype(np.int64)
        artefacts = self.summary.artefacts.coords.astype(np.int64)
        wrong = False
        for name, coords in (("patches/coords", kept), ("tissue/coords", tissue), ("artefact/coords", artefacts)):
            outside = ((coords < 0) | (coords + size > extent)).any(axis=1)
            if outside.any():
                wrong = True
                x, y = coords[outside][0]
                message = f"{int(outside.sum())} patches reach beyond the slide"
                yield Finding("coords-outside", message, name, f"within {extent[0]} x {extent[1]}", f"({x}, {y})")
        strangers = kept[~np.isin(as_keys(kept), as_keys(tissue))]
        if len(strangers) and not wrong:
            wrong = True
            message = f"{len(strangers)} kept patches are not among the tissue patches"
            yield Finding("values", message, "patches/coords", None, str(tuple(strangers[0].tolist())))
        among = len(np.intersect1d(as_keys(artefacts), as_keys(tissue)))
        wanted = len(artefacts) if self.summary.artefacts.ignored else 0  # never since format 1.3
        if among != wanted and not wrong:
            wrong = True
            message = f"{among} artefacts are among the tissue patches"
            yield Finding("values", message, "artefact/coords", str(wanted), str(among))
        return wrong

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
        whole = True
        for start in range(0, len(patches), BATCH):
            pixels: list[np.ndarray] = []
            rows = range(start, min(start + BATCH, len(patches)))
            for row in rows:
                yield from self.decode(patches, row, pixels)
            whole = whole and len(pixels) == len(rows)
            if encoder is None or not whole:
                continue
            try:
                features.append(encode_batches(encoder, np.stack(pixels), self.threads))
            except ModelError as error:
                encoder = None
                yield Finding("features-not-recomputed", str(error))
        if encoder is not None and whole:
            yield from self.features(np.concatenate(features), measured)
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


def as_keys(coords: np.ndarray) -> np.ndarray:
    """(N,) int64, one number for each place of (N, 2) int64 coords."""
    return np.asarray((coords[:, 0] << 32) + coords[:, 1])


def same_dims(shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether features, mean and components have the same length, and there is a variance per component."""
    dims = {shapes["patches/features"][1], shapes["reference/mean"][0], shapes["reference/components"][1]}
    return len(dims) == 1 and shapes["reference/components"][0] == shapes["reference/variances"][0]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines (N,) of the rows of two (N, D) arrays; 0 if either row is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.where(norms > 0, norms, np.inf))


def as_stated(kind: np.ndarray, counts: Mapping[str, int], clean: int) -> np.ndarray:
    """(N,) whether each of (N,) codes comes as often as stated: `clean` of them are 0, the rest as `counts` by name."""
    stated = np.zeros(256, np.int64)
    stated[: len(KINDS)] = [clean, *(counts.get(name, 0) for name in KINDS[1:])]
    return np.asarray((np.bincount(kind, minlength=256) == stated)[kind])
