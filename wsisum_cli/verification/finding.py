"""What verification has to say: findings, and what their codes mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from wsisum_cli.quality.verdict import VERDICTS, LeftOut, Thresholds, Verdict
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.remarks import remarks
from wsisum_cli.summary.standing import counted_share, explain

#: Every code that a finding can have, with its severity and what it means; docs/cli.md lists them.
CODES = {
    "unreadable": ("error", "the file is missing, or no summary slide of this format"),
    "layout": ("error", "bytes between the members are not as they were written"),
    "missing-member": ("error", "a listed member is not there"),
    "unlisted-member": ("error", "a member is there that was not written with the summary"),
    "member-size": ("error", "a member is longer or shorter than listed"),
    "attributes": ("error", "the attributes lack something, or contradict the arrays"),
    "checksum": ("error", "a member's bytes are not those that were written"),
    "array-damaged": ("error", "an array cannot be decoded, or has another shape or type than it must have"),
    "values": ("error", "an array holds values that cannot be: not finite, or naming what does not exist"),
    "patch-damaged": ("error", "a patch cannot be decoded"),
    "coords-outside": ("error", "a patch lies outside the slide"),
    "weights": ("error", "weights do not add up, or do not match the tissue map"),
    "quality-differs": ("error", "the recorded quality is not what the file's data give"),
    "verdict-differs": ("error", "the recorded verdict is not what the recorded figures and draws give"),
    "verdict-fail": (
        "warning",
        "too little tissue is represented, or the patches are no better than random ones",
    ),
    "kept-differs": ("error", "the tissue map says of kept patches what their features do not"),
    "draws-differ": ("error", "the random draws are not, or cannot be, of this tissue"),
    "patch-empty": ("error", "a kept patch shows nothing, and is not marked as suspect"),
    "ome-differs": ("error", "the metadata for viewers are not what the attributes say"),
    "card-differs": ("error", "the recorded card of a model is not what the model of that SHA-256 says of itself"),
    "overview-differs": ("error", "the overview does not show what the kept patches, or the slide, show"),
    "tissue-differs": ("error", "the tissue map is not of the tissue that the overview, or the slide, shows"),
    "tissue-left-out": ("info", "the slide shows tissue that a mask, or given features, leave out"),
    "broken-tiles-differ": ("warning", "the slide's tiles that are listed as broken can be read"),
    "icc-differs": ("error", "the colour profile is not that of the slide"),
    "features-differ": ("error", "features computed from the stored pixels are not those stored"),
    "features-not-recomputed": ("info", "the encoder that made the features is not available"),
    "embedding-not-recomputed": ("info", "the summarizer or slide encoder that made an embedding is not available"),
    "embedding-differs": ("error", "a slide embedding computed from the slide's tissue is not the one stored"),
    "source-missing": ("error", "the slide to compare with is missing or unreadable"),
    "source-differs": ("error", "the slide is not the file that the summary was made from"),
    "pixels-differ": ("error", "stored tiles are not those of the slide"),
    "pixels-lossy": ("warning", "a stored patch is further from the slide than one JPEG generation explains"),
    "signature": ("error", "the signature of the key asked for is missing, or of another file or key"),
    "internal": ("error", "verification itself failed on this file"),
}


#: What each tier cannot tell, whatever it finds.
UNCHECKED = {
    "quick": ("the bytes of the members", "every figure, picture and feature", "whether the slide is the one named"),
    "full": (
        "whether the slide is the one named, with these pixels",
        "tissue that neither the overview nor the tissue map shows",
        "features of patches that are not kept, and the random draws and yardstick within the bounds they leave",
    ),
    "source": ("tissue that the tissue map leaves out in small areas, or hardly darker than glass",),
}
#: What no tier can tell of some files.
GLASS_UNCHECKED = "whether tissue lies under every patch: {} said where"
GIVEN_UNCHECKED = "features of patches that are not kept, and every figure that rests on them: the features were given"
BROKEN_UNCHECKED = "which tissue {} broken tiles cost: the file lists {} of them"


@dataclass(frozen=True)
class Finding:
    """One thing that verification saw."""

    code: str  # one of CODES
    message: str
    member: str | None = None  # of the container; None when it concerns the whole file
    expected: str | None = None
    found: str | None = None

    @property
    def severity(self) -> str:
        """error, warning or info; only the first two make a summary not ok."""
        return CODES[self.code][0]

    def as_dict(self) -> dict[str, Any]:
        return {"severity": self.severity, **asdict(self)}


@dataclass
class Verification:
    """All that was found on one summary."""

    name: str
    tier: str
    path: str = ""  # within the folder that was searched; the name where the summary itself was named
    findings: list[Finding] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)  # figures computed on the way
    verdict: Verdict | None = None  # None before format 1.2, or where the file is damaged
    record: Attributes | None = None  # None where the file is damaged
    thresholds: Thresholds = field(default_factory=Thresholds)  # by which the verdict was reached
    signed: bool | None = None  # whether the signature of a key holds; None where nobody asked
    by_default: Verdict | None = None  # by the default thresholds, where the summary was judged by its own

    left_out: LeftOut | None = None  # what a mask or given features leave out, measured on the slide; None: as recorded

    @property
    def ok(self) -> bool:
        return all(finding.severity == "info" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        found = [finding.as_dict() for finding in self.findings]
        return {
            "name": self.name,
            "path": self.path,
            "ok": self.ok,
            "tier": self.tier,
            "findings": found,
            "measured": self.measured,
            "verdict": None if self.verdict is None else self.verdict.as_dict(),
            "thresholds": self.thresholds.as_dict(),
            "represented": None if self.record is None else counted_share(self.record),
            "advice": self.advice,
            "remarks": self.remarks,
            "signed": self.signed,
            "unchecked": self.unchecked,
        }

    @property
    def unchecked(self) -> list[str]:
        """What this tier cannot tell of this file."""
        found = list(UNCHECKED[self.tier])
        if self.tier == "quick" or self.record is None:
            return found
        record, listed = self.record, len(self.record.broken_tiles.positions)
        if record.has_mask or record.features_are_given:
            found.append(GLASS_UNCHECKED.format("a mask" if record.has_mask else "given features"))
        if record.features_are_given and self.tier == "source":
            found.append(GIVEN_UNCHECKED)
        if record.broken_tiles.count > listed and self.tier == "full":
            found.append(BROKEN_UNCHECKED.format(record.broken_tiles.count, listed))
        return found

    @property
    def advice(self) -> str:
        """What to do about a verdict that is not PASS; empty otherwise."""
        return "" if self.verdict is None or self.record is None else explain(self.record, self.verdict, self.left_out)

    def meets(self, required: str) -> bool:
        """Whether there is a verdict, and it is `required` or better.

        Thresholds that a summary was made with are not enough: the default ones must agree, or the user give others.
        """
        found = [self.verdict] if self.by_default is None else [self.verdict, self.by_default]
        return all(one is not None and VERDICTS.index(one.verdict) <= VERDICTS.index(required) for one in found)

    @property
    def remarks(self) -> str:
        """What a reader should look at; empty where there is nothing."""
        return "" if self.record is None else remarks(self.record)
