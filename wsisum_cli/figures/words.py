"""A summary in plain words: what the terminal prints and the pages show."""

from __future__ import annotations

from wsisum_cli.quality.represented import WANTED
from wsisum_cli.quality.verdict import FAIL, PASS, REVIEW, Verdict, area, percent
from wsisum_cli.summary.attributes import Artefacts, Represented
from wsisum_cli.summary.inspection import Inspection
from wsisum_cli.summary.standing import tissue_words

#: What each verdict means, for a person who decides.
MEANINGS = {
    PASS: "the kept patches stand for the slide",
    REVIEW: "look at the summary before you rely on it",
    FAIL: "do not rely on this summary",
}
NO_VERDICT = "No verdict: the summary has a format before 1.2; compress the slide again"
NAMED = 3  # unrepresented areas that are named one by one


def size(count: float | None) -> str:
    """Format a number of bytes, in powers of 1000."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def pluralize(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def summary_lines(facts: Inspection, verdict: Verdict | None, details: bool) -> dict[str, str]:
    """Everything that `inspect` says below the headline, by name."""
    source = facts.source
    return {
        **standing_lines(facts, verdict),
        "size": f"{size(source.bytes)} -> {size(facts.bytes)}, {facts.ratio:.1f} times smaller",
        "patches": f"{facts.patches} of {facts.tissue_patches}, {facts.patch_size_level0} level-0 px each "
        f"({facts.patch.patch_size} px at {facts.patch.mpp:.3g} µm), {pixel_words(facts)}{bound_words(facts)}",
        **({"look at": facts.remarks} if facts.remarks else {}),
        "slide": f"{source.name}, {source.width} x {source.height} px at {source.mpp:.4g} µm "
        f"({source.mpp_source}), {source.vendor}",
        **image_line(facts),
        "artefacts": artefacts_line(facts.artefacts),
        "suspect": suspect_line(facts),
        "encoder": f"{facts.encoder.name} on {facts.provider}",
        **added_lines(facts),
        **(detail_lines(facts) if details else {}),
        "note": facts.disclaimer,
    }


def pixel_words(facts: Inspection) -> str:
    return f"{facts.pixels} pixels{', stored as JPEG XL' if facts.pixel_storage.recompressed else ''}"


def added_lines(facts: Inspection) -> dict[str, str]:
    """Features beside those of the kept patches by the first encoder; empty without."""
    lines = {}
    if facts.reembedded:
        names = ", ".join(entry.encoder.name for entry in facts.reembedded)
        lines["further features"] = f"of the kept patches by {names}; weights, figures and verdict do not rest on them"
    if (packed := facts.tissue_features) is not None:
        lines["tissue features"] = (
            f"of all tissue in {packed.bytes} bytes a patch; mean cosine to the true ones {packed.cosine_mean:.4f}"
        )
    return lines


def standing_lines(facts: Inspection, verdict: Verdict | None) -> dict[str, str]:
    """What follows the headline: represented tissue, what is missing, and why the verdict is not PASS."""
    if verdict is None:
        return {}
    lines = {} if facts.represented is None else represented_lines(facts, facts.represented)
    if verdict.reasons:
        lines["because"] = "; ".join(verdict.reasons)
    if facts.advice:
        lines["advice"] = facts.advice
    return lines


def represented_lines(facts: Inspection, section: Represented) -> dict[str, str]:
    random = facts.random.get("represented")
    beside = "" if random is None else f"; {facts.random_patches} random patches: {percent(random)}"
    unread = f"; {section.unread} patches could not be read" if section.unread else ""
    whole = f"{area(section.tissue_mm2)} of {tissue_words(facts)}"
    return {
        "represented": f"{percent(section.share)} of {whole}{beside}{unread}",
        "unrepresented": unrepresented_words(facts, section),
        "guarantee": guarantee_words(section),
    }


def unrepresented_words(facts: Inspection, section: Represented) -> str:
    """The areas without a look-alike, the largest by name."""
    if not section.region_count:
        return "nothing" if not section.unread else "only what could not be read"
    numbers = {patch.picked - 1: patch.number for patch in facts.kept}
    named = [
        f"{area(region.mm2)} at {region.x}, {region.y} (most like patch {numbers[region.nearest]})"
        for region in section.regions[:NAMED]
    ]
    rest = f", and {section.region_count - NAMED} smaller" if section.region_count > NAMED else ""
    unread = ", with what could not be read" if section.unread else ""
    areas = "1 area" if section.region_count == 1 else f"{section.region_count} areas"
    return f"{area(section.tissue_mm2 - section.mm2)} in {areas}{unread}: {', '.join(named)}{rest}"


def guarantee_words(section: Represented) -> str:
    """From which size every tissue area has a look-alike, but for the largest unrepresented ones."""
    sizes = [region.mm2 for region in section.regions]
    least = section.patch_mm2 + (sizes[NAMED] if len(sizes) > NAMED else 0)
    larger = sum(mm2 >= least for mm2 in sizes[:NAMED])
    but = {0: "", 1: ", except the area above"}.get(larger, f", except the {larger} areas above")
    unread = ", and not counting what could not be read" if section.unread else ""
    return f"every tissue area of {area(least)} or more has a look-alike among the kept patches{but}{unread}"


def detail_lines(facts: Inspection) -> dict[str, str]:
    """Figures for those who know the encoder, each beside that of random draws of as many patches."""
    quality, random = facts.quality, facts.random

    def beside(name: str) -> str:
        return f"{getattr(quality, name):.4f}" + (f" (random {random[name]:.4f})" if name in random else "")

    return {
        "coverage": f"mean {beside('coverage')}, 5th percentile {beside('coverage_p05')}, "
        f"minimum {beside('coverage_min')}: cosine of tissue patches to the nearest kept one",
        "weighted cosine": f"{beside('weighted_cosine')} between the weighted patches and all tissue",
        **({} if quality.composition is None else {"composition": f"{beside('composition')} off in cluster shares"}),
        **summarizer_lines(facts),
        "sha256": facts.source.sha256,
    }


def image_line(facts: Inspection) -> dict[str, str]:
    """Which of several slides in the file was read, and which of several focal planes; empty for one of each."""
    image, plane, planes = facts.source.image, facts.source.focal_plane, facts.source.focal_planes
    words = [f"slide {image} of the file"] * (image is not None)
    words += [f"focal plane {plane} of {planes}"] * (plane is not None)
    return {"image": ", ".join(words)} if words else {}


def bound_words(facts: Inspection) -> str:
    """What decided on the number of patches."""
    if facts.trimmed_from is not None:
        return f", trimmed from {facts.trimmed_from}"
    options = facts.options
    target = percent(options.target or WANTED) if facts.represented else f"a coverage of {options.target}"
    missed = f"; {target} is not reached" if facts.target_reached is False else ""
    words = {
        "max_bytes": f", as many as fit into {size(options.max_bytes)}",
        "target": f", the fewest for {target}",
        "least": ", the least that is kept",
        "tissue": f", every patch of {tissue_words(facts)}",
        "most": ", the most that are kept",
    }
    return words.get(facts.bound or "", "") + missed


def artefacts_line(artefacts: Artefacts | None) -> str:
    """What was removed from the tissue because it shows nothing."""
    if artefacts is None or not artefacts.looked_at:
        return "not looked for"
    kinds = ", ".join(f"{count} {name}" for name, count in artefacts.kinds.items())
    what = "kept, because hardly anything else is there" if artefacts.ignored else "removed"
    return f"{kinds} of {artefacts.looked_at} patches, {what}" if kinds else f"none in {artefacts.looked_at} patches"


def suspect_line(facts: Inspection) -> str:
    """How much of the tissue may be pen, folds or out of focus."""
    suspect, artefacts = facts.suspect, facts.artefacts
    if suspect is None or artefacts is None or not artefacts.looked_at:
        return "not looked for"
    if not suspect.count:
        return "none"
    kinds = ", ".join(f"{count} {name}" for name, count in suspect.kinds.items())
    kept = sum(patch.suspect is not None for patch in facts.kept)
    return f"{kinds} of {facts.tissue_patches} tissue patches ({kept} of the {facts.patches} kept)"


def summarizer_lines(facts: Inspection) -> dict[str, str]:
    """What models that see whole slides found."""
    summarizer, slide_encoder, quality = facts.summarizer, facts.slide_encoder, facts.quality
    lines = {"summarizer": "none used", "slide encoder": "none used"}
    if summarizer is not None:
        rest, near = quality.reconstruction, quality.embedding_cosine
        nothing = "nothing to reconstruct" if facts.trimmed_from is None else "reconstruction not known once trimmed"
        again = nothing if rest is None else f"reconstruction {rest:.4f}"
        cosine = "embedding cosine not measured" if near is None else f"embedding cosine {near:.4f}"
        lines["summarizer"] = f"{summarizer.name} on {summarizer.provider}: {again}, {cosine}"
    if slide_encoder is not None:
        lines["slide encoder"] = f"{slide_encoder.name} on {slide_encoder.provider}"
    return lines
