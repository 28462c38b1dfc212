"""What a reader of the report should look at."""

from __future__ import annotations

from wsisum_cli.summary.attributes import Attributes, ComputedFeatures, GivenFeatures, Source
from wsisum_cli.summary.standing import LITTLE_TISSUE

MUCH_SUSPECT = 0.01  # share of the tissue above which a line says so


def remarks(attributes: Attributes) -> str:
    """What a reader of the report should look at; empty where there is nothing."""
    source = attributes.source
    return "; ".join(
        filter(
            None,
            (
                warn_of_little_tissue(attributes.features),
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


def warn_of_little_tissue(features: ComputedFeatures | GivenFeatures) -> str:
    """A warning where given features cover little of the tissue; empty where they do not."""
    share = features.tissue_share if isinstance(features, GivenFeatures) else None
    if share is None or share >= LITTLE_TISSUE:
        return ""
    return (
        f"the given features cover {share:.0%} of the tissue; the summary stands for that part only: are they complete?"
    )


def warn_of_rows_left_out(features: ComputedFeatures | GivenFeatures) -> str:
    """A warning where rows of given features were not used; empty where all were."""
    count = features.left_out if isinstance(features, GivenFeatures) else 0
    rows = f"{count} {'row' if count == 1 else 'rows'} of the given features"
    return f"{rows} left out: augmented, or of a patch that reaches beyond the slide" if count else ""
