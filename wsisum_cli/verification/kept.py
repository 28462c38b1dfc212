"""Kept patches -> findings: their features and pixels held against the tissue map, and against each other.

A summary whose checksums fit can still be made up. The kept patches are tissue too, so the tissue map says of them what
their features can be asked again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wsisum_cli.features.vectors import unit_rows
from wsisum_cli.summary.reader import Summary
from wsisum_cli.verification.finding import Finding

COSINE_TOLERANCE = 2e-3  # stored as float16
FLAT = 6  # grey levels between the darkest and the brightest px of a channel; the palest tissue spreads over 20
SAME_COSINE = 0.9  # the least that any encoder makes of the same pixels, whatever the batch


def check_tissue_map(summary: Summary) -> Iterator[Finding]:
    """The tissue map says of each kept patch that it represents itself, and what its features say."""
    if summary.record.revision < 2 or (prefixes := summary.prefixes) is None:
        return
    rows = tissue_rows(summary)
    own = np.flatnonzero(summary.tissue.representative[rows] != np.arange(len(rows)))
    if len(own):
        message = f"{len(own)} kept patches do not represent themselves, the first is patch {own[0]}"
        yield Finding("kept-differs", message, "tissue/representative")
    other = np.flatnonzero(summary.tissue.cluster[rows] != summary.cluster)
    if len(other):
        message = f"{len(other)} kept patches are of another cluster in the tissue map, the first is patch {other[0]}"
        yield Finding("kept-differs", message, "tissue/cluster")
    units = unit_rows(summary.features)
    kept_of = np.full(len(summary.tissue.coords), -1)
    kept_of[rows] = np.arange(len(rows))
    entries = np.flatnonzero(kept_of[prefixes.patch] >= 0)
    patch, pick = kept_of[prefixes.patch[entries]], prefixes.pick[entries]
    apart = np.abs((units[patch] * units[pick]).sum(axis=1) - prefixes.similarity[entries].astype(np.float64))
    if apart.max(initial=0) > COSINE_TOLERANCE:
        worst = int(apart.argmax())
        message = f"the tissue map has another cosine of patches {patch[worst]} and {pick[worst]} than their features"
        found = f"{float(prefixes.similarity[entries][worst]):.4f}"
        expected = f"{float(units[patch[worst]] @ units[pick[worst]]):.4f}"
        yield Finding("kept-differs", message, "tissue/similarity", expected, found)


def tissue_rows(summary: Summary) -> NDArray[np.int64]:
    """(K,) the row of each kept patch in the tissue map; the kept patches are known to be there."""
    row_of = {tuple(at): row for row, at in enumerate(summary.tissue.coords.tolist())}
    return np.array([row_of[tuple(at)] for at in summary.coords.tolist()], np.int64)


class Looks:
    """What the kept patches look like, taken as their pixels pass by, in the order of the patches."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._flat: list[bool] = []

    def add(self, patches: Sequence[NDArray[np.uint8]]) -> None:
        for patch in patches:
            self._digests.append(hashlib.sha256(patch.tobytes()).digest())
            self._flat.append(int((patch.max(axis=(0, 1)) - patch.min(axis=(0, 1))).max()) < FLAT)

    def check(self, summary: Summary) -> Iterator[Finding]:
        """Kept patches show something, and those that look the same have like features."""
        yield from self._check_empty(summary)
        yield from check_twins(summary, self._digests)

    def _check_empty(self, summary: Summary) -> Iterator[Finding]:
        """What shows nothing is no tissue, or is marked as suspect, where somebody looked."""
        record, suspect = summary.record, summary.tissue.suspect
        if record.features_are_given or record.artefacts is None or record.revision < 3:
            return
        if not record.artefacts.looked_at:
            return
        marked = np.zeros(len(self._flat), bool) if suspect is None else suspect[tissue_rows(summary)] > 0
        empty = np.flatnonzero(np.array(self._flat) & ~marked)
        if len(empty):
            message = f"{len(empty)} kept patches show nothing but one colour, the first is patch {empty[0]}"
            yield Finding("patch-empty", message, summary.patches.shard.member)


def check_twins(summary: Summary, digests: Sequence[bytes]) -> Iterator[Finding]:
    """Patches whose pixels are the same, by digest, have features that are alike.

    Patches that only look alike say nothing: encoders see texture that eyes do not. Given features may rest on more
    than the patch.
    """
    if summary.record.features_are_given:
        return
    units = unit_rows(summary.features)
    first: dict[bytes, int] = {}
    for row, digest in enumerate(digests):
        twin = first.setdefault(digest, row)
        if (cosine := float(units[row] @ units[twin])) < SAME_COSINE and twin != row:
            message = f"patches {twin} and {row} look the same, but their features do not"
            yield Finding("features-differ", message, "patches/features", f"{SAME_COSINE}", f"{cosine:.4f}")
            return
