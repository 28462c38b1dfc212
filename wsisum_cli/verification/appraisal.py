"""Measure the figures of a summary again from its content, and judge them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from wsisum_cli.errors import ModelError
from wsisum_cli.features.embedding import Tokens, cosine, embed, encode_slide
from wsisum_cli.models.card import Card, ModelCard, SlideEncoderCard, SummarizerCard
from wsisum_cli.models.choice import SlideModels
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.models.slide_encoder import SlideEncoder
from wsisum_cli.models.summarizer import Summarizer
from wsisum_cli.quality.guarantee import guaranteed
from wsisum_cli.quality.likeness import Likeness
from wsisum_cli.quality.measures import WeightedPatches, measure
from wsisum_cli.quality.represented import WANTED, TissuePlaces, describe_represented, fewest_for, share_curve
from wsisum_cli.quality.verdict import FAIL, LeftOut, Thresholds, Verdict, compare_with_chance, judge
from wsisum_cli.summary.attributes import Attributes, NamedEncoder, Quality, Represented
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.standing import (
    figures_from,
    judge_again,
    left_out_of,
    likeness_of,
    recorded_figures,
    recorded_thresholds,
    tissue_share,
)
from wsisum_cli.summary.writer import ROOT, Reference
from wsisum_cli.verification.arrays import WEIGHT_TOLERANCE
from wsisum_cli.verification.bounds import check_draws, check_yardstick
from wsisum_cli.verification.finding import Finding
from wsisum_cli.verification.kept import check_tissue_map

QUALITY_TOLERANCE = 2e-3  # similarities are stored as float16, and other processors sum in another order
EMBEDDING_TOLERANCE = 1e-3  # cosine of embeddings; float16 features and other processors change them slightly
ROUNDING = 1e-5  # of figures that follow from stored data

#: Gives the model that a card in a summary describes, None when it is not at hand.
FindEncoder = Callable[[Card | NamedEncoder], Encoder | None]
FindSummarizer = Callable[[SummarizerCard], Summarizer | None]
FindSlideEncoder = Callable[[SlideEncoderCard], SlideEncoder | None]
Measured = dict[str, float]


@dataclass(frozen=True)
class ModelFinders:
    """Functions that find the models of a summary. By default none is available."""

    encoder: FindEncoder = lambda card: None
    summarizer: FindSummarizer = lambda card: None
    slide_encoder: FindSlideEncoder = lambda card: None


def check_figures(
    summary: Summary, models: ModelFinders, measured: Measured, thresholds: Thresholds | None
) -> Generator[Finding, None, Verdict | None]:
    """Measure again all figures that the file and the available models allow, into `measured`.

    `thresholds` None: the recorded ones. Returns the verdict on the measured figures, None before format 1.2.
    """
    found = list(check_weights(summary))
    if not found:
        found = [*check_quality(summary, measured), *check_embeddings(summary, models, measured)]
        if summary.record.revision >= 2:
            found += [*check_guarantee(summary), *check_represented(summary)]
        if not any(finding.severity == "error" for finding in found):  # else these say the same once more
            found += [*check_tissue_map(summary), *check_yardstick(summary), *check_draws(summary)]
    yield from found
    if summary.record.revision < 2 or any(finding.severity == "error" for finding in found):
        return None  # other figures do not support a verdict
    return (yield from check_verdict(summary, measured, thresholds))


def check_weights(summary: Summary) -> Iterator[Finding]:
    """Check that weights sum to 1, and that counts, and weights before format 1.2, match the tissue map."""
    representative = summary.tissue.representative
    counts = np.bincount(representative, minlength=len(summary.weights))
    if abs(float(summary.weights.sum()) - 1) > WEIGHT_TOLERANCE:
        yield Finding("weights", "weights do not sum to 1", "patches/weights", "1", f"{summary.weights.sum():.6f}")
    name, expected, found = "patches/counts", counts.astype(np.float64), summary.counts.astype(np.float64)
    if summary.record.revision < 2:
        name, expected, found = "patches/weights", counts / len(representative), summary.weights
    off = np.abs(expected - found)
    if off.max() > WEIGHT_TOLERANCE:
        row = int(off.argmax())
        message = f"{name} does not match the tissue map; patch {row} differs most"
        yield Finding("weights", message, name, f"{expected[row]:.6g}", f"{found[row]:.6g}")


def check_quality(summary: Summary, measured: Measured) -> Iterator[Finding]:
    """Check coverage from the tissue map, weighted cosine from features and mean, and composition from clusters."""
    kept = WeightedPatches(summary.features.astype(np.float32), summary.weights, summary.counts, summary.cluster)
    now = asdict(measure(kept, summary.tissue.similarity, summary.embedding, summary.tissue.cluster))
    measured |= now
    recorded = summary.record.quality
    tolerance = ROUNDING
    if summary.record.revision < 2:  # figures were of what was not rounded yet
        tolerance = QUALITY_TOLERANCE
        del now["composition"]
    yield from compare_quality(recorded, now, "the file's own data", tolerance)


def compare_quality(
    recorded: Quality, now: Mapping[str, float | None], by: str, tolerance: float = QUALITY_TOLERANCE
) -> Iterator[Finding]:
    """Compare figures with the recorded ones. None means not measurable, and equals only None."""
    for name, value in now.items():
        stated = getattr(recorded, name)
        same = stated is None if value is None else stated is not None and abs(float(stated) - value) <= tolerance
        if not same:
            found = "null" if value is None else f"{value:.4f}"
            yield Finding("quality-differs", f"{name} of {by} differs from the record", ROOT, str(stated), found)


def check_embeddings(summary: Summary, models: ModelFinders, measured: Measured) -> Iterator[Finding]:
    """How near the kept patches alone bring their embeddings to those of the slide; from this file only."""
    size = summary.record.patch.patch_size_level0
    tokens = Tokens(summary.features.astype(np.float32), summary.coords, size)
    now: dict[str, float] = {}
    try:
        at_hand = slide_models(summary.record, models)
        yield from missing_models(summary.record, at_hand)
        for name, card in summary.record.used_models.items():
            yield from check_card(name.replace("_", " "), card, getattr(at_hand, name))
        now = embedding_figures(at_hand, tokens, summary.reference)
    except ModelError as error:
        yield Finding("embedding-not-recomputed", str(error))
    measured |= now
    stated = comparable(summary.record, now)
    yield from compare_quality(summary.record.quality, stated, "the kept patches", EMBEDDING_TOLERANCE)


def embedding_figures(available: SlideModels, kept: Tokens, reference: Reference) -> dict[str, float]:
    """Cosines between embeddings of the kept patches alone and of the slide, by available models. Raises ModelError."""
    now = {}
    if available.summarizer is not None and reference.embedding is not None:
        now["embedding_cosine"] = cosine(embed(available.summarizer, kept), reference.embedding)
    if available.slide_encoder is not None and reference.slide_embedding is not None:
        of_kept = encode_slide(available.slide_encoder, kept).embedding
        now["slide_cosine"] = cosine(of_kept, reference.slide_embedding)
    return now


def comparable(attributes: Attributes, now: Mapping[str, float | None]) -> dict[str, float | None]:
    """Those figures that are recorded; a trimmed summary has null where nothing was at hand to measure them."""
    recorded, trimmed = attributes.quality.model_dump(exclude_unset=True), attributes.trimmed_from is not None
    return {name: value for name, value in now.items() if name in recorded and not (trimmed and recorded[name] is None)}


def slide_models(attributes: Attributes, models: ModelFinders) -> SlideModels:
    """The summarizer and the slide encoder, each None where none was used or it is not at hand."""
    summarizer, slide_encoder = attributes.summarizer, attributes.slide_encoder
    return SlideModels(
        models.summarizer(summarizer) if summarizer is not None else None,
        models.slide_encoder(slide_encoder) if slide_encoder is not None else None,
    )


def check_card(what: str, stated: ModelCard | NamedEncoder, model: Any) -> Iterator[Finding]:
    """Check that the summary's record of a model equals the card of the model with that SHA-256, if it is at hand."""
    if model is None or getattr(stated, "sha256", None) != model.card.sha256:
        return
    recorded = stated.model_dump(mode="json")
    for name, value in model.card.as_dict().items():
        if name in recorded and recorded[name] != value:
            message = f"the card of the {what} is not that of the model; {name} differs"
            yield Finding("card-differs", message, ROOT, f"{value!s:.60}", f"{recorded[name]!s:.60}")


