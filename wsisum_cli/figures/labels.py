"""Where the numbers of boxes go, so that they cover little. Pure geometry, in px."""

from __future__ import annotations

import math

import numpy as np

DIRECTIONS, DISTANCES = 16, (0.0, 0.6, 1.2, 2.0, 3.0, 4.5, 6.5)  # of numbers from their boxes, in their heights


def place_labels(boxes: np.ndarray, sizes: np.ndarray, panel: tuple[int, int]) -> np.ndarray:
    """(K, 2) int upper left of labels of `sizes` (K, 2): all in their (K, 4) boxes or all beside, as covers less."""
    beside, beside_cost = place_beside(boxes, sizes, panel)
    inside, inside_cost = place_inside(boxes, sizes)
    return (inside if inside_cost < beside_cost else beside).round().astype(int)


def place_inside(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, float]:
    """(K, 2) places in the boxes' upper left corners, and their cost."""
    room = boxes[:, 2:] - boxes[:, :2] - sizes
    if room.min() < 0:
        return boxes[:, :2], math.inf
    corners = boxes[:, :2] + np.minimum(4, room / 2)
    labels, areas = np.hstack([corners, corners + sizes]), sizes.prod(axis=1)
    covered = overlaps(labels, boxes).sum(axis=1) / np.prod(room + sizes, axis=1)
    crowded = overlaps(labels, labels).sum(axis=1) / areas - 1  # each overlaps itself
    return corners, float((1.2 * covered + 10 * crowded).sum())


def place_beside(boxes: np.ndarray, sizes: np.ndarray, panel: tuple[int, int]) -> tuple[np.ndarray, float]:
    """(K, 2) places around the boxes, each where it covers least, one after the other, and their cost."""
    placed, total = np.empty((0, 4)), 0.0
    whole = np.array([[0, 0, *panel]], float)
    for row, (box, size) in enumerate(zip(boxes, sizes, strict=True)):
        options, costs = label_options(box, size)
        area = float(size.prod())
        costs = costs + 20 * overlaps(options, placed).sum(axis=1) / area
        costs += 3 * overlaps(options, np.delete(boxes, row, axis=0)).sum(axis=1) / area
        costs += 100 * (1 - overlaps(options, whole)[:, 0] / area)
        placed, total = np.vstack([placed, options[costs.argmin()]]), total + float(costs.min())
    return placed[:, :2], total


def label_options(box: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C, 4) places for a label of `size` at `box`, and what each costs by its distance."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2] + size) / 2
    angles = np.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS) - math.pi / 2
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    square = directions / np.abs(directions).max(axis=1, keepdims=True)
    offsets = np.concatenate([square * half + directions * step * size[1] for step in DISTANCES])
    corners = middle + offsets - size / 2
    costs = 0.3 * np.hypot(*offsets.T) / size[1]
    return np.hstack([corners, corners + size]), costs


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(A, B) px² that `boxes` (A, 4) share with `others` (B, 4)."""
    lower = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    upper = np.maximum(boxes[:, None, :2], others[None, :, :2])
    return np.asarray(np.maximum(lower - upper, 0).prod(axis=2))


def leaders(boxes: np.ndarray, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(L, 4) x0, y0, x1, y1 from box to label, where the two do not touch."""
    start = np.clip(places + sizes / 2, boxes[:, :2], boxes[:, 2:])
    end = np.clip(start, places, places + sizes)
    return np.asarray(np.hstack([start, end])[np.abs(end - start).max(axis=1) > 3])
