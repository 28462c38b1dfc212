"""Slides with labelled tissue, and what is lost of it as patches are kept: the trials of `represented.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent)]
from encoder import JITTER_ADDED, JITTER_AMOUNT, STAINS, encode, read_tiles  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

from wsisum_cli.errors import FeaturesError  # noqa: E402
from wsisum_cli.features.h5 import read_feature_file  # noqa: E402
from wsisum_cli.features.similarity import fill_cosines, whole_rows  # noqa: E402
from wsisum_cli.features.vectors import unit_rows  # noqa: E402
from wsisum_cli.models.encoder import load_encoder  # noqa: E402
from wsisum_cli.quality.guarantee import guarantee  # noqa: E402
from wsisum_cli.selection.candidates import Candidates, cluster_features  # noqa: E402
from wsisum_cli.selection.patches import TissuePatches  # noqa: E402
from wsisum_cli.selection.selectors import pick  # noqa: E402

CHOSEN = "median of 8 neighbours"
VERDICTS = ("PASS", "REVIEW", "FAIL")
PASSES, FAILS = 0.90, 0.70  # of the tissue
MM2_PASSES, MM2_FAILS = 1.0, 10.0  # largest unrepresented region
LEVELS = (0.7, 0.8, 0.9, 0.95, 0.98)
PATCH_UM = 128.0  # side of a patch
MOST_KEPT = 256
GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SELECTORS = ("wsisum", "random", "mean", "corner")
HOST, SHARES = 1_500, (0.005, 0.01, 0.02, 0.05)
RANDOM_PAIRS, CAP = 10_000, 1 - 2.0**-10
WAYS = (0.5, 0.6, 0.7, 0.8, 0.9)  # from the median of random pairs to that of adjacent ones
BLOCKS = 100  # photographs of 2 x 2 patches in a pseudo-slide
SHIFT = 0.25  # of a patch's side


@dataclass(frozen=True)
class LabelledSlide:
    """`places` (N, 2) in patch sides; `classes`: rows of what may be lost; `label`, `case` for telling slides apart;
    `altered`: cosines (N,) of patches to themselves shifted or re-stained.
    """

    name: str
    features: np.ndarray
    places: np.ndarray
    classes: list[np.ndarray] = field(default_factory=list)
    altered: dict[str, np.ndarray] = field(default_factory=dict)
    label: str = ""
    case: str = ""


def read_slide(path: Path) -> tuple[np.ndarray, np.ndarray, float, str | None]:
    """Features, coords, side of a patch, and the sha256 of the encoder."""
    try:
        file = read_feature_file(path)
    except FeaturesError:  # WSISum's own file holds an embedding behind the features of its 500 patches
        import h5py

        with h5py.File(path) as raw:
            coords = raw["coords"][:]
            features = raw["features"][: len(coords)]
        return features, coords, side_of(coords), None
    side = file.patch_size_level0 or side_of(file.coords)
    return file.features, file.coords.astype(np.int64), side, file.encoder_sha256


def side_of(coords: np.ndarray) -> float:
    steps = np.diff(np.unique(coords[:, 0]))
    return float(np.bincount(steps[steps > 0].astype(np.int64)).argmax()) if len(steps) else 1.0


def load_slide(path: Path) -> LabelledSlide:
    features, coords, side, _ = read_slide(path)
    return LabelledSlide(path.stem, features.astype(np.float32), coords / side)


# Yardsticks ----------------------------------------------------------------------------------------------------------


def pairs(places: np.ndarray, euclidean: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows of adjacent patches, which touch and do not overlap by more than a quarter: 8 neighbours, or 4."""
    found = cKDTree(places).query_pairs(
        1.25 if euclidean else 1.5 - 1e-9, p=2 if euclidean else np.inf, output_type="ndarray"
    )
    apart = np.abs(places[found[:, 0]] - places[found[:, 1]]).max(axis=1, initial=0) > 0.75
    return found[apart, 0], found[apart, 1]


