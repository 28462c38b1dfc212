"""What a run makes of each slide, a summary or its features, so that both are walked, resumed and reported alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsisum_cli.features import h5 as feature_file
from wsisum_cli.pipeline import extract, sweep
from wsisum_cli.pipeline.compress import compress_slide
from wsisum_cli.pipeline.extract import FEATURES_VERSION, FeatureOptions, extract_slide
from wsisum_cli.pipeline.job import Job, Options, Tools
from wsisum_cli.pipeline.sweep import sweep_slide
from wsisum_cli.summary import container
from wsisum_cli.summary.attributes import artefacts_found, suspects_found, what_to_look_at
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.summary.writer import FORMAT_VERSION
from wsisum_cli.verification import verify


@dataclass(frozen=True)
class Product:
    """A kind of file that a run makes. Its functions are passed to processes by name."""

    noun: str  # which column of the report names the file
    plural: str
    task: str  # what is to be done to a slide
    suffix: str
    ours_alone: bool  # whether no other program writes files of that suffix
    version: str  # of the format
    make: Callable[[Job, Any, Tools], dict[str, Any]]  # one slide -> figures of the report
    #: How a file was made; empty where another program made it. Raises WsisumError when the file cannot be read.
    provenance: Callable[[Path], Mapping[str, Any]]
    figures: Callable[[Mapping[str, Any]], dict[str, Any]]  # of the report, out of the provenance
    is_whole: Callable[[Path], bool]  # raises WsisumError when the file cannot be read
    reported: bool = True  # whether a run leaves a report beside the files

    def named(self, path: str) -> dict[str, Any]:
        """The column of the report that names the file."""
        return {self.noun: path}


def make_summary(job: Job, options: Options, tools: Tools) -> dict[str, Any]:
    written = compress_slide(job, options, tools)
    return {
        "bytes_in": written.bytes_in,
        "bytes_out": written.bytes_out,
        "patches": written.patches,
        "tissue_patches": written.tissue_patches,
        "pixels": written.pixels,
        "provider": written.provider,
        "coverage": round(written.quality.coverage, 6),
        "reconstruction": written.reconstruction,
        "embedding_cosine": written.embedding_cosine,
        "verdict": written.verdict,
        "bound": written.bound,
        "target_reached": written.target_reached,
        "broken_tiles": written.broken_tiles,
        "artefacts": written.artefacts,
        "suspect": written.suspect,
        "message": written.message,
        "seconds": written.seconds,
    }


def summary_provenance(path: Path) -> Mapping[str, Any]:
    with open_summary(path) as summary:
        return summary.attributes


def summary_figures(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "patches": attributes["patches"],
        "tissue_patches": attributes["tissue_patches"],
        "pixels": attributes["pixels"]["mode"],
        "provider": attributes["provider"],
        "coverage": attributes["quality"]["coverage"],
        "reconstruction": attributes["quality"]["reconstruction"],
        "embedding_cosine": attributes["quality"]["embedding_cosine"],
        "verdict": attributes["verdict"]["verdict"],
        "bound": attributes["bound"],
        "target_reached": attributes["target_reached"],
        "broken_tiles": attributes["broken_tiles"]["count"],
        "artefacts": artefacts_found(attributes),
        "suspect": suspects_found(attributes),
        "message": what_to_look_at(attributes),
    }


def make_features(job: Job, options: FeatureOptions, tools: Tools) -> dict[str, Any]:
    extracted = extract_slide(job, options, tools)
    return {**asdict(extracted), "tissue_patches": extracted.patches}


def features_provenance(path: Path) -> Mapping[str, Any]:
    return feature_file.read_provenance(path) or {}


def features_figures(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "patches": provenance["patches"],
        "tissue_patches": provenance["patches"],
        "provider": provenance["provider"],
        "broken_tiles": provenance["broken_tiles"]["count"],
    }


def make_sweep(job: Job, options: Options, tools: Tools) -> dict[str, Any]:
    return asdict(sweep_slide(job, options, tools))


def no_provenance(_path: Path) -> Mapping[str, Any]:
    """Tables are made anew each time."""
    return {}


def no_figures(_provenance: Mapping[str, Any]) -> dict[str, Any]:
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
