"""What a mask or given features leave out: the recorded figures held against an overview, and against the slide."""

from __future__ import annotations

from collections.abc import Iterator

from wsisum_cli.quality.verdict import percent_up
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.writer import ROOT
from wsisum_cli.tissue.coverage import LeftOut
from wsisum_cli.verification.finding import Finding

SHARE_TOLERANCE = 0.03  # of the tissue: tissue is found a little otherwise in other sizes of an overview
AREA_TOLERANCE, LEAST_MM2 = 0.25, 0.05  # share of the recorded area, and mm², by which the largest may be larger


def check_left_out(record: Attributes, seen: LeftOut, of: str) -> Iterator[Finding]:
    """No more is left out than the file says; of files that do not say, nothing is known."""
    stated = record.left_out
    if stated is None:
        return
    most = stated.largest_mm2 * (1 + AREA_TOLERANCE) + LEAST_MM2
    if seen.share > stated.share + SHARE_TOLERANCE or seen.largest_mm2 > most:
        message = f"{giver(record)} more tissue that {of} shows than the file says"
        expected = f"{stated.share:.1%}, largest area {stated.largest_mm2:.2g} mm²"
        found = f"{seen.share:.1%}, largest area {seen.largest_mm2:.2g} mm²"
        yield Finding("tissue-differs", message, ROOT, expected, found)


def report_left_out(record: Attributes, seen: LeftOut) -> Iterator[Finding]:
    """What the slide itself shows beside the tissue of the summary."""
    yield from check_left_out(record, seen, "the slide")
    if seen.share:
        message = f"{giver(record)} {percent_up(seen.share)} of the tissue that the slide shows"
        yield Finding("tissue-left-out", message)


def giver(record: Attributes) -> str:
    return "the mask leaves out" if record.has_mask else "the given features leave out"
