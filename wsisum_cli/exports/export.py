"""Export one summary: check it, write the file or folder aside, put it in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.exports.folders import writing
from wsisum_cli.exports.options import ExportOptions
from wsisum_cli.exports.targets import Target
from wsisum_cli.slides.remote.url import shown
from wsisum_cli.summary.container import SUFFIX, name_of, refuse_existing
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.summary.standing import judge_again
from wsisum_cli.verification.verify import verify_summary


@dataclass(frozen=True)
class ExportResult:
    """Figures of one export."""

    name: str  # of the summary
    output: str  # path of the file or folder
    target: str
    patches: int
    tissue_patches: int
    bytes_out: int
    verdict: str | None  # on the summary: PASS, REVIEW or FAIL; None before format 1.2


def export_summary(
    path: str | Path, output: Path, target: Target, options: ExportOptions | None = None, force: bool = False
) -> ExportResult:
    """Write the summary at `path`, a path or URL, to `output`. The same summary and options give the same bytes.

    Raises SummaryError when the summary is damaged or the format cannot hold it, UsageError when `output` exists and
    `force` is not set, OSError.
    """
    refuse_existing([output], force)
    if output.is_dir() and target.marker is None:
        raise UsageError(f"{output}: expected the name of a file, found a folder; choose another --output")
    refuse_unavailable(target)
    refuse_damaged(path)
    options = options or ExportOptions()
    with open_summary(path) as summary:
        record, verdict = summary.record, judge_again(summary.record)
        output.parent.mkdir(parents=True, exist_ok=True)
        with writing(output, target.marker) as aside:
            target.write(summary, aside, replace(options, name=options.name or stem(output.name, target)))
    return ExportResult(
        name_of(path),
        str(output),
        target.name,
        record.patches,
        record.tissue_patches,
        size_of(output),
        None if verdict is None else verdict.verdict,
    )


def refuse_unavailable(target: Target) -> None:
    """Raises UsageError where the target needs an extra that is not installed."""
    if not target.is_available:
        raise UsageError(f"--to {target.name} needs an extra: pip install 'wsisum[{target.extra}]'")


def refuse_damaged(path: str | Path) -> None:
    """Raises SummaryError for a summary that is not what it says; reads every byte."""
    found = verify_summary(path).findings
    bad = [finding for finding in found if finding.severity == "error"]
    if bad:
        raise SummaryError(f"{name_of(path)}: damaged, cannot be exported: {bad[0].message}; run wsisum verify on it")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [found for found in path.rglob("*") if found.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def outputs_of(summaries: Mapping[str, Path], output: Path, target: Target) -> dict[str, Path]:
    """Output path of each summary, given its path relative to the output folder.

    A single summary goes to `output` itself if that ends in the target's suffix. Raises UsageError when two share an
    output.
    """
    names = output.name.endswith(suffixes(target)) and (target.marker is not None or not output.is_dir())
    if names and len(summaries) == 1:
        return dict.fromkeys(summaries, output)
    if names:
        raise UsageError(f"{output}: expected a folder for {len(summaries)} summaries, found the name of one export")
    found = {
        path: output / relative.with_name(stem(relative.name) + target.suffix) for path, relative in summaries.items()
    }
    taken: dict[Path, str] = {}
    for path, place in found.items():
        if place in taken:
            both = f"{shown(path)} and {shown(taken[place])}"
            raise UsageError(f"{both} would share one output; export them in separate runs")
        taken[place] = path
    return found


def suffixes(target: Target) -> tuple[str, ...]:
    """The target's suffix, and the last part of it, which a user may give a single output."""
    return (target.suffix, "." + target.suffix.rpartition(".")[2])


def stem(name: str, target: Target | None = None) -> str:
    """A name without the suffix of a summary, or of the target's outputs."""
    for suffix in (SUFFIX,) if target is None else suffixes(target):
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name
