"""Slides in formats that are not read: how to tell them, and how to convert them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from wsisum_cli.archive.outcome import SKIPPED, Outcome
from wsisum_cli.errors import SummaryError
from wsisum_cli.summary.container import SUFFIX
from wsisum_cli.summary.reader import open_summary

BIO_FORMATS = "convert it to OME-TIFF with QuPath or bfconvert (Bio-Formats)"
VENDOR = "export it as SVS, TIFF or DICOM with the scanner vendor's software"

#: Suffix -> whose format it is, and what to do.
FORMATS: dict[str, tuple[str, str]] = {
    ".vsi": ("Olympus VSI", BIO_FORMATS),
    ".ets": ("Olympus ETS, a part of a VSI", BIO_FORMATS),
    ".isyntax": ("Philips iSyntax", "convert it to TIFF with isyntax-to-tiff (libisyntax) or Philips' own exporter"),
    ".i2syntax": ("Philips iSyntax 2", "export it as DICOM with Philips' software"),
    ".kfb": ("KFBio KFB", VENDOR),
    ".kfbf": ("KFBio KFB", VENDOR),
    ".sdpc": ("Sqray SDPC", VENDOR),
    ".dyqx": ("Sqray DYQX", VENDOR),
    ".mds": ("Motic MDS", VENDOR),
    ".mdsx": ("Motic MDSX", VENDOR),
    ".tmap": ("UNIC TMAP", VENDOR),
    ".tron": ("InteMedic TRON", VENDOR),
    ".lif": ("Leica LIF", BIO_FORMATS),
    ".lof": ("Leica LOF", BIO_FORMATS),
    ".xlef": ("Leica XLEF", BIO_FORMATS),
    ".zvi": ("Zeiss ZVI", BIO_FORMATS),
    ".nd2": ("Nikon ND2", BIO_FORMATS),
    ".ims": ("Imaris IMS", BIO_FORMATS),
    ".oir": ("Olympus OIR", BIO_FORMATS),
    ".oib": ("Olympus OIB", BIO_FORMATS),
    ".afi": ("Aperio AFI (fluorescence)", BIO_FORMATS),
    ".bkf": ("Hamamatsu BKF", VENDOR),
    ".szi": ("SmartZoom SZI", "unzip it and convert the DeepZoom pyramid to TIFF with vips tiffsave"),
    ".dzi": ("DeepZoom", "convert the slide that it was made from"),
}
ZIPPED = "unzip it and convert it to OME-TIFF with bfconvert or raw2ometiff, or run wsisum verify on a summary"
OME_ZARR = ("OME-Zarr", "convert it to OME-TIFF with bfconvert or raw2ometiff")
#: Reason of an outcome.
A_SUMMARY = "a summary"
#: Files that make a folder a Zarr hierarchy.
ZARR_FILES = {".zattrs", ".zgroup", "zarr.json"}

#: Folders that systems and storage boxes keep for themselves, in lower case; so are those whose names begin with a dot.
SYSTEM_FOLDERS = {
    *("$recycle.bin", "system volume information", "lost+found", "@eadir", "#recycle", "#snapshot", "@recycle"),
    *("@recently-snapshot", "recycler", "__macosx", "found.000", "~snapshot"),
}


def is_left_out(folder: str) -> bool:
    """Whether a folder of this name is hidden or the system's own."""
    return folder.startswith(".") or folder.lower() in SYSTEM_FOLDERS


def is_zarr(folder: Path, files: Iterable[str]) -> bool:
    return folder.suffix.lower() == ".zarr" or not ZARR_FILES.isdisjoint(files)


def is_summary(path: Path) -> bool:
    """Whether a file is a summary slide, by its suffix and its attributes."""
    if path.suffix.lower() != SUFFIX or not path.is_file():
        return False
    try:
        open_summary(path).close()
    except (SummaryError, OSError):
        return False
    return True


def no_slide_words(path: Path) -> str:
    """What to say of a summary where a slide is expected."""
    return (
        f"{path.name}: is a summary, not a slide; give the slide that it was made from, or look at the summary with "
        "wsisum inspect"
    )


def not_read(path: Path, source: str) -> Outcome | None:
    """The outcome of a summary, or of a file in a format that is not read; None where its suffix tells of neither."""
    if path.suffix.lower() == SUFFIX and path.is_file():
        if is_summary(path):
            return Outcome(source, SKIPPED, A_SUMMARY, no_slide_words(path))
        return format_outcome(path, source, "OME-Zarr in a ZIP, or a damaged summary,", ZIPPED)
    found = FORMATS.get(path.suffix.lower())
    return format_outcome(path, source, *found) if found else None


def zarr_outcome(folder: Path, source: str) -> Outcome:
    return format_outcome(folder, source, *OME_ZARR)


def format_outcome(path: Path, source: str, what: str, advice: str) -> Outcome:
    return Outcome(source, SKIPPED, "format not read", f"{path.name}: {what} is not read; {advice}")


def pixel_folder(path: Path) -> Path | None:
    """The folder beside a slide of a format that is not read that holds its pixels, None where there is none."""
    names = {".vsi": f"_{path.stem}_", ".dzi": f"{path.stem}_files"}
    name = names.get(path.suffix.lower())
    return path.with_name(name) if name and os.path.isdir(path.with_name(name)) else None
