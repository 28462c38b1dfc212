"""Whether kept patches still do the work: labels, folds, intervals, classifiers, and the command end to end."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="evaluating needs torch")
pytest.importorskip("matplotlib")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from summaries import DIMS, STUB, tiny_contents, write_tiny  # noqa: E402
from training_data import write_features  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from wsisum_cli.commands.learning import train as cli  # noqa: E402
from wsisum_cli.commands.main import app  # noqa: E402
from wsisum_cli.errors import FeaturesError, UsageError  # noqa: E402
from wsisum_cli.evaluation.abmil import Settings, classify, train_abmil  # noqa: E402
from wsisum_cli.evaluation.arms import (  # noqa: E402
    ALL,
    Bag,
    Keep,
    Slide,
    arms_of,
    bags_of,
    fewest_representing,
    find_slides,
    find_summaries,
    kept_in_summary,
    parse_keep,
    read_bags,
    share_kept,
)
from wsisum_cli.evaluation.cohort import Cohort, read_labels  # noqa: E402
from wsisum_cli.evaluation.cross_validation import ABMIL, MEAN, Plan, cross_validate  # noqa: E402
from wsisum_cli.evaluation.folds import (  # noqa: E402
    Predictions,
    auc,
    balanced_accuracy,
    compare,
    deal_folds,
    draw_patients,
    estimate,
    macro_auc,
    measure_scores,
)
from wsisum_cli.evaluation.probe import STRENGTHS, USUAL, choose_strength, probe  # noqa: E402
from wsisum_cli.features.h5 import read_feature_file  # noqa: E402
from wsisum_cli.quality.likeness import measure_likeness  # noqa: E402
from wsisum_cli.selection.candidates import sample_candidates  # noqa: E402
from wsisum_cli.selection.patches import TissuePatches  # noqa: E402

WIDTH = 6
CPU = torch.device("cpu")


def cohort_of(labels: Sequence[int], patients: Sequence[object] | None = None) -> Cohort:
    names = tuple(f"s{number:03}" for number in range(len(labels)))
    who = names if patients is None else tuple(str(patient) for patient in patients)
    return Cohort(names, who, np.array(labels, np.int64), tuple("abcdefg"[: max(labels) + 1]))


def once(count: int) -> np.ndarray:
    return np.ones((1, count), np.int64)


# --------------------------------------------------------------------------------------------------------- labels


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text(text)
        return path

    return write


def test_labels_by_slide_patient_and_class(table: Callable[[str], Path]):
    path = table("slide,patient,label,grade\nB.svs,2,no,1\nA,1,yes,3\nC,,yes,3\nD,3,,1\n")
    cohort = read_labels(path, {"A", "B", "C", "D"})
    assert cohort.slides == ("A", "B", "C")
    assert cohort.patients == ("1", "2", "C")
    assert cohort.classes == ("no", "yes")
    assert cohort.labels.tolist() == [1, 0, 1]
    assert cohort.unlabelled == 1
    assert read_labels(path, {"A", "B", "C", "D"}, "grade").classes == ("1", "3")


def test_labels_as_clam_names_its_columns(table: Callable[[str], Path]):
    path = table("case_id,slide_id,label\np,A,x\np,B,y\n")
    assert read_labels(path, {"A", "B"}).patients == ("p", "p")


def test_labels_may_name_files(table: Callable[[str], Path]):
    path = table("slide,label\nin/A.ome.tif,x\nB.svs,y\nC.1,y\nD.ome.tif,x\n")
    assert read_labels(path, {"in/A", "B", "C.1", "D.ome"}).slides == ("B", "C.1", "D.ome", "in/A")


def test_without_patients_the_name_says_whose_a_slide_is(table: Callable[[str], Path]):
    path = table("slide,label\nA-1,x\nA-2,y\n")
    assert read_labels(path, {"A-1", "A-2"}, patient_of=lambda name: name[0]).patients == ("A", "A")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name,label\nA,x\n", "expected a column 'slide', found name, label"),
        ("slide,class\nA,x\n", "expected a column 'label', found slide, class; use one of these as --label"),
        ("slide,label\nA,x\nZ,y\n", r"1 of 2 slides have no features \(Z\); make them with `wsisum features`"),
        ("slide,label\nA,x\nB,x\n", "expected at least two classes in 'label', found only 'x'"),
        ("slide,label\nA,\nB,\n", "found no label"),
        ("slide,label\nA,x\nA.svs,y\n", "one row for each slide, found several for A"),
        ("slide,label\n", "a row for each slide, found no rows"),
    ],
)
def test_labels_that_cannot_serve_are_refused(table: Callable[[str], Path], text: str, complaint: str):
    with pytest.raises(UsageError, match=complaint):
        read_labels(table(text), {"A", "B"})


def test_a_missing_table_and_what_is_no_text(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none.csv: cannot be read"):
        read_labels(tmp_path / "none.csv", {"A"})
    (tmp_path / "odd.csv").write_bytes(b"slide,label\n\xff\xfe\x00,x\n")
    with pytest.raises(UsageError, match=r"odd.csv: not a CSV file in UTF-8"):
        read_labels(tmp_path / "odd.csv", {"A"})


# ---------------------------------------------------------------------------------------------------------- folds


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), min_size=12, max_size=40),
    st.integers(2, 4),
    st.integers(0, 99),
)
def test_folds_never_split_a_patient_and_have_every_class(patients: list[tuple[int, int]], count: int, seed: int):
    patients += [(label, 1) for label in range(3) for _ in range(count)]
    labels = [label for label, slides in patients for _ in range(slides)]
    who = [number for number, (_, slides) in enumerate(patients) for _ in range(slides)]
    cohort = cohort_of(labels, who)
    fold = deal_folds(cohort, count, seed)
    assert (fold == deal_folds(cohort, count, seed)).all()
    for patient in set(who):
        assert len(set(fold[np.array(who) == patient])) == 1
    for number in range(count):
        assert set(cohort.labels[fold == number]) == {0, 1, 2}


def test_folds_are_stratified_and_another_seed_deals_others():
    cohort = cohort_of([0] * 40 + [1] * 10)
    fold = deal_folds(cohort, 5, seed=0)
    assert np.bincount(fold[:40]).tolist() == [8] * 5
    assert np.bincount(fold[40:]).tolist() == [2] * 5
    assert (fold != deal_folds(cohort, 5, seed=1)).any()


def test_too_few_patients_of_a_class_say_what_to_do():
    with pytest.raises(UsageError, match=r"class 'b' has 2 patients, fewer than --folds 5: pass --folds 2"):
        deal_folds(cohort_of([0] * 9 + [1] * 6, [*range(9), 9, 9, 9, 10, 10, 10]), 5, 0)
    with pytest.raises(UsageError, match=r"class 'b' has 1 patient, fewer than --folds 2: label more"):
        deal_folds(cohort_of([0, 0, 0, 1]), 2, 0)
    with pytest.raises(UsageError, match="patients with slides of several classes"):
        deal_folds(cohort_of([0, 1, 1, 2, 0, 2], [1, 1, 2, 2, 3, 3]), 2, 0)


# -------------------------------------------------------------------------------------------------------- figures


def test_auc_counts_pairs_and_ties_count_half():
    positive = np.array([True, False, True, False])
    assert auc(np.array([0.9, 0.1, 0.5, 0.5]), positive, once(4))[0] == (2 + 1.5) / 4
    drawn = np.array([[1, 1, 0, 0], [0, 0, 2, 3], [1, 0, 1, 0]])
    assert auc(np.array([0.9, 0.1, 0.5, 0.5]), positive, drawn)[:2].tolist() == [1, 0.5]
    assert np.isnan(auc(np.array([0.9, 0.1, 0.5, 0.5]), positive, drawn)[2])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_auc_is_that_of_every_pair_within_a_fold(seed: int):
    rng = np.random.default_rng(seed)
    scores, positive, fold = rng.integers(0, 5, 15) / 4, rng.random(15) < 0.4, rng.integers(0, 3, 15)
    times = rng.integers(0, 3, (4, 15))
    for drawn, found in zip(times, auc(scores, positive, times, fold), strict=True):
        won = pairs = 0.0
        for one in np.flatnonzero(positive):
            for other in np.flatnonzero(~positive & (fold == fold[one])):
                both = drawn[one] * drawn[other]
                pairs += both
                won += both * ((scores[one] > scores[other]) + (scores[one] == scores[other]) / 2)
        assert np.isnan(found) if pairs == 0 else found == pytest.approx(won / pairs)


def test_two_classes_are_told_by_the_second_and_more_one_against_the_rest():
    scores = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])
    assert macro_auc(scores, np.array([0, 1, 1]), once(3))[0] == 1
    three = np.eye(3)[[0, 1, 1]]
    assert macro_auc(three, np.array([0, 1, 2]), once(3)) == pytest.approx((1 + 0.75 + 0.5) / 3)


def test_balanced_accuracy_is_the_mean_recall():
    labels, told = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1])
    assert balanced_accuracy(told, labels, once(5))[0] == (0.75 + 1) / 2
    assert np.isnan(balanced_accuracy(told, labels, np.array([[1, 1, 1, 1, 0]]))[0])


def test_draws_are_of_patients_and_of_each_class():
    cohort = cohort_of([0, 0, 0, 1, 1, 1, 1], [1, 1, 2, 3, 4, 4, 5])
    times = draw_patients(cohort, 200, seed=3)
    assert times.shape == (201, 7)
    assert (times[0] == 1).all()
    assert (times[:, 0] == times[:, 1]).all()
    assert (times[:, [0, 2]].sum(axis=1) == 2).all()
    assert (times[:, [3, 4, 6]].sum(axis=1) == 3).all()


def test_intervals_cover_the_truth_also_where_patients_have_several_slides():
    # Scores of positive slides are higher by one standard deviation, of which patients have the larger part.
    truth, rng, covered, naive = 0.760, np.random.default_rng(0), [], []
    cohort = cohort_of([0] * 90 + [1] * 90, np.arange(180) // 3)
    alone = cohort_of(cohort.labels.tolist())
    for _ in range(120):
        noise = np.sqrt(0.8) * rng.normal(size=60)[np.arange(180) // 3] + np.sqrt(0.2) * rng.normal(size=180)
        scores = cohort.labels + noise
        for who, hits in ((cohort, covered), (alone, naive)):
            found = estimate(auc(scores, cohort.labels == 1, draw_patients(who, 200, seed=1)))
            hits.append(found.low <= truth <= found.high)
    assert 0.87 <= np.mean(covered) <= 1
    assert np.mean(naive) < np.mean(covered) - 0.1  # what slides as draws would claim


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    cohort = cohort_of([0, 1] * 30)
    fold = np.zeros((1, 60), np.int64)
    first = rng.random((1, 60, 2))
    times = draw_patients(cohort, 100, 0)
    measured = measure_scores(Predictions(first, fold), cohort, times)
    same = compare(measured, measured)["auc_difference"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


# ---------------------------------------------------------------------------------------------------- classifiers


def rare_bag(label: int, rng: np.random.Generator, patches: int = 60, rare: int = 3) -> np.ndarray:
    """Noise, and in a slide of class 1 a few patches of another kind, half as many of its mirror image."""
    features = rng.normal(size=(patches, WIDTH))
    features[:rare] = (3 if label else -3) * np.eye(WIDTH)[0] + 3 * np.eye(WIDTH)[1] + 0.3 * features[:rare]
    return features.astype(np.float32)


def bag(features: np.ndarray, shares: np.ndarray | None = None) -> Bag:
    shares = np.full(len(features), 1 / len(features)) if shares is None else shares
    return Bag(features.astype(np.float32), shares, shares @ features, len(features), len(features))


def test_attention_finds_a_rare_part_of_the_bag():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    bags = [bag(rare_bag(label, rng)) for label in labels]
    network = train_abmil(bags[:40], labels[:40], Settings(epochs=20), 0, CPU)
    chances = classify(network, bags[40:], Settings())
    assert chances.sum(axis=1) == pytest.approx(1)
    assert macro_auc(chances, labels[40:], once(20))[0] > 0.9


def test_training_is_deterministic_and_leaves_the_seed_of_others_alone():
    rng = np.random.default_rng(0)
    labels = np.arange(8) % 2
    bags = [bag(rare_bag(label, rng)) for label in labels]
    before = torch.random.get_rng_state()
    found = [classify(train_abmil(bags, labels, Settings(epochs=2), 5, CPU), bags, Settings()) for _ in range(2)]
    assert (found[0] == found[1]).all()
    assert (torch.random.get_rng_state() == before).all()


def test_a_patch_that_stands_for_ten_counts_as_ten():
    rng = np.random.default_rng(0)
    labels = np.arange(8) % 2
    network = train_abmil([bag(rare_bag(k, rng)) for k in labels], labels, Settings(epochs=2), 0, CPU)
    kept = rng.normal(size=(4, WIDTH))
    counts = np.array([10, 1, 3, 2])
    one, other = bag(kept, counts / counts.sum()), bag(np.repeat(kept, counts, axis=0))
    told = classify(network, [one, other], Settings())
    assert told[0] == pytest.approx(told[1], abs=1e-5)


def test_the_probe_learns_and_a_constant_feature_does_no_harm():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    vectors = rng.normal(size=(40, 5)) + 2 * labels[:, None] * np.eye(5)[0]
    vectors[:, 4] = 1e6
    cohort = cohort_of(labels[:30].tolist())
    strength = choose_strength(vectors[:30], cohort, 0)
    assert strength in STRENGTHS
    chances = probe(vectors[:30], labels[:30], vectors[30:], strength)
    assert macro_auc(chances, labels[30:], once(10))[0] > 0.8
    assert choose_strength(vectors[:4], cohort_of(labels[:4].tolist()), 0) == USUAL


# ----------------------------------------------------------------------------------------------------------- arms


@pytest.mark.parametrize(
    ("text", "patches", "kept"), [("64", 1000, 64), ("64", 10, 10), ("5%", 300, 15), ("1%", 20, 1), ("auto", 500, None)]
)
def test_how_many_to_keep(text: str, patches: int, kept: int):
    assert parse_keep(text).of(patches) == kept
    assert str(parse_keep(text)) == text


@pytest.mark.parametrize("text", ["0", "-3", "x", "0%", "101%", "5 %", ""])
def test_what_is_no_number_of_patches(text: str):
    with pytest.raises(UsageError, match="--keep"):
        parse_keep(text)


def test_arms_that_cannot_be():
    with pytest.raises(UsageError, match="--selector best: there is none of this name"):
        arms_of(["best"], [Keep(8)], False)
    with pytest.raises(UsageError, match="--selector attention: needs a slide encoder"):
        arms_of(["attention"], [Keep(8)], False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of 16 slides of 12 patients, 80 patches each, and labels.csv: which rare kind a slide has."""
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    places = np.stack(np.divmod(np.arange(80), 10), axis=1)
    rows = [("slide", "patient", "label", "one")]
    for number in range(16):
        label = number % 2
        write_features(folder / "h5" / f"s{number:02}.h5", rare_bag(label, rng, 80, 8), places)
        rows.append((f"s{number:02}", f"p{number % 12}", ("lusc", "luad")[label], "x"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def test_the_mean_of_kept_patches_is_that_of_all_where_weights_fit(store: Path):
    slide = Slide(store / "h5" / "s00.h5", None, 0)
    arms = arms_of(["wsisum", "random"], [Keep(60), Keep(share=1.0)], False)
    bags = bags_of(slide, "s00", arms, None, None, 4096)
    whole = bags[ALL.name]
    assert len(whole.features) == 80
    for name in ("wsisum 60", "wsisum 100%"):
        assert bags[name].mean == pytest.approx(whole.mean, abs=0.01)
        assert bags[name].shares.sum() == pytest.approx(1)
    assert bags["wsisum 60"].kept == 60
    # The same vectors give the same answers.
    means = np.stack([bags["wsisum 100%"].mean, whole.mean])
    vectors = np.random.default_rng(0).normal(size=(20, WIDTH))
    told = probe(vectors, np.arange(20) % 2, means, 1.0)
    assert told[0] == pytest.approx(told[1], abs=0.01)


def test_what_was_picked_is_kept_and_made_again_where_damaged_or_of_other_features(store: Path, tmp_path: Path):
    arms = arms_of(["random"], [Keep(8)], False)
    files = {"s": store / "h5" / "s00.h5"}
    first = read_bags(["s"], files, arms, {}, tmp_path)["random 8"][0]
    (kept,) = tmp_path.rglob("*.npz")
    stamp = kept.stat().st_mtime_ns
    again = read_bags(["s"], files, arms, {}, tmp_path)["random 8"][0]
    assert kept.stat().st_mtime_ns == stamp
    assert (again.features == first.features).all()
    kept.write_bytes(b"broken")
    assert (read_bags(["s"], files, arms, {}, tmp_path)["random 8"][0].features == first.features).all()
    stamp = kept.stat().st_mtime_ns
    read_bags(["s"], {"s": store / "h5" / "s01.h5"}, arms, {}, tmp_path)
    assert kept.stat().st_mtime_ns != stamp


def test_auto_keeps_as_many_as_represent_most_of_the_tissue():
    places = np.stack(np.divmod(np.arange(100), 10), axis=1)
    apart = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    features = np.exp(-apart / 2).astype(np.float32)  # the farther apart two patches lie, the less alike they are
    tissue = TissuePatches(features, places * 64, sample_candidates(features, seed=0), 0, 64)
    cosine = measure_likeness(tissue.features, tissue.coords, tissue.patch_size_level0).cosine
    for selector in ("wsisum", "cluster"):
        keep = fewest_representing(tissue, selector)
        assert 8 < keep < 100
        assert share_kept(tissue, keep, selector, cosine) >= 0.95
        assert share_kept(tissue, keep - 1, selector, cosine) < 0.95


def test_large_slides_are_thinned_and_their_mean_is_that_of_all(store: Path):
    slide = Slide(store / "h5" / "s00.h5", None, 0)
    thinned = bags_of(slide, "s00", [ALL], None, None, 20)[ALL.name]
    assert len(thinned.features) == 20
    assert (thinned.kept, thinned.patches) == (80, 80)
    assert thinned.mean == pytest.approx(slide.features.mean(axis=0))


def test_arms_are_judged_in_the_same_folds(store: Path):
    files = {path.stem: path for path in (store / "h5").glob("*.h5")}
    cohort = read_labels(store / "labels.csv", files)
    bags = read_bags(cohort.slides, files, arms_of(["wsisum"], [Keep(share=1.0)], False), {})
    plan = Plan(folds=3, repeats=2, classifiers=(MEAN,))
    found = cross_validate(bags, cohort, plan)
    assert set(found) == {("all", MEAN), ("wsisum 100%", MEAN)}
    assert found["all", MEAN].scores.shape == (2, 16, 2)
    assert found["wsisum 100%", MEAN].scores == pytest.approx(found["all", MEAN].scores, abs=0.05)
    assert (found["all", MEAN].fold[0] != found["all", MEAN].fold[1]).any()


# ------------------------------------------------------------------------------------------------ summaries


@pytest.fixture(scope="module")
def summarized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of 8 slides by the stub encoder, summaries of them that hold 8 of 80 patches, and labels."""
    folder = tmp_path_factory.mktemp("summarized")
    contents = tiny_contents()
    rows = [("slide", "label")]
    for number in range(8):
        name, rng = f"t{number}", np.random.default_rng(number)
        features = rng.normal(0.5, 0.1, (len(contents.tissue.coords), DIMS))
        write_features(folder / "h5" / f"{name}.h5", features, contents.tissue.coords / 64, sha256=STUB.card.sha256)
        (folder / "summaries" / "deep").mkdir(parents=True, exist_ok=True)
        write_tiny(folder / "summaries" / "deep" / f"{name}.ozx")
        rows.append((name, "xy"[number % 2]))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def test_a_summary_gives_its_patches_and_weights(summarized: Path):
    contents = tiny_contents()
    path = summarized / "summaries" / "deep" / "t0.ozx"
    found = kept_in_summary(path, read_feature_file(summarized / "h5" / "t0.h5"))
    assert found.features == pytest.approx(contents.kept.features, abs=1e-3)
    assert found.mean == pytest.approx(contents.kept.weights @ contents.kept.features, abs=1e-3)
    assert (found.kept, found.patches) == (8, 80)
    assert found.shares == pytest.approx(contents.kept.weights)


def test_summaries_of_another_encoder_are_refused(summarized: Path, tmp_path: Path):
    path = summarized / "summaries" / "deep" / "t0.ozx"
    rng = np.random.default_rng(0)
    other = write_features(tmp_path / "t0.h5", rng.normal(size=(9, DIMS)), rng.random((9, 2)), sha256="cd" * 32)
    with pytest.raises(FeaturesError, match=r"t0.ozx: expected features of the encoder that made t0.h5"):
        kept_in_summary(path, read_feature_file(other))
    wide = write_features(tmp_path / "w.h5", rng.normal(size=(9, 5)), rng.random((9, 2)))
    with pytest.raises(FeaturesError, match=r"\(5 numbers\), found another's \(12\)"):
        kept_in_summary(path, read_feature_file(wide))


def test_a_slide_without_summary_is_named(summarized: Path):
    with pytest.raises(UsageError, match=r"found none for t9 \(1 of 2 slides\)"):
        find_summaries(summarized / "summaries", ["t0", "t9"])


# ---------------------------------------------------------------------------------------------------- command line


def evaluate(*arguments: object):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=True)


QUICK = ("--folds", 3, "--repeats", 1, "--epochs", 15, "--device", "cpu")


def test_the_command_end_to_end_twice_the_same(store: Path, tmp_path: Path):
    given = ("--labels", store / "labels.csv", "--features", store / "h5", *QUICK)
    picked = ("--selector", "facility", "--keep", "8", "--keep", "50%")
    first = evaluate(*given, *picked, "-o", tmp_path / "one", "--json")
    assert first.exit_code == 0, first.stderr
    report = json.loads(first.stdout)
    assert [arm["arm"] for arm in report["arms"]] == ["all", "facility 8", "facility 50%"]
    assert (report["slides"], report["patients"]) == (16, 12)
    assert report["classes"][0] == {"class": "luad", "slides": 8, "patients": 6}
    assert report["arms"][1]["share"] == 0.1
    everything = report["arms"][0]["figures"]
    assert everything[ABMIL]["auc"]["value"] > 0.8
    assert everything[ABMIL]["auc_difference"] == {"value": 0, "low": 0, "high": 0}
    for name in ("auc.png", "balanced_accuracy.png"):
        assert (tmp_path / "one" / name).read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "one" / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 16 * 3 * 2
    again = evaluate(*given, *picked, "-o", tmp_path / "two")
    assert again.stdout == (tmp_path / "two" / "report.md").read_text()
    assert "| facility 8 |" in again.stdout
    for name in ("report.json", "report.md", "predictions.csv", "auc.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_command_on_summaries(summarized: Path, tmp_path: Path):
    given = ("--labels", summarized / "labels.csv", "--features", summarized / "h5", *QUICK[:4], "--epochs", 1)
    shown = evaluate(
        *given, "--summaries", summarized / "summaries", "--selector", "random", "--keep", "8", "-o", tmp_path, "--json"
    )
    assert shown.exit_code == 0, shown.stderr
    arms = {arm["arm"]: arm for arm in json.loads(shown.stdout)["arms"]}
    assert list(arms) == ["all", "random 8", "summaries"]
    assert (arms["summaries"]["patches"], arms["summaries"]["share"]) == (8, 0.1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--label", "stage"], "expected a column 'stage'"),
        (["--label", "one"], "expected at least two classes in 'one', found only 'x'"),
        (["--folds", 9], "fewer than --folds 9: pass --folds 6"),
        (["--keep", "many"], "--keep: expected a number of patches"),
        (["--selector", "best"], "--selector best"),
        (["--summaries", "."], "expected one summary of each labelled slide"),
    ],
)
def test_what_cannot_start_says_why(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], complaint: str
):
    monkeypatch.chdir(tmp_path)
    found = evaluate("--labels", store / "labels.csv", "--features", store / "h5", "-o", tmp_path / "out", *arguments)
    assert isinstance(found.exception, UsageError)
    assert complaint in str(found.exception)
    assert not (tmp_path / "out").exists()


def test_exit_code_2_and_one_line(store: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from wsisum_cli.commands.main import main

    monkeypatch.setattr(
        sys,
        "argv",
        ["wsisum", "evaluate", "--labels", str(store / "labels.csv"), "--features", str(store / "h5"), "--folds", "9"],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("wsisum: class 'luad' has 6 patients")


def test_without_torch_it_says_what_to_install(store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    found = evaluate("--labels", store / "labels.csv", "--features", store / "h5")
    assert isinstance(found.exception, UsageError)
    assert "evaluating needs torch: pip install 'wsisum[train]'" in str(found.exception)


def test_summaries_that_were_moved_aside_are_no_slides(tmp_path: Path):
    write_tiny(tmp_path / "a.ozx")
    (tmp_path / ".wsisum" / "pruned").mkdir(parents=True)
    write_tiny(tmp_path / ".wsisum" / "pruned" / "b.ozx")
    assert find_slides([tmp_path]) == {"a": tmp_path / "a.ozx"}
