"""How well artefacts are told from tissue: painted ones found, clean patches left alone, and what selectors keep.

    python tests/benchmarks/artefacts.py SLIDE... --mpp 0.25 --tiles atlas-he-0.5mpp.zip --lung lc25000-lung-dev.zip

On each slide 5 % of the tissue patches are painted (see tests/spoil.py). The tables say how many of each kind are found
when one kind is painted at a time, what else is flagged, and how many of K = 63 kept patches are artefacts when pen,
blur and folds are painted together, eight times over, with the guard and without. `--sheet` writes what is flagged of
the clean tiles.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import cv2
import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

from encoder import read_tiles  # noqa: E402
from spoil import PAINTERS, as_ihc  # noqa: E402

from wsisum_cli.models.encoder import load_encoder  # noqa: E402
from wsisum_cli.selection.candidates import sample_candidates  # noqa: E402
from wsisum_cli.selection.patches import TissuePatches  # noqa: E402
from wsisum_cli.selection.selectors import pick  # noqa: E402
from wsisum_cli.slides.damage import Damage  # noqa: E402
from wsisum_cli.slides.patches import read_patches  # noqa: E402
from wsisum_cli.slides.slide import open_slide, read_overview  # noqa: E402
from wsisum_cli.tissue.artefacts import (  # noqa: E402
    KINDS,
    judge,
    kinds_of,
    measure,
)
from wsisum_cli.tissue.grid import lay_grid  # noqa: E402
from wsisum_cli.tissue.mask import find_tissue  # noqa: E402

MPP, SHARE, KEEP, DRAWS, SIDE = 0.5, 0.05, 63, 4, 512
PAINTINGS = 8  # of each slide, where what selectors keep is counted
SELECTORS = ("wsisum", "facility", "random")


def tissue_of(path: Path, mpp: float, card) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and coords of all tissue patches."""
    with open_slide(path, mpp, path.name) as slide:
        overview = read_overview(slide, Damage(), 1)
        mask = find_tissue(overview.pixels, overview.mpp)
        grid = lay_grid(slide.levels, slide.mpp, mask, overview.downsample, card, False, path.name)
        pixels = np.empty((len(grid.coords), card.patch_size, card.patch_size, 3), np.uint8)
        for rows, patches in read_patches(slide.pyramid, grid.coords, grid.reading, Damage()):
            pixels[rows] = patches
    return pixels, grid.coords


