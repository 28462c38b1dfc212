"""The kinds of output (summaries, features, sweeps), so that all are walked, resumed and reported the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsisum_cli.errors import SummaryError
from wsisum_cli.features import h5 as feature_file
from wsisum_cli.pipeline import extract, sweep
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.extract import FEATURES_VERSION, FeatureOptions, FeatureProvenance, extract_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.sweep import sweep_slide
from wsisum_cli.quality.verdict import read_thresholds
from wsisum_cli.slides.remote.url import Address
from wsisum_cli.summary import container
from wsisum_cli.summary.attributes import Attributes
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.summary.remarks import remarks
from wsisum_cli.summary.standing import counted_largest_mm2, counted_share, explain, judge_again
from wsisum_cli.summary.writer import FORMAT_VERSION
from wsisum_cli.verification import verify

Provenance = Attributes | FeatureProvenance

MODIFIED_OUT = "modified_out"  # beside the figures of the report: time of the output's last change, ns since 1970


@dataclass(frozen=True)
class Product:
    """A kind of output file. Its functions must be picklable: they are sent to worker processes."""

    noun: str  # report column with the file's name
    plural: str
    task: str  # the verb for one slide
    suffix: str
    ours_alone: bool  # whether no other program writes files of that suffix
    version: str  # of the format
    make: Callable[[Job, Any, Tools], dict[str, Any]]  # one slide -> figures of the report
    #: How a file was made; None where another program made it. Raises WsisumError when the file cannot be read.
    provenance: Callable[[Path], Provenance | None]
    figures: Callable[[Any, Any], dict[str, Any]]  # of the report, from the provenance and this run's options
    is_whole: Callable[[Path], bool]  # raises WsisumError when the file cannot be read
    #: The same as `provenance` of a remote file, read in ranges; raises WsisumError also when the file is not complete.
    #: None where remote files are fetched to be looked at.
    remote_provenance: Callable[[Address], Provenance] | None = None
    reported: bool = True  # whether a run writes a report beside the files

    def named(self, path: str) -> dict[str, Any]:
        """The report column with the file's path."""
        return {self.noun: path}


def make_summary(job: Job, options: Options, tools: Tools) -> dict[str, Any]:
    result = compress_slide(job, options, tools)
    figures = summary_figures(result.attributes)
    sizes = {"bytes_in": result.bytes_in, "bytes_out": result.bytes_out, MODIFIED_OUT: result.modified_out}
    return {**sizes, **figures, "seconds": result.seconds}


def summary_provenance(path: Path) -> Attributes:
    with open_summary(path) as summary:
        return summary.record


def remote_summary_provenance(address: Address) -> Attributes:
    with open_summary(address) as summary:
        if not verify.has_all_members(summary):
            raise SummaryError(f"{summary.name}: not all of its members are there, or its attributes were changed")
        return summary.record


def summary_figures(attributes: Attributes, options: Options | None = None) -> dict[str, Any]:
    """What the report says of a summary; the verdict by the thresholds of `options`, the recorded ones if None."""
    verdict = judge_again(attributes, read_thresholds(options.thresholds) if options else None)
    section = attributes.represented
    return {
        "patches": attributes.patches,
        "tissue_patches": attributes.tissue_patches,
        "pixels": attributes.pixels.mode,
        "provider": attributes.provider,
        "coverage": attributes.quality.coverage,
        "reconstruction": attributes.quality.reconstruction,
        "embedding_cosine": attributes.quality.embedding_cosine,
        "represented": counted_share(attributes),
        "tissue_mm2": section and section.tissue_mm2,
        "largest_unrepresented_mm2": counted_largest_mm2(attributes),
        "verdict": verdict and verdict.verdict,
        "bound": attributes.bound,
        "target_reached": attributes.target_reached,
        "broken_tiles": attributes.broken_tiles.count,
        "artefacts": attributes.artefact_count,
        "suspect": attributes.suspect_count,
        "message": "; ".join(filter(None, (explain(attributes, verdict) if verdict else "", remarks(attributes)))),
    }


def make_features(job: Job, options: FeatureOptions, tools: Tools) -> dict[str, Any]:
    extracted = extract_slide(job, options, tools)
    return {**asdict(extracted), "tissue_patches": extracted.patches}


def features_provenance(path: Path) -> FeatureProvenance | None:
    stored = feature_file.read_provenance(path)
    return FeatureProvenance.model_validate(stored) if stored else None


def features_figures(provenance: FeatureProvenance, _options: Any) -> dict[str, Any]:
    return {
        "patches": provenance.patches,
        "tissue_patches": provenance.patches,
        "provider": provenance.provider,
        "broken_tiles": provenance.broken_tiles.count,
        "message": "; ".join(provenance.source.notes or ()),
    }


def make_sweep(job: Job, options: Options, tools: Tools) -> dict[str, Any]:
    return asdict(sweep_slide(job, options, tools))


def no_provenance(_path: Path) -> None:
    """Tables are made anew each time."""


def no_figures(_provenance: Any, _options: Any) -> dict[str, Any]:
    return {}


def never_whole(_path: Path) -> bool:
    return False


SUMMARIES = Product(
    noun="summary",
    plural="summaries",
    task="summarize",
    suffix=container.SUFFIX,
    ours_alone=True,
    version=FORMAT_VERSION,
    make=make_summary,
    provenance=summary_provenance,
    figures=summary_figures,
    is_whole=verify.is_whole,
    remote_provenance=remote_summary_provenance,
)
FEATURES = Product(
    noun="features",
    plural="features",
    task="encode",
    suffix=extract.SUFFIX,
    ours_alone=False,
    version=FEATURES_VERSION,
    make=make_features,
    provenance=features_provenance,
    figures=features_figures,
    is_whole=feature_file.is_whole,
)
SWEEPS = Product(
    noun="sweep",
    plural="tables",
    task="sweep",
    suffix=sweep.SUFFIX,
    ours_alone=True,
    version=FORMAT_VERSION,
    make=make_sweep,
    provenance=no_provenance,
    figures=no_figures,
    is_whole=never_whole,
    reported=False,
)