def missing_models(attributes: Attributes, at_hand: SlideModels) -> Iterator[Finding]:
    for name, card in attributes.used_models.items():
        if getattr(at_hand, name) is None:
            what, option = name.replace("_", " "), "--" + name.replace("_", "-")
            message = f"a summary with the {what} {card.name}; pass that model as {option}"
            yield Finding("embedding-not-recomputed", message)


def check_guarantee(summary: Summary) -> Iterator[Finding]:
    """The smallest region that is surely represented, from the tissue map."""
    source, patch = summary.record.source, summary.record.patch
    tissue = summary.tissue
    rounded = summary.record.revision < 3
    now = guaranteed(tissue.coords, patch.patch_size_level0, source.mpp, tissue.similarity, rounded)
    stated = summary.record.guarantee
    if stated is not None and now != stated.model_dump():
        wanted = f"{stated.area_mm2} mm² at {stated.cosine}"
        found = f"{now['area_mm2']} mm² at {now['cosine']}"
        yield Finding("quality-differs", "the guarantee is not what the tissue map gives", ROOT, wanted, found)


def check_represented(summary: Summary) -> Iterator[Finding]:
    """How much of the tissue is represented, from the tissue map and the recorded yardstick."""
    stated = summary.record.represented
    if stated is None:
        return
    again = represented_again(summary, likeness_of(stated), stated.unread)
    if again != stated.model_dump(exclude={"needed"}):
        wanted, found = (
            f"{stated.share:.4f}, {stated.region_count} areas",
            f"{again['share']:.4f}, {again['region_count']}",
        )
        yield Finding("quality-differs", "represented is not what the tissue map gives", ROOT, wanted, found)
    prefixes, keep = summary.prefixes, summary.record.patches
    assert prefixes is not None  # of format 1.2 and later
    needed = fewest_for(share_curve(prefixes, keep, stated.cosine, stated.unread), WANTED)
    if needed != stated.needed and not (needed is None and (stated.needed is None or stated.needed > keep)):
        message = "represented.needed is not what the tissue map gives"
        yield Finding("quality-differs", message, ROOT, str(needed), str(stated.needed))