def painted(patches: np.ndarray, names: list[str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The patches with 5 % of them painted, by turns, and which."""
    rows = rng.choice(len(patches), max(len(names), round(SHARE * len(patches))), replace=False)
    spoilt = patches.copy()
    for turn, row in enumerate(rows):
        spoilt[row] = PAINTERS[names[turn % len(names)]](patches[row], rng)
    return spoilt, np.sort(rows)


def detection(groups: list[np.ndarray]) -> list[str]:
    """One row a kind: painted, found, found as that kind; precision among all patches."""
    lines = ["| painted | patches | recall | called that | precision |", "|---|---:|---:|---:|---:|"]
    for name in PAINTERS:
        rng, total, found, right, flagged = np.random.default_rng(0), 0, 0, 0, 0
        for patches in groups:
            for _ in range(DRAWS):
                spoilt, rows = painted(patches, [name], rng)
                kinds = kinds_of(spoilt, MPP)
                total, found = total + len(rows), found + int(np.count_nonzero(kinds[rows]))
                right += int(np.count_nonzero(kinds[rows] == KINDS.index(name)))
                flagged += int(np.count_nonzero(kinds))
        lines.append(
            f"| {name} | {total} | {found / total:.3f} | {right / total:.3f} | {found / max(flagged, 1):.3f} |"
        )
    return lines


def false_positives(name: str, groups: list[np.ndarray]) -> str:
    kinds = np.concatenate([kinds_of(patches, MPP) for patches in groups])
    counts = {KINDS[code]: int(count) for code, count in enumerate(np.bincount(kinds)) if code and count}
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"
    return f"| {name} | {len(kinds)} | {100 * np.count_nonzero(kinds) / len(kinds):.2f} % | {listed} |"


def encode(encoder, patches: np.ndarray) -> np.ndarray:
    return np.concatenate([encoder(patches[i : i + 64]) for i in range(0, len(patches), 64)])


def picks(features: np.ndarray, coords: np.ndarray, suspect: np.ndarray | None) -> dict[str, np.ndarray]:
    """Rows that each selector keeps."""
    tissue_patches = TissuePatches(features, coords, sample_candidates(features, 500, 50, 0), 0, SIDE, suspect=suspect)
    return {name: pick(tissue_patches, min(KEEP, len(coords)), name) for name in SELECTORS}


def kept_artefacts(slides: dict[str, tuple[np.ndarray, np.ndarray]], encoder) -> list[str]:
    """Shares of artefacts among kept patches, of all slides and paintings together, and of the worst painting."""
    kept = {(name, guarded): np.zeros((PAINTINGS, 2), int) for name in SELECTORS for guarded in (False, True)}
    for patches, coords in slides.values():
        clean = encode(encoder, patches)
        for painting in range(PAINTINGS):
            spoilt, rows = painted(patches, ["pen", "blurred", "fold"], np.random.default_rng(1 + painting))
            features = clean.copy()
            features[rows] = encode(encoder, spoilt[rows])
            judged = judge(coords, measure(spoilt, MPP))
            features, places, spoilt_rows = features[judged.rows], coords[judged.rows], np.isin(judged.rows, rows)
            for guarded, suspect in ((False, None), (True, judged.suspect > 0)):
                for name, picked in picks(features, places, suspect).items():
                    kept[name, guarded][painting] += spoilt_rows[picked].sum(), len(picked)
    lines = ["| selector | without | with the guard |", "|---|---:|---:|"]
    for name in SELECTORS:
        lines.append(f"| `{name}` | {shares(kept[name, False])} | {shares(kept[name, True])} |")
    return lines


def shares(counts: np.ndarray) -> str:
    """Of counts (paintings, 2) of artefacts and of kept patches."""
    artefacts, total = counts.sum(0)
    worst = (counts[:, 0] / counts[:, 1]).max()
    return f"{artefacts / total:.1%} ({artefacts} of {total}; of a painting at most {worst:.1%})"


def speed(encoder, patches: np.ndarray) -> str:
    """Medians of alternating rounds, one thread each."""
    cv2.setNumThreads(1)
    seconds: dict[str, list[float]] = {"guard": [], "encoder": []}
    for _ in range(7):
        for name, work in (("guard", lambda: measure(patches, MPP)), ("encoder", lambda: encoder(patches))):
            start = time.process_time()
            work()
            seconds[name].append(1000 * (time.process_time() - start) / len(patches))
    guard, of_encoder = (statistics.median(values) for values in seconds.values())
    return f"{guard:.2f} ms a patch, encoder {of_encoder:.2f} ms: {100 * guard / of_encoder:.1f} %"


def write_sheet(path: Path, groups: list[np.ndarray]) -> None:
    """What is flagged, with its kind."""
    cells = []
    for patches in groups:
        for patch, kind in zip(patches, kinds_of(patches, MPP), strict=True):
            if kind:
                cells.append(cv2.putText(patch.copy(), KINDS[kind], (4, 24), 0, 0.8, (0, 110, 0), 2))
    cells += [np.full_like(groups[0][0], 255)] * (-len(cells) % 6)
    rows = [np.hstack(cells[i : i + 6]) for i in range(0, len(cells), 6)]
    cv2.imwrite(str(path), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--mpp", type=float, default=0.25)
    parser.add_argument("--tiles", type=Path)
    parser.add_argument("--lung", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    encoder = load_encoder("encoder", "cpu")
    slides = {path.name: tissue_of(path, options.mpp, encoder.card) for path in options.slides}
    clean = ["| clean patches | patches | flagged | as |", "|---|---:|---:|---|"]
    clean += [false_positives(name, [patches]) for name, (patches, _) in slides.items()]
    if slides:
        first = next(iter(slides.values()))[0]
        print("\n".join([speed(encoder, first[:64]), "", *detection([patches for patches, _ in slides.values()]), ""]))
        print("\n".join([*kept_artefacts(slides, encoder), ""]))
        clean.append(false_positives("the same as IHC", [np.stack([*map(as_ihc, p)]) for p, _ in slides.values()]))
    if options.tiles:
        rows, pixels = read_tiles(options.tiles)
        of = np.array([f"{row['case']}/{row['slide']}" for row in rows])
        groups = [np.stack([pixels[i] for i in np.flatnonzero(of == name)]) for name in sorted(set(of))]
        clean.append(false_positives(options.tiles.name, groups))
        if options.sheet:
            write_sheet(options.sheet, groups)
    if options.lung:
        clean.append(false_positives(options.lung.name, [np.stack(read_tiles(options.lung)[1])]))
    print("\n".join(clean))


if __name__ == "__main__":
    main()
