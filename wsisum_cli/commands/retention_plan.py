"""What `wsisum verify --plan` does beside verifying: collect what a retention plan needs, and write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from wsisum_cli import __version__
from wsisum_cli.errors import UsageError
from wsisum_cli.slides.remote.url import is_url, shown

if TYPE_CHECKING:
    from wsisum_cli.archive.manifest import Manifest
    from wsisum_cli.archive.retention.plan import Verified
    from wsisum_cli.archive.retention.rules import Rules
    from wsisum_cli.archive.walk import SourceIndex
    from wsisum_cli.quality.verdict import Thresholds
    from wsisum_cli.slides.source import FileState
    from wsisum_cli.verification.finding import Verification


@dataclass
class Planner:
    """Collects what is verified, and writes the retention plan."""

    path: Path
    manifest: Manifest
    rules: Rules
    made: list[str]  # how the plan is made, for its record
    results: list[Verified] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # paths and names of summaries
    unmatched: dict[str, str] = field(default_factory=dict)  # rows of the manifest that mean no slide
    _before: FileState | None = None  # of the summary that is being verified

    def prepare(self, index: SourceIndex, left_out: list[tuple[str, str]], thresholds: Thresholds | None) -> None:
        """Before anything is verified. Raises UsageError where the rules name slides that are not there."""
        from wsisum_cli.archive.manifest import refuse_unclear
        from wsisum_cli.archive.retention.standing import in_words

        self.unmatched = self.manifest.unmatched(index.names)
        if self.rules.are_any:
            refuse_unclear(self.unmatched | self.manifest.shared(index.names))
        self.left_out = left_out
        self.made.append("the default thresholds" if thresholds is None else f"thresholds {in_words(thresholds)}")

    def begin(self, path: Path) -> None:
        """Before a summary is verified, which must stay as it is meanwhile."""
        from wsisum_cli.slides.source import state_of

        self._before = state_of(path)

    def note(self, path: Path, result: Verification) -> None:
        """What a plan needs of a verification; the rest takes too much memory in a large archive."""
        from wsisum_cli.archive.retention.plan import Verified
        from wsisum_cli.archive.retention.standing import standing_of
        from wsisum_cli.slides.source import sha256_of, state_of

        try:
            digest = sha256_of(path)
        except OSError:
            digest = ""
        standing = standing_of(result, self.rules.required, digest)
        if not digest:
            standing = standing.kept_because("the summary cannot be read")
        elif state_of(path) != self._before:
            standing = standing.kept_because("the summary changed while it was checked; run again")
        self.results.append(Verified(path, standing))

    def write(self, index: SourceIndex) -> None:
        from wsisum_cli.archive.retention.plan import plan_retention, totals
        from wsisum_cli.archive.retention.table import plan_table, write_plan
        from wsisum_cli.commands.console import messages, print_plan

        today = date.today()
        rows = plan_retention(index, self.results, self.left_out, self.manifest, self.rules, today)
        made = f"made by wsisum {__version__} with {', '.join(self.made)}"
        write_plan(self.path, plan_table(rows, self.manifest.columns, today, made))
        print_plan(messages(), self.path.name, totals(rows), self.unmatched)


def make_planner(
    plan: Path | None,
    source: str | None,
    manifest: Path | None,
    newer: str | None,
    where: list[str],
    required: str,
) -> Planner | None:
    """What writes the retention plan; None where none is wanted. Raises UsageError."""
    if plan is None:
        if manifest is not None or newer is not None or where:
            raise UsageError("--manifest, --keep-newer and --keep-where need --plan")
        return None
    from wsisum_cli.archive.manifest import Manifest, read_manifest
    from wsisum_cli.archive.retention.rules import make_rules
    from wsisum_cli.archive.retention.table import check_columns, check_place

    if source is None:
        raise UsageError("--plan needs the archive as --source")
    check_place(plan)
    rows = read_manifest(manifest) if manifest is not None else None
    check_columns(rows or Manifest())
    rules = make_rules(required, newer, where, rows)
    return Planner(plan, rows or Manifest(), rules, described(rules, manifest))


def described(rules: Rules, manifest: Path | None) -> list[str]:
    """How a plan is made, for its record. Folders may be private, so no path."""
    from wsisum_cli.slides.source import sha256_of

    found = [f"--require {rules.required.lower()}"]
    if rules.newer is not None:
        found.append(f"--keep-newer {rules.newer.text}")
    found += [f"--keep-where {column}={value}" for column, value in rules.where]
    return [*found, *([] if manifest is None else [f"--manifest {manifest.name} (sha256 {sha256_of(manifest)})"])]


def refuse_addresses_in_plan(summaries: list[str], source: str | None) -> None:
    """Raise UsageError where a retention plan is wanted for what is not on disk."""
    for name in (*summaries, source or ""):
        if is_url(name):
            raise UsageError(f"{shown(name)}: --plan expects paths, found an address; copy or mount it first")
