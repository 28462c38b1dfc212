"""Does it still do the work? What kept patches say of a slide's class and composition, beside all patches.

    python tests/benchmarks/evaluation.py mixtures lc25000-lung-dev.zip -o mixtures
    python tests/benchmarks/evaluation.py classes FEATURES training-slides.csv -o classes

`mixtures`: pseudo-slides of 300 patches on a grid, normal lung and 5 to 30 % of adenocarcinoma or squamous carcinoma.
The ZIP holds JPEG tiles and a labels.csv of `path, label, group_id`; a group is a photograph. Each patient has
photographs of their own, of which windows are cut, turned and encoded. Which tumour it is gets told from 5 % of the
patches by every selector, and from all; and how far the kept patches' composition (fitted weights; counts) is off.

`classes`: malignant, benign neoplasm or non-neoplastic, of slides with h5 features in a folder; at K = 64, by case.
Beside it stands what chance gives: the AUC of labels dealt out to the cases at random.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
from encoder import encode, enlarged, interval, read_tiles  # noqa: E402
from training_data import write_features  # noqa: E402

from wsisum_cli.evaluation.arms import ALL, NEED_MODELS, Arm, arms_of, parse_keep, read_bags  # noqa: E402
from wsisum_cli.evaluation.cohort import Cohort, read_labels  # noqa: E402
from wsisum_cli.evaluation.cross_validation import MEAN, Plan, cross_validate  # noqa: E402
from wsisum_cli.evaluation.folds import macro_auc  # noqa: E402
from wsisum_cli.evaluation.report import as_markdown, as_report, write_evaluation  # noqa: E402
from wsisum_cli.models.encoder import load_encoder  # noqa: E402
from wsisum_cli.selection.selectors import SELECTORS  # noqa: E402
from wsisum_cli.training.data import find_files  # noqa: E402

NORMAL, TUMOURS = "lung_n", ("lung_aca", "lung_scc")
PATIENTS, SLIDES = 40, 3  # patients; slides of each
PATCHES, ACROSS = 300, 20
LEAST, MOST = 0.05, 0.30  # tumour in a slide
VARIANTS = {NORMAL: 56, "lung_aca": 16, "lung_scc": 16}  # of each tile, so that a slide holds none twice
WINDOW = (0.75, 1.0)  # of a tile's side
PERMUTATIONS = 25
POOL = 1_024  # patches of a slide that the attention network sees where all are looked at


def varied(tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A window of the tile, turned and mirrored."""
    side = int(tile.shape[0] * rng.uniform(*WINDOW))
    top, left = rng.integers(0, tile.shape[0] - side + 1, 2)
    window = np.rot90(tile[top : top + side, left : left + side], int(rng.integers(4)))
    return np.ascontiguousarray(window[::-1] if rng.integers(2) else window)


def encode_variants(archive: Path, seed: int) -> tuple[dict[str, dict[str, np.ndarray]], str]:
    """By label and photograph the features of its variants, and the sha256 of the encoder."""
    encoder = load_encoder("encoder", "cpu")
    rows, tiles = read_tiles(archive)
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for number, (row, tile) in enumerate(zip(rows, tiles, strict=True)):
        many = [enlarged(varied(tile, rng), encoder.card.patch_size) for _ in range(VARIANTS[row["label"]])]
        found.setdefault(row["label"], {}).setdefault(row["group_id"], []).append(encode(encoder, many))
        if number % 100 == 99:
            print(f"encoded {number + 1} of {len(rows)} tiles", file=sys.stderr, flush=True)
    joined = {label: {g: np.concatenate(f) for g, f in groups.items()} for label, groups in found.items()}
    return joined, encoder.card.sha256


