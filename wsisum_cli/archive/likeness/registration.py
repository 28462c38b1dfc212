"""Two overviews laid on each other: where they fit, and how much of their fine structure agrees.

Keypoints give a similarity (turn, mirror, scale, shift), correlation makes it an affine map, and the tissue where both
overlap is compared in grey: each scanner has its own colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wsisum_cli.slides.pixels import resize

FINEST = 8.0  # µm per px at which pictures are compared
KEYPOINT_SIDE = 1200  # px, the longest side of a picture in which keypoints are looked for
KEYPOINTS = 3000
RATIO = 0.85  # of the distances of the best and the second best match, up to which a match counts (Lowe 2004)
REACH = 4.0  # px by which a match may miss the similarity
FEWEST = 8  # matches that a similarity needs
MOST_STRETCH = 2.2  # of the pixel sizes stated; more would be another objective
DENSE = 25  # grey levels below white from which a px is tissue
FINE, COARSE = 1.0, 5.0  # px: what is finer is noise of the JPEG, what is coarser is the outline of the tissue
BLOCK = 48  # px of a side of the blocks whose agreement is counted
ROUNDS, STEP, REFINED_SIDE = 40, 1e-5, 800  # of the refinement, and px of the longest side of its pictures
SURE = 0.8  # correlation at which nobody has to look whether the picture is mirrored too
LEAST_OVERLAP = 400  # px of tissue without which nothing can be said


@dataclass(frozen=True)
class Alignment:
    """How the second of two slides lies on the first, and how well they agree there."""

    matrix: np.ndarray  # (2, 3) from px of the first picture to px of the second
    mirrored: bool
    turn: float  # degrees, 0 to 360, by which the second is turned clockwise against the first
    scale: float  # size of the second beside what the pixel sizes say; 1 where both are right
    overlap: float  # share of the smaller tissue that lies on tissue of the other
    correlation: float  # of the fine structure where tissue overlaps, -1 to 1
    agreeing: float  # share of the blocks of overlap whose own correlation is at least half
    matches: int


class Picture:
    """An overview ready to be compared; what is costly is computed once."""

    def __init__(self, overview: np.ndarray, mpp: float) -> None:
        """`overview` is (H, W, 3) uint8 RGB with px of `mpp` µm."""
        import cv2

        grey = cv2.cvtColor(np.ascontiguousarray(overview), cv2.COLOR_RGB2GRAY)
        self.mpp, self._density = mpp, np.asarray(255 - grey)

    def density(self, mpp: float) -> np.ndarray:
        """(H, W) uint8, 0 on glass, with px of `mpp` µm."""
        height, width = (max(1, round(side * self.mpp / mpp)) for side in self._density.shape)
        return resize(self._density, height, width)

    def mpp_at(self, side: int) -> float:
        """The finest pixel size at which no side is longer than `side` px."""
        return float(max(self.mpp, FINEST, max(self._density.shape) * self.mpp / side))

    @property
    def keypoint_mpp(self) -> float:
        """Pixel size at which keypoints are looked for."""
        return self.mpp_at(KEYPOINT_SIDE)

    @cached_property
    def keypoints(self) -> tuple[np.ndarray, np.ndarray]:
        """(P, 2) places in µm and (P, 128) descriptors."""
        return find_keypoints(self.density(self.keypoint_mpp), self.keypoint_mpp)

    @cached_property
    def mirrored_keypoints(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of the picture seen from behind; places are of the picture itself."""
        density = self.density(self.keypoint_mpp)
        places, descriptors = find_keypoints(np.ascontiguousarray(density[:, ::-1]), self.keypoint_mpp)
        places[:, 0] = density.shape[1] * self.keypoint_mpp - places[:, 0]
        return places, descriptors


def find_keypoints(density: np.ndarray, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    everywhere = np.full(density.shape, 255, np.uint8)
    found, descriptors = cv2.SIFT.create(nfeatures=KEYPOINTS).detectAndCompute(density, everywhere)
    if descriptors is None:
        return np.empty((0, 2)), np.empty((0, 128), np.float32)
    return (np.array([point.pt for point in found]) + 0.5) * mpp, root_sift(descriptors)


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors whose Euclidean distance is Hellinger's (Arandjelovic and Zisserman 2012)."""
    total = descriptors.sum(axis=1, keepdims=True)
    return np.asarray(np.sqrt(descriptors / np.maximum(total, 1e-6)), np.float32)


def align(first: Picture, second: Picture) -> Alignment | None:
    """The best way to lay the second picture on the first; None where none was found."""
    best: Alignment | None = None
    for start in starts(first, second):
        found = measure(first, second, *start)
        if found is not None and (best is None or found.correlation > best.correlation):
            best = found
        if best is not None and best.correlation >= SURE:
            break
    return best


def starts(first: Picture, second: Picture) -> Iterator[tuple[np.ndarray, bool, int]]:
    """Similarities (2, 3) in µm from the first to the second, whether they mirror, and how many matches they have."""
    for mirrored in (False, True):
        points = second.mirrored_keypoints if mirrored else second.keypoints
        found = similarity(first.keypoints, points, mirrored, 2 * max(first.keypoint_mpp, second.keypoint_mpp))
        if found is not None:
            yield found[0], mirrored, found[1]


def similarity(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], mirrored: bool, reach: float
) -> tuple[np.ndarray, int] | None:
    """The similarity (2, 3) that most matches support, in µm, and how many do; None where too few do."""
    import cv2

    pairs = match(first[1], second[1])
    if len(pairs) < FEWEST:
        return None
    source, target = first[0][pairs[:, 0]], second[0][pairs[:, 1]]
    flip = np.array([-1.0 if mirrored else 1.0, 1.0])  # a similarity of two axes cannot mirror
    matrix, inside = cv2.estimateAffinePartial2D(
        source, target * flip, method=cv2.RANSAC, ransacReprojThreshold=REACH * reach, maxIters=5000, confidence=0.999
    )
    if matrix is None or inside.sum() < FEWEST:
        return None
    stretch = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if not 1 / MOST_STRETCH <= stretch <= MOST_STRETCH:
        return None
    return matrix * flip[:, None], int(inside.sum())


