"""Failures that the manifest acknowledges, so that a nightly run over them can end well."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from wsisum_cli.archive.manifest import ANY_FAILURE, Manifest
from wsisum_cli.archive.outcome import FAILED, Outcome
from wsisum_cli.archive.scope.filters import file_of


def known_failure(source: str, manifest: Manifest) -> str | None:
    """The reason for which a slide is known to fail, `ANY_FAILURE` for any; None if nothing is known."""
    return manifest.entry(Path(source)).known or manifest.entry(Path(file_of(source))).known


def acknowledge(outcome: Outcome, manifest: Manifest) -> Outcome:
    """The outcome, marked if the manifest knows of this very failure; a failure for another reason is not."""
    if outcome.status != FAILED or (wanted := known_failure(outcome.source, manifest)) is None:
        return outcome
    if wanted in (ANY_FAILURE, outcome.reason.casefold()):
        return replace(outcome, known=True)
    return replace(outcome, message=f"{outcome.message}; the manifest knows of another failure: {wanted}".lstrip("; "))


def mended(outcomes: Iterable[Outcome], manifest: Manifest) -> list[Outcome]:
    """Outcomes of slides that are known to fail and no longer do."""
    if not manifest.entries:
        return []
    return [found for found in outcomes if found.status != FAILED and known_failure(found.source, manifest) is not None]


def unexpected(outcomes: Iterable[Outcome]) -> bool:
    """Whether a slide failed of which nothing was known."""
    return any(found.status == FAILED and not found.known for found in outcomes)
