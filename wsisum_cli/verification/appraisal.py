"""The figures of a summary measured again from what it holds -> findings, and the verdict that they come to."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wsisum_cli.errors import ModelError
from wsisum_cli.features.embedding import Tokens, cosine, embed, encode_slide
from wsisum_cli.models.choice import SlideModels
from wsisum_cli.models.encoder import Encoder
from wsisum_cli.models.slide_encoder import SlideEncoder
from wsisum_cli.models.summarizer import Summarizer
from wsisum_cli.quality.guarantee import guaranteed
from wsisum_cli.quality.measures import WeightedPatches, measure
from wsisum_cli.quality.verdict import FAIL, Thresholds, Verdict, judge, stored_thresholds
from wsisum_cli.summary.attributes import REQUIRED_OF_MODELS, minor_version, model_used
from wsisum_cli.summary.reader import Summary
from wsisum_cli.summary.writer import ROOT, Reference
from wsisum_cli.verification.finding import Finding

QUALITY_TOLERANCE = 2e-3  # similarities are kept as float16, other processors add up in other orders
EMBEDDING_TOLERANCE = 1e-3  # of the cosine of embeddings, which float16 features and other processors change a little
WEIGHT_TOLERANCE = 1e-9
ROUNDING = 1e-5  # of figures that follow from what is stored

#: Gives the model that a card in a summary describes, None when it is not at hand.
FindEncoder = Callable[[dict[str, Any]], Encoder | None]
FindSummarizer = Callable[[dict[str, Any]], Summarizer | None]
FindSlideEncoder = Callable[[dict[str, Any]], SlideEncoder | None]
Measured = dict[str, float]


@dataclass(frozen=True)
class ModelFinders:
    """Finds the models that made a summary. By default none is at hand."""

    encoder: FindEncoder = lambda card: None
    summarizer: FindSummarizer = lambda card: None
    slide_encoder: FindSlideEncoder = lambda card: None


def check_figures(
    summary: Summary, models: ModelFinders, measured: Measured, thresholds: Thresholds | None
) -> Generator[Finding, None, Verdict | None]:
    """Measure again what the file and the models at hand allow; figures go into `measured`.

    `thresholds` None: those recorded. Gives back the verdict of the figures measured, None before format 1.2.
    """
    found = list(check_weights(summary))
    if not found:
        found = [*check_quality(summary, measured), *check_embeddings(summary, models, measured)]
        if minor_version(summary.attributes) >= 2:
            found += check_guarantee(summary)
    yield from found
    if minor_version(summary.attributes) < 2 or any(finding.severity == "error" for finding in found):
        return None  # what the figures come to is not told by other figures
    return (yield from check_verdict(summary, measured, thresholds))


def check_weights(summary: Summary) -> Iterator[Finding]:
    """Shares add up; counts, before format 1.2 the shares too, are those of the tissue map."""
    stand_in = summary.tissue.representative
    counts = np.bincount(stand_in, minlength=len(summary.weights))
    if abs(float(summary.weights.sum()) - 1) > WEIGHT_TOLERANCE:
        yield Finding("weights", "weights do not add up", "patches/weights", "1", f"{summary.weights.sum():.6f}")
    name, expected, found = "patches/counts", counts.astype(np.float64), summary.counts.astype(np.float64)
    if minor_version(summary.attributes) < 2:
        name, expected, found = "patches/weights", counts / len(stand_in), summary.weights
    off = np.abs(expected - found)
    if off.max() > WEIGHT_TOLERANCE:
        row = int(off.argmax())
        message = f"{name} is not what the tissue map assigns; the worst is patch {row}"
        yield Finding("weights", message, name, f"{expected[row]:.6g}", f"{found[row]:.6g}")


def check_quality(summary: Summary, measured: Measured) -> Iterator[Finding]:
    """Coverage from the tissue map, the weighted mean from features and reference, composition from clusters."""
    kept = WeightedPatches(summary.features.astype(np.float32), summary.weights, summary.counts, summary.cluster)
    now = asdict(measure(kept, summary.tissue.similarity, summary.embedding, summary.tissue.cluster))
    measured |= now
    recorded = summary.attributes["quality"]
    tolerance = ROUNDING
    if minor_version(summary.attributes) < 2:  # figures were of what was not rounded yet
        tolerance = QUALITY_TOLERANCE
        del now["composition"]
    yield from compare_quality(recorded, now, "the file's own data", tolerance)


def compare_quality(
    recorded: Mapping[str, Any], now: Mapping[str, float | None], by: str, tolerance: float = QUALITY_TOLERANCE
) -> Iterator[Finding]:
    """None is what cannot be measured, and equals None alone."""
    for name, value in now.items():
        stated = recorded[name]
        same = stated is None if value is None else stated is not None and abs(float(stated) - value) <= tolerance
        if not same:
            found = "null" if value is None else f"{value:.4f}"
            yield Finding("quality-differs", f"{name} by {by} is not as recorded", ROOT, str(stated), found)


def check_embeddings(summary: Summary, models: ModelFinders, measured: Measured) -> Iterator[Finding]:
    """How near the kept patches alone bring their embeddings to those of the slide; from this file only."""
    size = summary.attributes["patch"]["patch_size_level0"]
    tokens = Tokens(summary.features.astype(np.float32), summary.coords, size)
    now: dict[str, float] = {}
    try:
        at_hand = slide_models(summary.attributes, models)
        yield from missing_models(summary.attributes, at_hand)
        for name in REQUIRED_OF_MODELS:
            yield from check_card(name.replace("_", " "), model_used(summary.attributes, name), getattr(at_hand, name))
        now = embedding_figures(at_hand, tokens, summary.reference)
    except ModelError as error:
        yield Finding("embedding-not-recomputed", str(error))
    measured |= now
    stated = comparable(summary.attributes, now)
    yield from compare_quality(summary.attributes["quality"], stated, "the kept patches", EMBEDDING_TOLERANCE)


def embedding_figures(at_hand: SlideModels, kept: Tokens, reference: Reference) -> dict[str, float]:
    """How near the kept patches alone bring the embeddings of the slide, by the models at hand. Raises ModelError."""
    now = {}
    if at_hand.summarizer is not None and reference.embedding is not None:
        now["embedding_cosine"] = cosine(embed(at_hand.summarizer, kept), reference.embedding)
    if at_hand.slide_encoder is not None and reference.slide_embedding is not None:
        of_kept = encode_slide(at_hand.slide_encoder, kept).embedding
        now["slide_cosine"] = cosine(of_kept, reference.slide_embedding)
    return now


def comparable(attributes: Mapping[str, Any], now: Mapping[str, float | None]) -> dict[str, float | None]:
    """Those figures that are recorded; a trimmed summary has null where nothing was at hand to measure them."""
    recorded, trimmed = attributes["quality"], attributes.get("trimmed_from") is not None
    return {name: value for name, value in now.items() if name in recorded and not (trimmed and recorded[name] is None)}


def slide_models(attributes: Mapping[str, Any], models: ModelFinders) -> SlideModels:
    """The summarizer and the slide encoder, each None where none was used or it is not at hand."""
    summarizer, slide_encoder = (model_used(attributes, name) for name in REQUIRED_OF_MODELS)
    return SlideModels(
        models.summarizer(summarizer) if summarizer is not None else None,
        models.slide_encoder(slide_encoder) if slide_encoder is not None else None,
    )


def check_card(what: str, stated: Mapping[str, Any] | None, model: Any) -> Iterator[Finding]:
    """What the summary records of a model is what the model of that SHA-256 says of itself, where it is at hand."""
    if stated is None or model is None or stated.get("sha256") != model.card.sha256:
        return
    for name, value in asdict(model.card).items():
        value = list(value) if isinstance(value, tuple) else value
        if name in stated and stated[name] != value:
            message = f"the card of the {what} is not that of the model; {name} differs"
            yield Finding("card-differs", message, ROOT, f"{value!s:.60}", f"{stated[name]!s:.60}")


def missing_models(attributes: Mapping[str, Any], at_hand: SlideModels) -> Iterator[Finding]:
    for name in REQUIRED_OF_MODELS:
        card = model_used(attributes, name)
        if card is not None and getattr(at_hand, name) is None:
            what, option = name.replace("_", " "), "--" + name.replace("_", "-")
            message = f"a summary with the {what} {card['name']}; pass that model as {option}"
            yield Finding("embedding-not-recomputed", message)


def check_guarantee(summary: Summary) -> Iterator[Finding]:
    """The smallest region that is surely represented, from the tissue map."""
    source, patch = summary.attributes["source"], summary.attributes["patch"]
    tissue = summary.tissue
    now = guaranteed(tissue.coords, patch["patch_size_level0"], source["mpp"], tissue.similarity)
    if now != summary.attributes["guarantee"]:
        stated = summary.attributes["guarantee"]
        wanted, found = (f"{said['area_mm2']} mm² at {said['cosine']}" for said in (stated, now))
        yield Finding("quality-differs", "the guarantee is not what the tissue map gives", ROOT, wanted, found)


def check_verdict(
    summary: Summary, measured: Measured, thresholds: Thresholds | None
) -> Generator[Finding, None, Verdict | None]:
    """That of the recorded figures must be the one recorded; that of the figures measured again is given back."""
    recorded, keep, draws = summary.attributes["verdict"], summary.attributes["patches"], summary.draws
    if draws is None or draws.keep[-1] < keep:
        yield Finding("verdict-differs", "there are no draws of as many patches", "reference/draws")
        return None
    stored = stored_thresholds(recorded["thresholds"])
    again = judge(summary.attributes["quality"], draws, keep, stored)
    stated = (recorded["verdict"], recorded["percentiles"], recorded["reasons"])
    if stated != (again.verdict, again.percentiles, list(again.reasons)):
        yield Finding(
            "verdict-differs",
            "the verdict is not what figures and draws give",
            ROOT,
            again.verdict,
            recorded["verdict"],
        )
    figures = {name: measured.get(name, value) for name, value in summary.attributes["quality"].items()}
    found = judge(figures, draws, keep, thresholds or stored)
    if found.verdict == FAIL:
        yield Finding("verdict-fail", "; ".join(found.reasons))
    return found
