"""What a user may choose of an export."""

from __future__ import annotations

from dataclasses import dataclass

from wsisum_cli.features.layouts import TRIDENT

AUTO, PNG, FULL, JPEG = IMAGES = ("auto", "png", "full", "jpeg")


@dataclass(frozen=True)
class ExportOptions:
    """Each option belongs to one target; the others pass over it."""

    name: str = ""  # of the slide within the export: the summary's, without its suffix
    layout: str = TRIDENT  # of h5: one of `features.layouts.LAYOUTS`
    #: of patches: png, as the encoder sees them; full, PNG at the resolution of the scanner's tiles; jpeg, the stored
    #: streams; auto, jpeg where each patch is one stream, else png
    images: str = AUTO
    tissue: bool = False  # of h5: features of all tissue, unpacked
