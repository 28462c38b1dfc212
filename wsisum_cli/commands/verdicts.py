"""Verdicts in words: what `inspect` and `verify` say of how well a summary stands for its slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from wsisum_cli.figures.words import MEANINGS, NO_VERDICT
from wsisum_cli.quality.verdict import FAIL, LIMITS, PASS, REVIEW, Verdict, area, percent, percent_up
from wsisum_cli.summary.limits.plain_text import printable
from wsisum_cli.summary.standing import explain, tissue_words

if TYPE_CHECKING:
    from wsisum_cli.summary.attributes import Attributes, Represented
    from wsisum_cli.verification.finding import Finding, Verification

VERDICT_COLOURS = {PASS: "green", REVIEW: "yellow", FAIL: "red"}
SEVERITIES = {"error": "red", "warning": "yellow", "info": ""}
LEFT_NAMED = 10  # slides without a summary that are named one by one


def verdict_text(verdict: str) -> Text:
    return Text(verdict, VERDICT_COLOURS[verdict])


def headline(verdict: Verdict | None) -> Text:
    """The first line of `inspect`: the verdict in words."""
    if verdict is None:
        return Text(NO_VERDICT)
    return Text.assemble(verdict_text(verdict.verdict), f": {MEANINGS[verdict.verdict]}")


def print_verifications(console: Console, results: Sequence[Verification], required: str, explained: bool) -> None:
    """Print every verification, and a last line where there are several."""
    tally = Tally(required)
    for result in results:
        tally.count(result)
        print_verification(console, result, required, explained)
    tally.print(console)


@dataclass
class Tally:
    """How many summaries were verified, and how many are not enough."""

    required: str
    total: int = 0
    bad: int = 0
    below: int = 0  # intact, with a verdict that is not enough

    def count(self, result: Verification) -> None:
        self.total += 1
        self.bad += not result.ok
        self.below += result.ok and not result.meets(self.required)

    @property
    def all_enough(self) -> bool:
        """Whether every summary is intact and its verdict good enough to rely on."""
        return not self.bad and not self.below

    def print(self, console: Console) -> None:
        if self.total > 1:
            counts = f"{self.total - self.bad} ok, {self.bad} not ok, {self.below} ok but below {self.required}"
            console.print(f"{self.total} summaries, {counts}")


def print_verification(console: Console, result: Verification, required: str, explained: bool) -> None:
    sound = Text("ok", "green") if result.ok else Text("not ok", "red")
    console.print(Text.assemble(printable(result.path), ": ", sound, f" ({result.tier})", measures(result.measured)))
    if result.verdict is not None:
        print_verdict(console, result, result.verdict, required)
    elif result.ok:
        console.print(f"  no verdict: the format is too old, so --require {required.lower()} is not met")
    if result.remarks:
        console.print(Text(f"  {printable(result.remarks)}"))
    if explained:
        print_explanation(console, result)
    for finding in result.findings:
        print_finding(console, finding)


def print_finding(console: Console, finding: Finding) -> None:
    member = f" [{finding.member}]" if finding.member else ""
    found = f"; expected {finding.expected}" if finding.expected is not None else ""
    found += f", found {finding.found}" if finding.found is not None else ""
    line = f"  {finding.severity} {finding.code}{member}: {finding.message}{found}"
    console.print(Text(printable(line), SEVERITIES[finding.severity]))


def print_verdict(console: Console, result: Verification, verdict: Verdict, required: str) -> None:
    section = None if result.record is None else result.record.represented
    share = "" if section is None or result.record is None else represented_words(section, result.record)
    recorded = " (recorded, not checked)" if result.tier == "quick" else ""
    console.print(Text.assemble("  ", verdict_text(verdict.verdict), share, recorded))
    said = any(finding.code == "verdict-fail" for finding in result.findings)  # which gives the reasons of FAIL
    for reason in () if said else verdict.reasons:
        console.print(Text(f"    {printable(reason)}"))
    if result.by_default is not None and result.record is not None:
        own = ", ".join(result.record.options.thresholds or [])
        words = f"by thresholds that the summary was made with ({own}); by the default ones {result.by_default.verdict}"
        console.print(Text(f"    {printable(words)}; pass --threshold to accept others"))
    if result.advice:
        console.print(Text(f"    {printable(result.advice)}"))
    if result.ok and not result.meets(required):
        console.print(Text(f"    not enough for --require {required.lower()}: the exit code is 1", "yellow"))


def represented_words(section: Represented, record: Attributes) -> str:
    return f": {percent(section.share)} of {area(section.tissue_mm2)} of {tissue_words(record)} represented"


def slides_left(names: Sequence[str]) -> str:
    """What to say of slides of the archive that have no summary."""
    first = ", ".join(names[:LEFT_NAMED]) + (", ..." if len(names) > LEFT_NAMED else "")
    slides = "1 slide of the archive has" if len(names) == 1 else f"{len(names)} slides of the archive have"
    return f"{slides} no summary here: {first}; the exit code is 1"


def print_explanation(console: Console, result: Verification) -> None:
    """What the three answers are, what each one means, and on what they rest."""
    for name, words in explanation(result).items():
        console.print(Text.assemble("    ", (f"{name}: ", "bold"), words))


def explanation(result: Verification) -> dict[str, str]:
    """The three answers: intact, representative and well chosen, each with what it means."""
    verdict, record, limits = result.verdict, result.record, result.thresholds.limits
    with_slide = " and agrees with the slide" if result.tier == "source" else "; the slide was not compared"
    intact = f"yes, the file is as it was written{with_slide}" if result.ok or not errors(result) else "NO, see below"
    found = {"intact": intact}
    if verdict is None or record is None:
        return found
    section, chance = record.represented, record.verdict.chance if record.verdict else None
    by = "By default" if limits == LIMITS else "By the thresholds used"
    if section is not None:
        found["representative"] = (
            f"{verdict.representative}. A tissue patch is represented if some kept patch is at least as like it as two "
            f"adjacent patches of this slide typically are (cosine {section.cosine:.3f}). {by} PASS needs "
            f"{percent(limits['represented'][0])} and no unrepresented area above {limits['largest_mm2'][0]:g} mm²; "
            f"below {percent(limits['represented'][1])}, or with an area above {limits['largest_mm2'][1]:g} mm², it is "
            "FAIL"
        )
    if record.patches == record.tissue_patches:
        found["well chosen"] = f"{verdict.well_chosen}. All tissue is kept, so no choice was made"
    elif chance is not None:
        found["well chosen"] = (
            f"{verdict.well_chosen}. {chance.percentile} % of random draws of {chance.keep} patches are not better "
            f"than the first {chance.keep} kept ones, in coverage and in represented tissue. {by} PASS needs "
            f"{limits['chance'][0]:g} %; below {limits['chance'][1]:g} % it is FAIL"
        )
    found["verdict"] = f"{verdict.verdict}, {MEANINGS[verdict.verdict]}: the worse of the two answers"
    found["what to do"] = explain(record, verdict, result.left_out) or "nothing"
    return found


def errors(result: Verification) -> bool:
    return any(finding.severity == "error" for finding in result.findings)


def measures(measured: Mapping[str, float]) -> str:
    """What was measured on the slide itself: how much tissue is left out, and how much of the rest is represented."""
    share, left_out = measured.get("source_represented"), measured.get("source_left_out")
    found = [] if share is None else [f"{percent(share)} represented"]
    if left_out is not None:
        found += [f"{percent_up(left_out)} of the slide's tissue left out"]
    return f", {', '.join(found)}, measured on the slide" if found else ""
