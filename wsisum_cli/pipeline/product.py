"""The kinds of output (summaries, features, sweeps), so that all are walked, resumed and reported the same way."""

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
from wsisum_cli.summary.attributes import artefacts_found, little_tissue
from wsisum_cli.summary.reader import open_summary
from wsisum_cli.summary.writer import FORMAT_VERSION
from wsisum_cli.verification import verify


@dataclass(frozen=True)
class Product:
    """A kind of output file. Its functions must be picklable: they are sent to worker processes."""

    noun: str  # report column with the file's name
    plural: str
    task: str  # the verb for one slide
    suffix: str
    ours_alone: bool  # whether only this program writes files with this suffix
    version: str  # of the file format
    make: Callable[[Job, Any, Tools], dict[str, Any]]  # one slide -> report figures
    #: Provenance of a file; empty if another program wrote it. Raises WsisumError when the file cannot be read.
    provenance: Callable[[Path], Mapping[str, Any]]
    figures: Callable[[Mapping[str, Any]], dict[str, Any]]  # provenance -> report figures
    is_whole: Callable[[Path], bool]  # raises WsisumError when the file cannot be read
    reported: bool = True  # whether a run writes a report beside the files

    def named(self, path: str) -> dict[str, Any]:
        """The report column with the file's path."""
        return {self.noun: path}


def make_summary(job: Job, options: Options, tools: Tools) -> dict[str, Any]:
    result = compress_slide(job, options, tools)
    return {
        "bytes_in": result.bytes_in,
        "bytes_out": result.bytes_out,
        "patches": result.patches,
        "tissue_patches": result.tissue_patches,
        "pixels": result.pixels,
        "provider": result.provider,
        "coverage": round(result.quality.coverage, 6),
        "reconstruction": result.reconstruction,
        "embedding_cosine": result.embedding_cosine,
        "verdict": result.verdict,
        "bound": result.bound,
        "target_reached": result.target_reached,
        "broken_tiles": result.broken_tiles,
        "artefacts": result.artefacts,
        "message": result.message,
        "seconds": result.seconds,
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
        "message": little_tissue(attributes),
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
    """Sweeps are always recomputed."""
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