def represented_again(summary: Summary, likeness: Likeness, unread: int) -> dict[str, Any]:
    """The attribute `represented` by a yardstick, without `needed`."""
    record, tissue = summary.record, summary.tissue
    size, mpp = record.patch.patch_size_level0, record.source.mpp
    places = TissuePlaces(tissue.coords, size, mpp, unread, record.counts_overlap_twice)
    found = describe_represented(places, likeness, tissue.representative, tissue.similarity, None)
    return {name: value for name, value in found.items() if name != "needed"}


def check_verdict(
    summary: Summary, measured: Measured, thresholds: Thresholds | None
) -> Generator[Finding, None, Verdict | None]:
    """Check the recorded verdict against the recorded figures; return that on the figures measured again.

    Verdicts before format 1.4 are not checked: they compared the patches with random draws alone.
    """
    record, draws, prefixes = summary.record, summary.draws, summary.prefixes
    if record.verdict is None or draws is None or prefixes is None or draws.keep[-1] < record.patches:
        yield Finding("verdict-differs", "there are no draws of as many patches", "reference/draws")
        return None
    if record.revision >= 4:
        cosine = None if record.represented is None else record.represented.cosine
        chance = compare_with_chance(prefixes, cosine, draws, record.patches)
        again, stated = verdicts_as_written(record), record.verdict
        if (None if stated.chance is None else stated.chance.model_dump()) != (chance and chance.as_dict()):
            yield Finding("verdict-differs", "verdict.chance does not match the draws", ROOT)
        elif all(one is None or one.as_dict() != stated.model_dump(include=set(one.as_dict())) for one in again):
            wanted = None if again[0] is None else again[0].verdict
            yield Finding("verdict-differs", "the verdict does not match the figures", ROOT, wanted, stated.verdict)
    found = judge_with(record, left_out_of(record), measured, thresholds)
    if found.verdict == FAIL:
        yield Finding("verdict-fail", "; ".join(found.reasons))
    return found


def verdicts_as_written(record: Attributes) -> list[Verdict | None]:
    """The verdicts that the program that wrote the file may have reached.

    Earlier ones did not know what a mask or given features leave out. What they wrote is no error, but counts no more.
    """
    found = [judge_again(record)]
    if record.left_out is None and left_out_of(record) is not None:
        found.append(judge(replace(recorded_figures(record), left_out=None), recorded_thresholds(record)))
    return found


def judge_with(
    record: Attributes, left_out: LeftOut | None, measured: Measured, thresholds: Thresholds | None
) -> Verdict:
    """The verdict on the recorded figures, with those that were measured again in place."""
    recorded = recorded_figures(record)
    figures = {name: measured.get(name, value) for name, value in recorded.quality.items()}
    return judge(replace(recorded, quality=figures, left_out=left_out), thresholds or recorded_thresholds(record))


def judge_by(
    summary: Summary, yardstick: Likeness, unread: int, thresholds: Thresholds | None, left_out: LeftOut | None
) -> Verdict | None:
    """The verdict on a summary that records no yardstick; None without draws."""
    record, draws, prefixes = summary.record, summary.draws, summary.prefixes
    if draws is None or prefixes is None or draws.keep[-1] < record.patches:
        return None
    if record.artefacts is not None and record.revision < 3 and not record.artefacts.ignored:
        unread += record.artefacts.count  # which could be tissue then
    unread += record.broken_tiles.count  # patches that these cost were not counted
    section = Represented.model_validate({**represented_again(summary, yardstick, unread), "needed": None})
    chance = compare_with_chance(prefixes, yardstick.cosine, draws, record.patches)
    quality = record.quality.model_dump(exclude_unset=True)
    all_kept = record.patches == record.tissue_patches
    figures = figures_from(section, quality, chance, all_kept, tissue_share(record), left_out)
    return judge(figures, thresholds or recorded_thresholds(record))
