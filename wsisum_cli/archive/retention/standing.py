"""What one summary, compared with its slide, says of the original: whether it may go, and why.

`review` and `keep` may come too often, `cold storage` never wrongly. So `cold storage` needs an intact summary with
enough of a verdict, figures that were measured on the slide, and nothing else that a person should look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from wsisum_cli.quality.verdict import FAIL, PASS, Thresholds
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.remarks import note_plain, note_reembedded, remarks
from wsisum_cli.summary.standing import counted_largest_mm2, counted_share
from wsisum_cli.verification.finding import CODES, Verification

#: What to do with an original.
DECISIONS = (COLD, REVIEW, KEEP) = ("cold storage", "review", "keep")
#: A figure that only comparing all tissue with the slide gives.
MEASURED = "source_represented"
NOT_RECOMPUTED = "features-not-recomputed"
#: Relative difference between a pixel size and the one that the file states, above which a person must look.
SAME_MPP = 0.01


@dataclass(frozen=True)
class Standing:
    """What a plan needs of a verified summary."""

    summary: str  # path within the folder that was searched
    decision: str
    reason: str
    verdict: str = ""  # empty without one
    represented: float | None = None  # share of the tissue; None where nobody knows
    largest_mm2: float | None = None  # largest unrepresented area
    lenience: str = ""  # a clause on thresholds other than the default ones; empty where these were used
    slide: str | None = None  # sha256 of the slide that it was compared with
    image: int | None = None  # which of several slides in the file
    sha256: str = ""  # of the summary; empty where it cannot be read

    def kept_because(self, reason: str) -> Standing:
        return replace(self, decision=KEEP, reason=f"{self.summary}: {reason}")


def standing_of(result: Verification, required: str, sha256: str) -> Standing:
    """What a verification comes to, where the verdict `required` is enough. `sha256` is that of the summary."""
    decision, reason = judge_summary(result, required)
    record = result.record
    return Standing(
        result.path,
        decision,
        reason,
        "" if result.verdict is None else result.verdict.verdict,
        None if record is None else counted_share(record),
        None if record is None else counted_largest_mm2(record),
        lenience(result.thresholds),
        None if record is None else record.source.sha256,
        None if record is None else record.source.image,
        sha256,
    )


def judge_summary(result: Verification, required: str) -> tuple[str, str]:
    """The decision by one summary, and its reason; empty for cold storage."""
    if not result.ok:
        bad = next(finding for finding in result.findings if finding.severity != "info")
        return KEEP, f"{result.path}: {bad.message}"
    if result.verdict is None or result.record is None:
        return KEEP, f"{result.path}: no verdict"
    if result.verdict.verdict == FAIL and not result.meets(required):
        return KEEP, f"FAIL: {'; '.join(result.verdict.reasons)}"
    why = [*([] if result.meets(required) else [why_below(result)]), *doubts(result, result.record)]
    return (REVIEW, "; ".join(why)) if why else (COLD, "")


def why_below(result: Verification) -> str:
    """Why a verdict that is not FAIL is not enough."""
    assert result.verdict is not None
    if result.by_default is not None and result.verdict.verdict == PASS:
        default = result.by_default
        return f"{default.verdict} by the default thresholds: {'; '.join(default.reasons)}"
    return f"{result.verdict.verdict}: {'; '.join(result.verdict.reasons)}"


def doubts(result: Verification, record: Attributes) -> Iterator[str]:
    """What a person must look at although the summary is intact and its verdict is enough; a clause each."""
    measured = MEASURED in result.measured
    if not measured and record.features_are_given:
        yield "its features were given, so nothing of the tissue was measured again"
    elif not measured:
        yield "its encoder is not here, so nothing of the tissue was measured; give --encoder"
    for finding in result.findings:
        if measured or finding.code != NOT_RECOMPUTED or finding.member is not None:
            yield f"{CODES[finding.code][1]}: {finding.message}"
    said = worth_a_look(record)
    yield from (words for words in of_the_slide(record) if words not in said)
    if said:
        yield said


def of_the_slide(record: Attributes) -> Iterator[str]:
    """What was not read of the slide, and what the user said of it that nothing confirms; in the words of remarks."""
    source, section = record.source, record.represented
    if count := record.broken_tiles.count:
        yield f"{count} {'tile' if count == 1 else 'tiles'} of the slide cannot be read"
    if section is not None and section.unread:
        yield f"{section.unread} tissue {'patch' if section.unread == 1 else 'patches'} cannot be read"
    if record.options.mask_sha256 is not None:
        yield "a mask chose the tissue"
    if source.mpp_stated is not None and abs(source.mpp / source.mpp_stated - 1) > SAME_MPP:
        stated = f"though the file states {source.mpp_stated:.4g} µm"
        yield f"the manifest's pixel size of {source.mpp:g} µm is used, {stated}"


def worth_a_look(record: Attributes) -> str:
    """The remarks without those that say nothing against the summary; new kinds of remarks count until listed here."""
    said = remarks(record)
    for harmless in filter(None, (note_reembedded(record), note_plain(record))):
        said = "; ".join(part for part in said.split(harmless, 1) if part.strip("; "))
    return said.strip("; ")


def lenience(used: Thresholds) -> str:
    """A clause on thresholds other than the default ones; empty where these were used."""
    return "" if used == Thresholds() else f", by thresholds other than the default: {in_words(used)}"


def in_words(thresholds: Thresholds) -> str:
    limits = [f"{name} {low:g}/{high:g}" for name, (low, high) in sorted(thresholds.limits.items())]
    return ", ".join([*limits, *(f"{name} {value:g}" for name, value in sorted(thresholds.values.items()))])
