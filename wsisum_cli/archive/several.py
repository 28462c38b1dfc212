"""A file that turns out to hold several slides -> a job for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wsisum_cli.archive.manifest import Entry, Manifest
from wsisum_cli.archive.outcome import FAILED, Outcome, outcome_of
from wsisum_cli.archive.plan import Plan, Request, folded_name, look_up
from wsisum_cli.archive.scope.naming import unnamed
from wsisum_cli.archive.state.record import fingerprint_of
from wsisum_cli.pipeline.job import Job
from wsisum_cli.pipeline.product import FEATURES


class Splitter:
    """Makes a job for each slide of a file: `NAME.1`, `NAME.2` and so on.

    In the report and in a manifest a slide is called as its file, with `#1`, `#2` and so on behind. Names by hash
    are hashes of these.
    """

    def __init__(self, request: Request, manifest: Manifest, plan: Plan, known: Mapping[str, Outcome]) -> None:
        self._request, self._manifest, self._known = request, manifest, known
        self._taken = set(plan.taken)
        self._settings = request.settings
        self.files: set[str] = set()  # that held several slides, by their paths within the archive
        self.slides: list[str] = []  # found in them
        self.again: dict[str, list[str]] = {}  # why slides of such files are made again
        self.left_out: set[str] = set()  # slides in them that the filter left out

    def __call__(self, source: str, job: Job, count: int) -> tuple[list[tuple[str, Job]], list[Outcome]]:
        """Jobs of the slides of `source` that are to be made, and outcomes of the others."""
        self.files.add(source)
        jobs: list[tuple[str, Job]] = []
        outcomes: list[Outcome] = []
        for number in range(1, count + 1):
            name = f"{source}#{number}"
            made = self._job(name, job, number)  # of those left out too: it reserves the name of the output
            if not self._request.filter.picks_slide(name):
                self.left_out.add(name)
                continue
            self.slides.append(name)
            outcome = made if isinstance(made, Outcome) else self._up_to_date(name, made)
            if outcome is not None:
                outcomes.append(outcome)
            elif isinstance(made, Job):
                jobs.append((name, made))
        return jobs, outcomes

    def _up_to_date(self, name: str, job: Job) -> Outcome | None:
        if self._request.force:
            return None
        found = look_up(self._request, name, job, self._known.get(name))
        if isinstance(found, Outcome):
            return found
        if found:
            self.again[name] = found
        return None

    def _job(self, name: str, job: Job, number: int) -> Job | Outcome:
        """The job of one slide, or why it can have none."""
        entry = self._manifest.entry(Path(name))
        if job.mask is not None and entry.mask is None:
            message = f"a mask is for one slide; list one for {Path(name).name} in the manifest"
            return Outcome(name, FAILED, "mask does not fit", message)
        called, stems = self._names(name, job, number, entry)
        if not called:
            return outcome_of(unnamed(name), name)
        output = self._output(job, stems)
        if output is None:
            message = f"{Path(name).name}: another slide has the name of its output; give it a name in the manifest"
            return Outcome(name, FAILED, "name taken", message)
        features = self._features(output)
        if features is not None and not features.is_file():
            message = f"{Path(name).name}: no {features.name} in the folder of features"
            return Outcome(name, FAILED, "no features", message)
        made = replace(
            job,
            output=output,
            name=called,
            mpp=entry.mpp or job.mpp,
            mask=entry.mask,
            features=features,
            image=number,
        )
        return replace(made, fingerprint=fingerprint_of(self._settings, made))

    def _names(self, name: str, job: Job, number: int, entry: Entry) -> tuple[str, list[str]]:
        """The name of one slide, empty if it has none, and the names that its output may have."""
        if self._request.naming.is_private:
            called, stem = self._request.naming.private_image_name(name, self._manifest)
            return called, [stem]
        if entry.name:
            return entry.name, [entry.name]
        stem = job.output.name.removesuffix(self._request.product.suffix)
        return job.name, [f"{stem}.{number}", f"{job.source.path.name}.{number}"]

    def _output(self, job: Job, stems: list[str]) -> Path | None:
        """None where other slides have all names that it could have."""
        folder = self._request.output if self._request.naming.is_private else job.output.parent
        for stem in stems:
            output = folder / f"{stem}{self._request.product.suffix}"
            folded = folded_name(output.relative_to(self._request.output))
            if folded not in self._taken:
                self._taken.add(folded)
                return output
        return None

    def _features(self, output: Path) -> Path | None:
        """Where given features of this slide have to be; those of the file could be any of its slides'."""
        if self._request.features is None:
            return None
        relative = output.relative_to(self._request.output)
        stem = relative.name.removesuffix(self._request.product.suffix)
        return self._request.features / relative.with_name(stem + FEATURES.suffix)