def yardsticks(slide: LabelledSlide) -> dict[str, float | np.ndarray]:
    """By name the cosine from which on a kept patch represents a tissue patch: one, or one for each patch (N,)."""
    units = unit_rows(slide.features).astype(np.float32)
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, len(units), (2, RANDOM_PAIRS))
    random = float(np.median(dots(units, one[one != other], other[one != other])))
    first, second = pairs(slide.places)
    if len(first) < 8:
        first = np.arange(len(units))
        second = cKDTree(slide.places).query(slide.places, k=2)[1][:, 1]
    eight = dots(units, first, second)
    four = dots(units, *pairs(slide.places, euclidean=True))
    found: dict[str, float | np.ndarray] = {
        "median of 8 neighbours": float(np.median(eight)),
        "median of 4 neighbours": float(np.median(four)) if len(four) else float(np.median(eight)),
        "lower quartile": float(np.percentile(eight, 25)),
        "upper quartile": float(np.percentile(eight, 75)),
        **{f"{way:g} of the way": random + way * (float(np.median(eight)) - random) for way in WAYS},
        "each patch's own neighbours": local(first, second, eight, len(units)),
        "fixed 0.5": 0.5,
        "fixed 0.8": 0.8,
    }
    found |= {f"itself {how}": float(np.median(cosine)) for how, cosine in slide.altered.items()}
    return {name: np.minimum(value, CAP) for name, value in found.items()} | {"random pairs": random}


def level_of(slide: LabelledSlide) -> np.float16:
    """The threshold that was chosen."""
    return np.float16(yardsticks(slide)[CHOSEN])


def dots(units: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", units[first], units[second])


def local(first: np.ndarray, second: np.ndarray, cosines: np.ndarray, count: int) -> np.ndarray:
    """Median cosine (N,) of each patch to its neighbours; the slide's where it has none."""
    rows, values = np.concatenate([first, second]), np.concatenate([cosines, cosines])
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], np.arange(count + 1))
    slices = pairwise(bounds)
    whole = np.median(cosines)
    return np.array([np.median(values[order[a:b]]) if b > a else whole for a, b in slices], np.float32)


# What selections represent and lose ----------------------------------------------------------------------------------


