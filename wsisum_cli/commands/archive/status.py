"""`wsisum status`: what is new, stale, failed, in review, orphaned and up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsisum_cli.commands.options import FOUND, ManifestOption
from wsisum_cli.commands.settings.run_options import UsedNameByOption, UsedNameKeyOption, used_naming
from wsisum_cli.errors import UsageError

if TYPE_CHECKING:
    from wsisum_cli.archive.state.status import SlideState, Status

# Heavy modules are imported where they are used, so that --help is fast.

EXAMPLES = 3  # slides named for each state


def status(
    folder: Annotated[
        Path,
        typer.Argument(help="The output folder of wsisum compress.", metavar="FOLDER", exists=True, file_okay=False),
    ],
    archive: Annotated[
        Path | None, typer.Argument(help="The slides that it was made from.", metavar="[SOURCE]", exists=True)
    ] = None,
    manifest: ManifestOption = None,
    name_by: UsedNameByOption = None,
    name_key: UsedNameKeyOption = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Check every summary, and compare content where times do not tell: slow."),
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="A retention plan that was carried out: slides that it sent to cold storage and that are gone are "
            "retired, not orphaned.",
            metavar="FILE",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every slide.")] = False,
) -> None:
    """Show the state of every slide of an archive.

    A slide is up to date, in review, new, stale, failed, lost, orphaned or retired.
    Without SOURCE only what the folder itself says is known. The exit code is 1 if a slide is new, stale, failed, lost
    or orphaned, or if a shard has not reported.
    """
    from wsisum_cli.archive.manifest import Manifest, read_manifest
    from wsisum_cli.archive.retention.table import released
    from wsisum_cli.archive.state.status import OPEN, read_status

    entries = read_manifest(manifest) if manifest else Manifest()
    if plan is not None and archive is None:
        raise UsageError("--plan: expected the archive as SOURCE too, found none; give it")
    gone = released(plan) if plan is not None else None
    found = read_status(folder, archive, entries, check, used_naming(name_by, name_key), gone)
    if as_json:
        typer.echo(json.dumps(found.model_dump(), indent=1))
    else:
        show(found)
    unreported = (found.run or {}).get("shards_missing")
    raise typer.Exit(FOUND if unreported or any(found.counts[state] for state in OPEN) else 0)


def show(found: Status) -> None:
    """One screen: states with their counts and reasons, then examples of what needs doing."""
    from wsisum_cli.archive.state.status import OPEN, STATES
    from wsisum_cli.commands.console import output, print_status

    rows = [
        (state, found.counts[state], reason_words(found.reasons(state)))
        for state in STATES
        if found.counts[state] or state == STATES[0]
    ]
    examples = [
        example
        for state in STATES
        if state in OPEN
        for example in [slide for slide in found.slides if slide.state == state][:EXAMPLES]
    ]
    print_status(output(), head_line(found), rows, [example_words(slide) for slide in examples], advice(found))


def reason_words(reasons: list[tuple[str, int]]) -> str:
    most = [f"{count} {reason}" for reason, count in reasons if reason][:4]
    more = len([reason for reason, _ in reasons if reason]) - len(most)
    return ", ".join([*most, *([f"{more} other reasons"] if more > 0 else [])])


def head_line(found: Status) -> str:
    from wsisum_cli.figures.words import pluralize

    run = found.run or {}
    parts = [pluralize(len(found.slides), "slide")]
    if run.get("started"):
        ended = "" if run.get("finished") else ", which did not end"
        parts.append(f"last run {str(run['started'])[:16].replace('T', ' ')}{ended}")
    if found.running:
        parts.append(f"{pluralize(found.running, 'run')} going on")
    if missing := run.get("shards_missing"):
        parts.append(f"{len(missing)} of {run.get('shards')} shards without a report")
    return "; ".join(parts)


def example_words(slide: SlideState) -> tuple[str, str, str]:
    """State, slide and why."""
    why = slide.message if slide.state == "orphaned" else ": ".join(filter(None, (slide.reason, slide.message)))
    return slide.state, slide.source or slide.summary, why


def advice(found: Status) -> list[str]:
    """What to do, a line each."""
    counts, lines = found.counts, []
    if work := sum(counts[state] for state in ("new", "stale", "failed", "lost")):
        lines.append(f"wsisum compress makes or retries {work}")
    if counts["orphaned"]:
        lines.append(
            "wsisum prune FOLDER --source SOURCE shows which orphaned summaries may go; "
            "give --plan to tell those of slides that you removed"
        )
    if counts["in review"]:
        lines.append("wsisum report FOLDER shows what needs eyes first")
    if not found.compared:
        lines.append("give SOURCE to compare with the archive")
    return lines
