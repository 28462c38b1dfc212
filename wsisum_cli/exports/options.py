"""What a user may choose of an export."""

from __future__ import annotations

from dataclasses import dataclass

from wsisum_cli.features.layouts import TRIDENT

AUTO, PNG, JPEG = "auto", "png", "jpeg"


@dataclass(frozen=True)
class ExportOptions:
    """Each option belongs to one target; the others pass over it."""

    name: str = ""  # of the slide within the export: the summary's, without its suffix
    layout: str = TRIDENT  # of h5: one of `features.layouts.LAYOUTS`
    images: str = AUTO  # of patches: png, jpeg (the stored streams), or auto: jpeg where each patch is one stream