def orders(slide: LabelledSlide, selectors: tuple[str, ...], seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """By selector the rows of the first kept patches. `mean` and `corner` are poor on purpose."""
    count = len(slide.features)
    most = min(MOST_KEPT, count)
    nothing = Candidates(
        np.arange(count), cluster_features(slide.features) if count > 6_000 else np.zeros(count, np.int16)
    )
    patches = TissuePatches(slide.features, np.rint(slide.places * 256).astype(np.int64), nothing, seed, 256)
    for selector in selectors:
        if selector == "mean":
            units = unit_rows(slide.features)
            yield selector, np.argsort(-(units @ units.mean(axis=0)), kind="stable")[:most]
        elif selector == "corner":
            yield selector, np.argsort(slide.places.sum(axis=1), kind="stable")[:most]
        elif selector == "random":
            yield selector, np.random.default_rng(seed).permutation(count)[:most]
        else:
            yield selector, pick(patches, most, selector)


def best_cosines(features: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(K, N) the best cosine of each patch to the first 1, 2, ... K kept, as a summary stores it."""
    whole = whole_rows(features)
    found = fill_cosines(np.empty((len(order), len(whole)), np.int16), whole[order], whole)
    return (np.maximum.accumulate(found, axis=0) / np.float32(2**14)).astype(np.float16)


def measure(context: str, slide: LabelledSlide, selectors: tuple[str, ...] = SELECTORS, seed: int = 0) -> list[dict]:
    """A row for each selector and class: by yardstick how much was represented while the class was lost.

    `kept_at`: patches with which the first of the class is kept, None for never. `while_lost`: represented just before.
    `comfort`: share of the lost class that counts as represented then, and `served` once one of it is kept.
    """
    rows = []
    levels = yardsticks(slide)
    random = levels.pop("random pairs")
    for selector, order in orders(slide, selectors, seed):
        best = best_cosines(slide.features, order)
        reached = {name: best >= np.asarray(level, np.float16) for name, level in levels.items()}
        curves = {name: hit.mean(axis=1) for name, hit in reached.items()} | {
            "coverage": best.mean(axis=1, dtype=np.float64)
        }
        at_grid = {
            name: [round(float(curve[k - 1]), 4) for k in GRID if k <= len(order)] for name, curve in curves.items()
        }
        common = {"context": context, "slide": slide.name, "patches": len(slide.features), "selector": selector}
        common |= {"random": random, "level": float(levels["median of 8 neighbours"]), "curves": at_grid}
        common["regions"] = regions(slide, best, curves[CHOSEN], float(levels[CHOSEN]))
        for members in slide.classes:
            at = np.flatnonzero(np.isin(order, members))
            first = int(at[0]) if len(at) else None  # so many are kept before
            last_lost = len(order) - 1 if first is None else first - 1
            lost = {name: float(curve[last_lost]) if last_lost >= 0 else 0.0 for name, curve in curves.items()}
            comfort = {
                name: float(hit[last_lost, members].mean()) if last_lost >= 0 else 0.0 for name, hit in reached.items()
            }
            served = {} if first is None else {name: float(hit[first, members].mean()) for name, hit in reached.items()}
            row = {"share": len(members) / len(slide.features), "kept_at": None if first is None else first + 1}
            rows.append(common | row | {"while_lost": lost, "comfort": comfort, "served": served})
    return rows


def regions(slide: LabelledSlide, best: np.ndarray, curve: np.ndarray, level: float) -> list[tuple[int, float]]:
    """For each of `LEVELS`: the first K that represents so much, and the largest unrepresented region then, in mm²."""
    firsts = [int(np.argmax(curve >= share)) for share in LEVELS if curve[-1] >= share]
    return [(first + 1, largest(slide, best[first], np.float16(level))) for first in firsts]


def largest(slide: LabelledSlide, similarity: np.ndarray, level: np.float16) -> float:
    """mm² of the largest connected region whose patches are not represented."""
    found = guarantee(np.rint(slide.places * 256).astype(np.int64), 256, PATCH_UM / 256, similarity.astype(np.float32))
    return found.area(float(level)) - found.patch_mm2


def answer(share: float, area: float = 0.0) -> str:
    """The verdict on the share of the tissue that is represented, and on the largest area that is not, in mm²."""
    if share < FAILS or area > MM2_FAILS:
        return VERDICTS[2]
    return VERDICTS[0] if share >= PASSES and area <= MM2_PASSES else VERDICTS[1]


# Slides with something to lose ---------------------------------------------------------------------------------------


def region(slide: LabelledSlide, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of patches that lie together."""
    away = np.abs(slide.places - slide.places[rng.integers(len(slide.places))]).max(axis=1)
    return np.sort(np.argsort(away, kind="stable")[:count])


def planted(hosts: list[LabelledSlide], rounds: int) -> Iterator[LabelledSlide]:
    """Part of each slide, and beside it small regions of other cases: one of each share."""
    for number, host in enumerate(hosts):
        others = [slide for slide in hosts if case_of(slide.name) != case_of(host.name)]
        for turn in range(rounds):
            rng = np.random.default_rng((number, turn))
            rows = region(host, HOST, rng)
            features, places = [host.features[rows]], [host.places[rows] - host.places[rows].min(axis=0)]
            classes, count = [], len(rows)
            for share, which in zip(SHARES, rng.permutation(len(others))[: len(SHARES)], strict=False):
                foreign = region(others[which], max(1, round(share * len(rows))), rng)
                at = others[which].places[foreign]
                features.append(others[which].features[foreign])
                places.append(at - at.min(axis=0) + [np.concatenate(places)[:, 0].max() + 3, 0])
                classes.append(np.arange(count, count + len(foreign)))
                count += len(foreign)
            yield LabelledSlide(f"{host.name}.{turn}", np.concatenate(features), np.concatenate(places), classes)


def case_of(name: str) -> str:
    return name.rsplit("-HE", 1)[0]


def clustered(slides: list[LabelledSlide], clusters: int = 30) -> Iterator[LabelledSlide]:
    """Slides as they are; what may be lost are clusters of 0.5 to 8 % of their patches."""
    for slide in slides:
        rows = region(slide, 2 * HOST, np.random.default_rng(0))
        labels = cluster_features(slide.features[rows], clusters)
        parts = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
        classes = [part for part in parts if 0.005 <= len(part) / len(rows) <= 0.08]
        yield LabelledSlide(slide.name, slide.features[rows], slide.places[rows], classes)


@dataclass(frozen=True)
class Photographs:
    """Photographs of tissue, each cut into 2 x 2 patches: features (P, 4, D), and labels, groups (P,)."""

    features: np.ndarray
    altered: dict[str, np.ndarray]  # how -> cosines (P, 4) of each patch to itself altered
    labels: np.ndarray
    groups: np.ndarray


def photographs(archive: Path, encoder: str, label: str, group: str, variants: int, work: Path) -> Photographs:
    """Encode the tiles of a ZIP, or read what was encoded before."""
    cache = work / f"{archive.stem}.{encoder}.{variants}.npz"
    if not cache.exists():
        rows, tiles = read_tiles(archive)
        model = load_encoder(encoder, "cpu")
        found: dict[str, list[np.ndarray]] = {"plain": [], "shifted": [], "restained": []}
        rng = np.random.default_rng(0)
        for tile in tiles:
            for variant in range(variants):
                turned = tile if not variant else window(tile, rng)
                for how, cut in (("plain", cut_plain), ("shifted", cut_shifted), ("restained", cut_restained(rng))):
                    found[how] += cut(turned) if how == "plain" or not variant else []
        vectors = {how: encode(model, many) for how, many in found.items()}
        plain = vectors["plain"].reshape(len(tiles), variants, 4, -1)
        cosines = {
            how: (unit(plain[:, 0]) * unit(vectors[how].reshape(len(tiles), 4, -1))).sum(axis=-1)
            for how in ("shifted", "restained")
        }
        names = {"labels": np.array([row[label] for row in rows]), "groups": np.array([row[group] for row in rows])}
        np.savez(cache, allow_pickle=False, plain=plain.astype(np.float32), **cosines, **names)
    with np.load(cache) as stored:
        many = stored["plain"].shape[1]
        altered = {how: np.repeat(stored[how], many, axis=0) for how in ("shifted", "restained")}
        flat = stored["plain"].reshape(-1, *stored["plain"].shape[2:])
        return Photographs(flat, altered, np.repeat(stored["labels"], many), np.repeat(stored["groups"], many))


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def window(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = int(tile.shape[0] * rng.uniform(0.75, 1)) // 2 * 2
    top, left = rng.integers(0, tile.shape[0] - side + 1, 2)
    part = np.rot90(tile[top : top + side, left : left + side], int(rng.integers(4)))
    return np.ascontiguousarray(part[::-1] if rng.integers(2) else part)


def cut_plain(tile: np.ndarray) -> list[np.ndarray]:
    half = tile.shape[0] // 2
    return [np.ascontiguousarray(tile[y : y + half, x : x + half]) for y in (0, half) for x in (0, half)]


def cut_shifted(tile: np.ndarray) -> list[np.ndarray]:
    half, by = tile.shape[0] // 2, int(SHIFT * (tile.shape[0] // 2))
    corners = [(y, x) for y in (by, half - by) for x in (by, half - by)]
    return [np.ascontiguousarray(tile[y : y + half, x : x + half]) for y, x in corners]


def cut_restained(rng: np.random.Generator) -> Callable[[np.ndarray], list[np.ndarray]]:
    def cut(tile: np.ndarray) -> list[np.ndarray]:
        density = -np.log10((tile.astype(np.float32) + 1) / 256) @ np.linalg.inv(STAINS)
        factor = 1 + rng.uniform(-JITTER_AMOUNT, JITTER_AMOUNT, 3)
        density = density * factor + rng.uniform(-JITTER_ADDED, JITTER_ADDED, 3)
        return cut_plain(np.clip(256 * 10 ** -(density @ STAINS) - 1, 0, 255).astype(np.uint8))

    return cut


def mosaic(photos: Photographs, chosen: list[np.ndarray], name: str, label: str = "", case: str = "") -> LabelledSlide:
    """Photographs of each class, side by side with a gap; all but the first class may be lost."""
    blocks = np.concatenate(chosen)
    across = int(np.ceil(np.sqrt(len(blocks))))
    corner = 5.0 * np.stack(np.divmod(np.arange(len(blocks)), across)[::-1], axis=1)
    places = (corner[:, None] + np.array([[0, 0], [1, 0], [0, 1], [1, 1]])).reshape(-1, 2)
    stops = 4 * np.cumsum([len(part) for part in chosen])
    classes = [np.arange(start, stop) for start, stop in pairwise(stops)]
    features = photos.features[blocks].reshape(len(blocks) * 4, -1)
    altered = {how: values[blocks].ravel() for how, values in photos.altered.items()}
    return LabelledSlide(name, features, places, classes, altered, label, case)


def mixed(photos: Photographs, count: int) -> Iterator[LabelledSlide]:
    """Pseudo-slides of one class, with 1, 2 and 5 % of others."""
    labels, sizes = np.unique(photos.labels, return_counts=True)
    large = labels[sizes >= 1.2 * BLOCKS]
    for number in range(count):
        rng = np.random.default_rng(number)
        base = large[number % len(large)]
        others = rng.permutation(labels[labels != base])[:3]
        chosen = [rng.permutation(np.flatnonzero(photos.labels == base))[:BLOCKS]]
        for other, share in zip(others, rng.permutation((0.01, 0.02, 0.05))[: len(others)], strict=True):
            group = rng.permutation(np.unique(photos.groups[photos.labels == other]))[: max(1, round(share * BLOCKS))]
            chosen.append(
                np.array([rng.choice(np.flatnonzero((photos.labels == other) & (photos.groups == g))) for g in group])
            )
        yield mosaic(photos, chosen, f"{base}.{number}")


def told_apart(photos: Photographs, patients: int = 30, slides: int = 2) -> Iterator[LabelledSlide]:
    """Pseudo-slides of normal lung and 4 to 20 % of one of two tumours; patients share no photograph."""
    rng = np.random.default_rng(0)
    tumours = ("lung_aca", "lung_scc")
    groups = {
        label: rng.permutation(np.unique(photos.groups[photos.labels == label])) for label in ("lung_n", *tumours)
    }
    for patient in range(patients):
        label = tumours[patient % 2]
        normal = np.array_split(groups["lung_n"], patients)[patient]
        tumour = np.array_split(groups[label], patients // 2)[patient // 2]
        for number in range(slides):
            draw = np.random.default_rng((patient, number))
            many = round(draw.uniform(0.04, 0.2) * BLOCKS)
            chosen = [
                draw.permutation(np.flatnonzero((photos.labels == kind) & np.isin(photos.groups, of)))[:size]
                for kind, of, size in (("lung_n", normal, BLOCKS - many), (label, tumour, many))
            ]
            yield mosaic(photos, chosen, f"p{patient}-{number}", label, f"p{patient}")
