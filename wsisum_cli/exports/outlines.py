"""Outlines of what squares cover together, as polygons with holes. Pure geometry, on whole numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

Point = tuple[int, int]
Ring = list[Point]  # closed: the last point is the first
Polygon = list[Ring]  # the outer ring first, then holes

MOST_CELLS = 1 << 24  # of the lattice that the sides of the squares make; past it the squares are moved onto a coarser
STEPS = 8  # places within a side that the coarser one has


def outlines(corners: np.ndarray, side: int) -> list[Polygon]:
    """The polygons that squares of `side` with these upper left corners (M, 2) cover, from the top down.

    Squares that share part of a side are joined, those that meet in a point are not. Outer rings have positive area
    in x, y, holes negative. Where the squares lie on no lattice and are many, they are moved by up to 1/16 side.
    """
    if not len(corners):
        return []
    xs, ys = lattice(corners[:, 0], side), lattice(corners[:, 1], side)
    if len(xs) * len(ys) > MOST_CELLS:
        step = max(1, side // STEPS)
        corners, side = np.rint(corners / step).astype(np.int64) * step, step * STEPS
        xs, ys = lattice(corners[:, 0], side), lattice(corners[:, 1], side)
    rings = list(simple_rings(boundary(covered(corners, side, xs, ys))))
    outer = sorted((ring for ring in rings if area(ring) > 0), key=lambda ring: (ring[0][1], ring[0][0]))
    found = {id(ring): [ring] for ring in outer}
    for hole in (ring for ring in rings if area(ring) < 0):
        around = [ring for ring in outer if holds(ring, inner_point(hole))]
        found[id(min(around, key=area))].append(hole)
    return [[[(int(xs[x]), int(ys[y])) for x, y in straightened(ring)] for ring in found[id(key)]] for key in outer]


def lattice(starts: np.ndarray, side: int) -> np.ndarray:
    """All values at which a square begins or ends, ascending."""
    return np.unique(np.concatenate([starts, starts + side]))


def covered(corners: np.ndarray, side: int, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """(len(ys) + 1, len(xs) + 1) bool: whether a cell of the lattice is covered, with an empty border."""
    change = np.zeros((len(ys) + 1, len(xs) + 1), np.int32)
    left, right = np.searchsorted(xs, corners[:, 0]), np.searchsorted(xs, corners[:, 0] + side)
    upper, lower = np.searchsorted(ys, corners[:, 1]), np.searchsorted(ys, corners[:, 1] + side)
    for rows, columns, sign in ((upper, left, 1), (upper, right, -1), (lower, left, -1), (lower, right, 1)):
        np.add.at(change, (rows + 1, columns + 1), sign)
    return np.asarray(change.cumsum(axis=0).cumsum(axis=1) > 0)


def boundary(cells: np.ndarray) -> dict[Point, list[Point]]:
    """The sides between covered and empty cells, from point to points, with the covered cell on the left."""
    inner = cells[1:, 1:]
    above, left = cells[:-1, 1:], cells[1:, :-1]
    sides: dict[Point, list[Point]] = defaultdict(list)
    for y, x in np.argwhere(inner & ~above).tolist():
        sides[x, y].append((x + 1, y))
    for y, x in np.argwhere(above & ~inner).tolist():
        sides[x + 1, y].append((x, y))
    for y, x in np.argwhere(inner & ~left).tolist():
        sides[x, y + 1].append((x, y))
    for y, x in np.argwhere(left & ~inner).tolist():
        sides[x, y].append((x, y + 1))
    return sides


def simple_rings(sides: dict[Point, list[Point]]) -> Iterator[Ring]:
    """The rings that sides make; none passes a point twice."""
    for start in sorted(sides, key=lambda point: (point[1], point[0])):
        while sides[start]:
            path: Ring = [start]
            at: dict[Point, int] = {start: 0}
            following = sides[start].pop()
            while following != start:
                if following in at:  # a loop within: a ring of its own
                    first = at[following]
                    yield [*path[first:], following]
                    for point in path[first + 1 :]:
                        del at[point]
                    del path[first + 1 :]
                else:
                    at[following] = len(path)
                    path.append(following)
                following = onward(path, sides[path[-1]])
            yield [*path, start]


def onward(path: Ring, ends: list[Point]) -> Point:
    """The next point: where two ways lead on, the left one, which stays with the same square."""
    if len(ends) > 1 and len(path) > 1:
        (x0, y0), (x1, y1) = path[-2:]
        left = (x1 - (y1 - y0), y1 + (x1 - x0))
        if left in ends:
            ends.remove(left)
            return left
    return ends.pop()


def area(ring: Ring) -> int:
    """Twice the signed area."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring))


def inner_point(hole: Ring) -> tuple[float, float]:
    """The centre of a covered cell beside a hole."""
    (x0, y0), (x1, y1) = hole[:2]
    return (x0 + x1) / 2 - (y1 - y0) / 2, (y0 + y1) / 2 + (x1 - x0) / 2


def holds(ring: Ring, point: tuple[float, float]) -> bool:
    """Whether a point that lies on no side is within a ring."""
    x, y = point
    corners = np.asarray(ring, float)
    (x0, y0), (_, y1) = corners[:-1].T, corners[1:].T
    return bool(np.count_nonzero(((y0 > y) != (y1 > y)) & (x0 > x)) % 2)  # all sides that are crossed are upright


def straightened(ring: Ring) -> Ring:
    """The ring without points between two sides in one line."""
    points = ring[:-1]
    around = zip(points[-1:] + points[:-1], points, points[1:] + points[:1], strict=True)
    kept = [b for a, b, c in around if (a[0] - b[0]) * (c[1] - b[1]) != (a[1] - b[1]) * (c[0] - b[0])]
    return [*kept, kept[0]]
