"""Whether the attributes and arrays of a summary can be, and agree with each other: what every reader of them needs."""

from __future__ import annotations

from collections.abc import Generator, Mapping

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.models.card import SHARES as ROUNDING
from wsisum_cli.summary.extras.tissue_features import TISSUE_FEATURES
from wsisum_cli.summary.limits.claims import excessive_claims
from wsisum_cli.summary.limits.metadata import parse_metadata
from wsisum_cli.summary.limits.shapes import expected_arrays, expected_embeddings, knows_suspects, same_dims
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.writer import JPEG_BYTES, REEMBEDDED, SUSPECT
from wsisum_cli.tissue.artefacts import KINDS
from wsisum_cli.verification.finding import Finding

WEIGHT_TOLERANCE = 1e-9


def refuse_unsound(summary: Summary) -> None:
    """Raise SummaryError for a summary whose arrays cannot be drawn, listed or exported.

    Looks at neither checksums nor pixels; `verify_summary` does.
    """
    for finding in ArrayCheck(summary).check():
        message = finding.message.removeprefix(f"{summary.name}: ")
        raise SummaryError(f"{summary.name}: {message}; run wsisum verify on it")


class ArrayCheck:
    """Checks the arrays of a summary against each other. Raises SummaryError where the attributes are not valid."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self.attributes = summary.record

    def check(self) -> Generator[Finding, None, bool]:
        """Run all checks, each only where the ones before it found nothing; returns whether nothing was found."""
        if not (yield from self.hierarchy()) or not (yield from self.extent()) or not (yield from self.shapes()):
            return False
        return not (yield from self.values()) and not (yield from self.places())

    def hierarchy(self) -> Generator[Finding, None, bool]:
        """Check every zarr.json, so that other readers can open the file."""
        sound = True
        for name in self.summary.members:
            if not name.endswith("/zarr.json"):
                continue
            try:
                metadata = parse_metadata(self.summary.read(name))
                if metadata["zarr_format"] != 3 or metadata["node_type"] not in ("array", "group"):
                    raise ValueError("neither a Zarr v3 array nor group")
            except (ValueError, KeyError, TypeError) as error:
                sound = False
                yield Finding("array-damaged", f"{name} is not Zarr metadata ({error})", name)
        return sound

    def extent(self) -> Generator[Finding, None, bool]:
        """Whether the attributes claim what can be. Looked at before any array is read."""
        wrong = list(excessive_claims(self.attributes, self.summary.overview_sizes(), self.summary.size))
        for claim in wrong:
            yield Finding("attributes", claim.message, claim.member, claim.expected, claim.found)
        return not wrong

    def shapes(self) -> Generator[Finding, None, bool]:
        """Decode each array; returns whether all have the type and shape that they must have."""
        sound = True
        shapes: dict[str, tuple[int, ...]] = {}
        expected = expected_arrays(self.attributes, self.summary.members)
        for member in self.summary.members:  # a reader that goes by the array would take JPEG for JPEG XL
            name = member.removesuffix("/zarr.json")
            if name != member and name.endswith(JPEG_BYTES) and name not in expected:
                yield Finding("array-damaged", "lengths of JPEG streams stand beside rows that are such streams", name)
        for name in expected:
            try:
                shapes[name] = self.summary.array(name).shape  # which has the type and shape that it must have
            except SummaryError as error:
                sound = False
                yield Finding("array-damaged", str(error), name)
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
                with np.errstate(invalid="ignore"):  # of numbers that are not finite, which is said
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
        expected, summary = expected_embeddings(self.attributes), self.summary
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
        if knows_suspects(self.attributes, self.summary.members):
            kinds = record.suspect.kinds if record.suspect is not None else {}
            clean = record.tissue_patches - record.suspect_count
            checks[SUSPECT] = as_stated(self.summary.array(SUSPECT), kinds, clean)
        return checks

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


def as_keys(coords: np.ndarray) -> np.ndarray:
    """(N,) int64, one number for each place of (N, 2) int64 coords."""
    return np.asarray((coords[:, 0] << 32) + coords[:, 1])


def as_stated(kind: np.ndarray, counts: Mapping[str, int], clean: int) -> np.ndarray:
    """(N,) whether each of (N,) codes comes as often as stated: `clean` of them are 0, the rest as `counts` by name."""
    stated = np.zeros(256, np.int64)
    stated[: len(KINDS)] = [clean, *(counts.get(name, 0) for name in KINDS[1:])]
    return np.asarray((np.bincount(kind, minlength=256) == stated)[kind])


def reembedded_values(summary: Summary) -> dict[str, np.ndarray]:
    """Array -> which of its numbers are possible."""
    return {f"{REEMBEDDED}/{place}": np.isfinite(found) for place, found in enumerate(summary.reembedded)}


def packed_values(summary: Summary) -> dict[str, np.ndarray]:
    """Array -> which of its numbers are possible."""
    packed = summary.packed_features
    return {} if packed is None else {f"{TISSUE_FEATURES}/scale": np.isfinite(packed.scale)}
