"""A summary as a notebook shows it: the overview, small, beside what it holds."""

from __future__ import annotations

import base64
from html import escape
from typing import Protocol

import numpy as np

from wsisum_cli.errors import SummaryError
from wsisum_cli.quality.verdict import percent
from wsisum_cli.slides import jpeg
from wsisum_cli.slides.pixels import resize
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.standing import judge_again, tissue_words

SIDE = 256  # px of the longer side of the picture
QUALITY = 80


class Shown(Protocol):
    """What a notebook shows of a summary. Properties raise SummaryError."""

    name: str

    @property
    def record(self) -> Attributes: ...

    @property
    def overview(self) -> np.ndarray: ...


def as_html(summary: Shown) -> str:
    """A small table with the overview as a picture in it; all text is escaped, and nothing is loaded from elsewhere.

    Of a damaged summary, what can be read.
    """
    try:
        rows = rows_of(summary.record)
    except SummaryError as error:
        return f"<p>{escape(str(error))}</p>"
    lines = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(text)}</td></tr>'
        for name, text in rows.items()
    )
    caption = f"<caption>Summary slide {escape(summary.name)}</caption>"
    return f'<div style="display:flex;gap:1em">{picture(summary)}<table>{caption}{lines}</table></div>'


def rows_of(record: Attributes) -> dict[str, str]:
    """What the table says, by name."""
    verdict, section = judge_again(record), record.represented
    added = [entry.encoder.name for entry in record.reembedded or ()]
    return {
        "slide": f"{record.source.name}, {record.source.width} x {record.source.height} px",
        "patches": f"{record.patches} of {record.tissue_patches}, {record.patch.patch_size} px at "
        f"{record.patch.mpp:.3g} µm, {record.pixels.mode} pixels",
        "verdict": "none" if verdict is None else verdict.verdict,
        **({} if section is None else {"represented": f"{percent(section.share)} of the {tissue_words(record)}"}),
        "encoder": record.encoder.name,
        **({"further features": ", ".join(added)} if added else {}),
        "format": record.format_version,
    }


def picture(summary: Shown) -> str:
    """The overview as an image element with its bytes in it; empty where it cannot be read."""
    try:
        overview = summary.overview
    except SummaryError:
        return ""
    height, width = overview.shape[:2]
    shrink = max(1.0, max(height, width) / SIDE)
    small = resize(overview, max(1, round(height / shrink)), max(1, round(width / shrink)))
    data = base64.b64encode(jpeg.encode(small, QUALITY)).decode()
    return f'<img alt="overview of {escape(summary.name)}" src="data:image/jpeg;base64,{data}">'
