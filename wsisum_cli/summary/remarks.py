"""What a reader of the report should look at."""

from __future__ import annotations

from wsisum_cli.quality.verdict import area, percent, percent_up
from wsisum_cli.summary.attributes import Attributes, ComputedFeatures, GivenFeatures, LeftOut, Source
from wsisum_cli.summary.standing import LITTLE_TISSUE

MUCH_SUSPECT = 0.01  # share of the tissue above which a line says so


def remarks(attributes: Attributes) -> str:
    """What a reader of the report should look at; empty where there is nothing."""
    source = attributes.source
    return "; ".join(
        filter(
            None,
            (
                note_mask(attributes),
                note_given_features(attributes),
                warn_of_broken_tiles(attributes),
                warn_of_rows_left_out(attributes.features),
                warn_of_suspects(attributes),
                note_reembedded(attributes),
                note_plain(attributes),
                focal_plane(source),
                *(source.notes or ()),
            ),
        )
    )


def warn_of_suspects(attributes: Attributes) -> str:
    """A warning where more than 1 % of the tissue looked at is suspect; empty where it is not."""
    if attributes.suspect is None:
        return ""
    count, artefacts = attributes.suspect.count, attributes.artefacts
    looked_at = artefacts.looked_at - artefacts.count if artefacts is not None else 0
    share = count / max(looked_at, count, 1)
    if share <= MUCH_SUSPECT:
        return ""
    kinds = ", ".join(f"{number} {name}" for name, number in attributes.suspect.kinds.items())
    return f"{share:.1%} of the tissue may be an artefact ({kinds}); look at it with wsisum inspect --map artefact"


def note_reembedded(attributes: Attributes) -> str:
    """Which features were added, and that nothing else rests on them; empty where none were."""
    if not attributes.reembedded:
        return ""
    names = ", ".join(entry.encoder.name for entry in attributes.reembedded)
    return (
        f"features by {names} were added for the kept patches alone; weights, figures and verdict rest on those of "
        f"all tissue by {attributes.encoder.name}"
    )


def note_plain(attributes: Attributes) -> str:
    """Why JPEG streams are not stored as JPEG XL though that was asked for; empty where they are, or it was not."""
    if attributes.options.recompress is None or attributes.pixels.recompressed is not None:
        return ""
    return "patches are stored as JPEG: JPEG XL would save nothing, or could not restore every stream byte for byte"


def focal_plane(source: Source) -> str:
    """Which focal plane was read, in words; empty where there is one."""
    return "" if source.focal_plane is None else f"focal plane {source.focal_plane} of {source.focal_planes} was read"


def note_mask(attributes: Attributes) -> str:
    """That a mask chose the tissue, and how much it leaves out; empty where none did."""
    if not attributes.has_mask:
        return ""
    if attributes.left_out is None:
        return "a mask chose the tissue; the file does not say how much it leaves out"
    if not attributes.left_out.share:
        return "a mask chose the tissue; it leaves out nothing that was found without it"
    return (
        f"a mask chose the tissue: it leaves out {left_out_words(attributes.left_out)}; the summary stands for the "
        "masked part only"
    )


def note_given_features(attributes: Attributes) -> str:
    """How much of the tissue given features cover, or of the mask; empty where they were computed."""
    features, left_out = attributes.features, attributes.left_out
    if not isinstance(features, GivenFeatures) or features.tissue_share is None:
        return ""
    words = f"the given features cover {percent(features.tissue_share)} of the {tissue_of(attributes)}"
    if left_out is not None and left_out.share and not attributes.has_mask:
        words += f"; they leave out {left_out_words(left_out)}"
    if features.tissue_share >= LITTLE_TISSUE:
        return words
    return f"{words}; the summary stands for the covered part only: are they complete?"


def tissue_of(attributes: Attributes) -> str:
    return "mask" if attributes.has_mask else "tissue"


def left_out_words(left_out: LeftOut) -> str:
    """Share and size of what is left out, rounded up."""
    share = percent_up(left_out.share)
    return (
        f"{share} of the tissue that the slide shows ({area(left_out.mm2)}, largest area {area(left_out.largest_mm2)})"
    )


def warn_of_broken_tiles(attributes: Attributes) -> str:
    """How many tiles could not be read, and how much tissue was lost with them; empty where all could."""
    count, section = attributes.broken_tiles.count, attributes.represented
    if not count:
        return ""
    words = f"{count} {'tile' if count == 1 else 'tiles'} of the slide cannot be read"
    if section is None or not section.unread:
        return words
    lost = section.unread / (attributes.tissue_patches + section.unread)
    return f"{words}, and with them {percent_up(lost)} of the tissue, which nothing represents"


def warn_of_rows_left_out(features: ComputedFeatures | GivenFeatures) -> str:
    """A warning where rows of given features were not used; empty where all were."""
    count = features.left_out if isinstance(features, GivenFeatures) else 0
    rows = f"{count} {'row' if count == 1 else 'rows'} of the given features"
    return f"{rows} left out: augmented, or of a patch that reaches beyond the slide" if count else ""
