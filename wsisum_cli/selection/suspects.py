"""Which patches may be picked where some look like pen, folds or blur.

A suspect patch is tissue: it is measured like any other. It is picked only where no clean patch stands for its part of
the slide. Features do not tell which those are: to an encoder a pen stroke is unlike all tissue. Places do: a piece of
tissue that is suspect as a whole, or a stretch of it that is further from clean tissue than `REACH`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsisum_cli.features.vectors import Coords, Rows

Mask = npt.NDArray[np.bool_]

#: Sides of a patch; about 1 mm.
REACH = 8.0
#: Suspect patches that must lie so far from clean tissue, in one piece. Fewer are a stroke on the glass, or dirt.
FEWEST_ALONE = 8
#: Where fewer patches are clean, or a smaller share, all may be picked.
FEWEST_CLEAN, LEAST_CLEAN = 8, 0.05


def pickable_rows(suspect: Mask | None, coords: Coords, patch_size: int) -> Rows:
    """Ascending rows of N that may be picked before any other; `suspect` (N,), None where nobody looked.

    `coords` (N, 2) and the side `patch_size` of a patch are in level-0 px.
    """
    everything = np.arange(len(coords))
    if suspect is None or not suspect.any():
        return everything
    clean = int(np.count_nonzero(~suspect))
    if clean < FEWEST_CLEAN or clean < LEAST_CLEAN * len(suspect):
        return everything
    return np.flatnonzero(~suspect | _stands_alone(suspect, coords / max(patch_size, 1)))


def _stands_alone(suspect: Mask, places: npt.NDArray[np.float64]) -> Mask:
    """(N,) whether a patch is suspect and no clean one is near it in the same piece; `places` (N, 2) in patches."""
    from scipy.spatial import cKDTree

    piece = _pieces(places)
    apart = np.column_stack([places, piece * 4 * REACH])  # so that no patch is near one of another piece
    distance, _ = cKDTree(apart[~suspect]).query(apart, distance_upper_bound=REACH)
    alone = suspect & ~np.isfinite(distance)
    enough = np.bincount(piece[alone], minlength=int(piece.max()) + 1) >= FEWEST_ALONE
    return np.asarray(alone & enough[piece])


def _pieces(places: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(N,) the piece of tissue that each patch belongs to: patches that touch, also by a corner, are of one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    one, other = cKDTree(places).query_pairs(1.01, p=np.inf, output_type="ndarray").T
    touching = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(places), len(places)))
    return np.asarray(connected_components(touching, directed=False)[1], np.int64)