def build(archive: Path, folder: Path, seed: int) -> dict[str, np.ndarray]:
    """Write features and labels.csv, and give for each slide which of its patches are tumour (N,)."""
    photographs, sha256 = encode_variants(archive, seed)
    rng = np.random.default_rng(seed)
    dealt = {
        label: np.array_split(rng.permutation(sorted(groups)), PATIENTS if label == NORMAL else PATIENTS // 2)
        for label, groups in photographs.items()
    }
    truth, rows = {}, []
    for patient in range(PATIENTS):
        label = TUMOURS[patient % 2]
        normal = np.concatenate([photographs[NORMAL][g] for g in dealt[NORMAL][patient]])
        tumour = np.concatenate([photographs[label][g] for g in dealt[label][patient // 2]])
        for number in range(SLIDES):
            name, count = f"p{patient:02}-{number}", round(rng.uniform(LEAST, MOST) * PATCHES)
            drawn = [rng.permutation(normal)[: PATCHES - count], rng.permutation(tumour)[:count]]
            places = np.stack(np.divmod(np.arange(PATCHES), ACROSS)[::-1], axis=1)  # the tumour lies together
            # Seeded selectors draw the same rows of every slide: what lies in a row must not depend on its number.
            order = np.random.default_rng((seed, patient, number)).permutation(PATCHES)
            features = np.concatenate(drawn)[order]
            write_features(folder / "features" / f"{name}.h5", features, places[order], "encoder", sha256)
            truth[name] = order >= PATCHES - count
            rows.append((name, f"p{patient:02}", label))
    write_labels(folder / "labels.csv", rows)
    return truth


def write_labels(path: Path, rows: list[tuple[str, str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("slide", "patient", "label"), *rows])


def composition(folder: Path, arms: list[Arm], cohort: Cohort, truth: dict[str, np.ndarray]) -> list[str]:
    """How far the share of tumour among the kept patches is off, by fitted weights and by counts."""
    heads = ("by fitted weights", "by counts", "each the same", "slides without kept tumour")
    lines = ["| arm | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    owner = np.array(cohort.patients)
    for arm in arms:
        if arm == ALL:
            continue
        errors = []
        for name in cohort.slides:
            with np.load(folder / "selections" / arm.name.replace(" ", "-") / f"{name}.npz") as stored:
                tumour, share = truth[name][stored["rows"]], truth[name].mean()
                ways = (stored["weights"], stored["counts"] / stored["counts"].sum(), 1 / len(tumour))
                errors.append([*(abs((way * tumour).sum() - share) for way in ways), not tumour.any()])
        cells = ["{:.3f} ({:.3f} to {:.3f})".format(*interval(column, owner)) for column in np.array(errors).T]
        lines.append(f"| {arm.name} | " + " | ".join(cells) + " |")
    return lines


def evaluate(folder: Path, features: Path, arms: list[Arm], plan: Plan, label: str) -> tuple[Cohort, str]:
    files = find_files([features])
    cohort = read_labels(folder / "labels.csv", files)
    bags = read_bags(cohort.slides, files, arms, {}, folder / "selections", plan.seed, POOL, said("read"))
    found = cross_validate(bags, cohort, plan, said("judged"))
    report = as_report(cohort, arms, bags, found, plan, {"label": label})
    write_evaluation(folder, report, cohort, found)
    return cohort, as_markdown(report)


def said(what: str):
    def say(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            print(f"{what} {done} of {total}", file=sys.stderr, flush=True)

    return say


def by_chance(folder: Path, cohort: Cohort, bags: dict, plan: Plan) -> str:
    """Mean and spread of the AUC when labels are dealt out to the cases at random."""
    rng = np.random.default_rng(plan.seed)
    cases, owner = np.unique(cohort.patients, return_inverse=True)
    of_case = cohort.labels[[cohort.patients.index(case) for case in cases]]
    found = []
    for number in range(PERMUTATIONS):
        dealt = replace(cohort, labels=rng.permutation(of_case)[owner])
        judged = cross_validate(bags, dealt, replace(plan, classifiers=(MEAN,), repeats=1, seed=number))[ALL.name, MEAN]
        once = np.ones((1, len(owner)), np.int64)
        found.append(float(macro_auc(judged.scores[0], dealt.labels, once, judged.fold[0])[0]))
    (folder / "chance.json").write_text(json.dumps(found) + "\n")
    return f"Labels dealt out at random, {PERMUTATIONS} times: AUC {np.mean(found):.3f}, SD {np.std(found):.3f}"


def mixtures(options: argparse.Namespace) -> None:
    truth = build(options.archive, options.output, options.seed)
    selectors = [name for name in SELECTORS if name not in NEED_MODELS]
    arms = arms_of(selectors, [parse_keep("5%")], summaries=False)
    plan = Plan(folds=5, repeats=options.repeats, seed=options.seed)
    cohort, text = evaluate(options.output, options.output / "features", arms, plan, "tumour")
    text += "\n## Share of tumour, mean error\n\n" + "\n".join(composition(options.output, arms, cohort, truth)) + "\n"
    (options.output / "tables.md").write_text(text)
    print(text)


def classes(options: argparse.Namespace) -> None:
    there = find_files([options.features])
    with options.slides.open(newline="") as file:
        rows = [(f"{r['repo'].replace('/', '+')}__{r['dzi']}", r["repo"], r["class"]) for r in csv.DictReader(file)]
    options.output.mkdir(parents=True, exist_ok=True)
    write_labels(options.output / "labels.csv", [row for row in rows if row[0] in there and row[2] != "unknown"])
    arms = arms_of(options.selectors, [parse_keep("64")], summaries=False)
    plan = Plan(folds=5, repeats=options.repeats, seed=options.seed)
    cohort, text = evaluate(options.output, options.features, arms, plan, "class")
    bags = read_bags(cohort.slides, there, [ALL], {}, most=8)
    text += "\n" + by_chance(options.output, cohort, bags, plan) + "\n"
    (options.output / "tables.md").write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    mixed = parts.add_parser("mixtures")
    mixed.add_argument("archive", type=Path, help="ZIP of tiles")
    mixed.set_defaults(do=mixtures)
    real = parts.add_parser("classes")
    real.add_argument("features", type=Path, help="folder of h5 files")
    real.add_argument("slides", type=Path, help="CSV of repo, dzi, class")
    real.add_argument("--selectors", nargs="*", default=["wsisum", "facility", "random", "cluster", "location"])
    real.set_defaults(do=classes)
    for part in (mixed, real):
        part.add_argument("--repeats", type=int, default=3)
        part.add_argument("--seed", type=int, default=0)
        part.add_argument("-o", "--output", type=Path, default=Path("evaluation"))
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