def match(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(M, 2) rows of descriptors that are each other's nearest, and much nearer than the next."""
    if len(first) < 2 or len(second) < 2:
        return np.empty((0, 2), int)
    cosine = first @ second.T  # descriptors have length 1
    nearest = cosine.argmax(axis=1)
    two = np.partition(cosine, -2, axis=1)[:, -2:]
    distance = np.sqrt(np.maximum(2 - 2 * two, 0))
    rows = np.arange(len(first))
    kept = (distance[:, 1] < RATIO * distance[:, 0]) & (cosine.argmax(axis=0)[nearest] == rows)
    return np.stack([rows[kept], nearest[kept]], axis=1)


def measure(first: Picture, second: Picture, start: np.ndarray, mirrored: bool, matches: int) -> Alignment | None:
    """How well two pictures agree when laid on each other from a start (2, 3) in µm on; None without overlap."""
    mpp = max(first.mpp, second.mpp, FINEST)
    one, other = first.density(mpp), second.density(mpp)
    matrix = pixel_matrix(refine(first, second, start), mpp)
    moved = warp(other, matrix, one.shape)
    both = (blurred(one, 2) > DENSE) & (blurred(moved, 2) > DENSE)
    smaller = min(np.count_nonzero(blurred(picture, 2) > DENSE) for picture in (one, other))
    stretch = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if both.sum() < LEAST_OVERLAP or not smaller:
        return None
    a, b = fine_structure(one), fine_structure(moved)
    return Alignment(
        matrix=matrix,
        mirrored=mirrored,
        turn=turn_of(matrix, mirrored),
        scale=stretch,
        overlap=min(1.0, float(both.sum() / smaller)),
        correlation=correlate(a[both], b[both]),
        agreeing=agreeing_share(a, b, both),
        matches=matches,
    )


def pixel_matrix(matrix: np.ndarray, mpp: float) -> np.ndarray:
    """A map (2, 3) of µm as one of px, whose places are those of their centres."""
    linear, shift = matrix[:, :2], matrix[:, 2] / mpp
    return np.column_stack([linear, linear @ [0.5, 0.5] + shift - 0.5])


def micron_matrix(matrix: np.ndarray, mpp: float) -> np.ndarray:
    """A map (2, 3) of px as one of µm: the inverse of `pixel_matrix`."""
    linear = matrix[:, :2]
    return np.column_stack([linear, (matrix[:, 2] + 0.5 - linear @ [0.5, 0.5]) * mpp])


def refine(first: Picture, second: Picture, start: np.ndarray) -> np.ndarray:
    """The affine map (2, 3) in µm near `start` by which pictures correlate most (Evangelidis and Psarakis 2008)."""
    import cv2

    mpp = max(*(picture.mpp_at(REFINED_SIDE) for picture in (first, second)))
    one, other = first.density(mpp), second.density(mpp)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ROUNDS, STEP)
    matrix, all_of_it = pixel_matrix(start, mpp).astype(np.float32), np.full(other.shape, 255, np.uint8)
    try:
        _, found = cv2.findTransformECC(one, other, matrix, cv2.MOTION_AFFINE, criteria, all_of_it, 5)
    except cv2.error:  # it does not converge: the pictures do not agree
        return start
    return micron_matrix(np.asarray(found, float), mpp)


def warp(picture: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The second picture as it lies on the first, of this height and width; 0 where it does not reach."""
    import cv2

    return np.asarray(cv2.warpAffine(picture, matrix, shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))


def blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    import cv2

    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma))


def fine_structure(picture: np.ndarray) -> np.ndarray:
    """(H, W) float32: details between `FINE` and `COARSE` px, without the outline of the tissue."""
    return np.asarray(blurred(picture, FINE) - blurred(picture, COARSE))


def correlate(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two vectors; 0 where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / length if length else 0.0


def agreeing_share(a: np.ndarray, b: np.ndarray, both: np.ndarray) -> float:
    """The share of blocks, at least half of which is overlap, whose own correlation is at least half."""
    found = []
    for y in range(0, both.shape[0], BLOCK):
        for x in range(0, both.shape[1], BLOCK):
            block = np.s_[y : y + BLOCK, x : x + BLOCK]
            inside = both[block]
            if 2 * inside.sum() >= BLOCK * BLOCK:
                found.append(correlate(a[block][inside], b[block][inside]) >= 0.5)
    return float(np.mean(found)) if found else 0.0


def turn_of(matrix: np.ndarray, mirrored: bool) -> float:
    """Degrees by which the second picture is turned clockwise, after it was mirrored where it is."""
    linear = matrix[:, :2] * [-1.0 if mirrored else 1.0, 1.0]
    degrees = float(np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])))
    return round(degrees % 360, 2) % 360
