"""A summary, and its source where it is at hand -> findings. Never raises for bad data.

Three tiers, cheap first. `quick` reads the structure; `full` also every byte, every patch, and computes the
features again; `source` also holds the summary against the slide that it was made from.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsisum_cli.container import layout_differs, read_member
from wsisum_cli.damage import Damage
from wsisum_cli.errors import SlideError, SummaryError
from wsisum_cli.features import encode_patches
from wsisum_cli.inference import Encoder
from wsisum_cli.patch import Reading, read_patches
from wsisum_cli.selection import measure_kept
from wsisum_cli.slide import Slide, open_slide
from wsisum_cli.source import find_source
from wsisum_cli.summary import Patches, SourcePatches, Summary, open_summary

ROOT = "zarr.json"
HALF_STEP = 2.0**-10  # relative distance of neighbouring float16 numbers
QUALITY_TOLERANCE = 2e-3  # similarities are kept as float16, other processors add up in other orders
GIVEN_COSINE = 0.98  # existing features were computed with another program's decoding and resampling
MIN_PSNR, MIN_SSIM = 30.0, 0.90  # dB and 0..1, of one JPEG generation at quality 90 with a margin

#: Every code that a finding can have, with its severity and what it means; docs/cli.md lists them.
CODES = {
    "unreadable": ("error", "the file is missing, or no summary slide of this format"),
    "layout": ("error", "bytes between the members are not as they were written"),
    "missing-member": ("error", "a listed member is not there"),
    "unlisted-member": ("error", "a member is there that was not written with the summary"),
    "member-size": ("error", "a member is longer or shorter than listed"),
    "attributes": ("error", "the attributes lack something, or contradict the arrays"),
    "checksum": ("error", "a member's bytes are not those that were written"),
    "array-damaged": ("error", "an array cannot be decoded"),
    "patch-damaged": ("error", "a patch cannot be decoded"),
    "coords-outside": ("error", "a patch lies outside the slide"),
    "weights": ("error", "weights do not add up, or do not match the tissue map"),
    "quality-differs": ("error", "the recorded quality is not what the file's data give"),
    "features-differ": ("error", "features computed from the stored pixels are not those stored"),
    "features-not-recomputed": ("info", "the encoder that made the features is not at hand"),
    "source-missing": ("error", "the slide to compare with is missing or unreadable"),
    "source-differs": ("error", "the slide is not the file that the summary was made from"),
    "pixels-differ": ("error", "stored tiles are not those of the slide"),
    "pixels-lossy": ("warning", "a stored patch is further from the slide than one JPEG generation explains"),
    "internal": ("error", "verification itself failed on this file"),
}


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
    findings: list[Finding] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)  # figures computed on the way

    @property
    def ok(self) -> bool:
        return all(finding.severity == "info" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        found = [finding.as_dict() for finding in self.findings]
        return {
            "name": self.name,
            "ok": self.ok,
            "tier": self.tier,
            "findings": found,
            "measured": self.measured,
        }


#: Gives the encoder that a card in a summary describes, None when it is not at hand.
FindEncoder = Callable[[dict[str, Any]], Encoder | None]


def verify_summary(
    path: str | Path,
    find_encoder: FindEncoder = lambda card: None,
    tier: str = "full",
    source: Path | None = None,
    threads: int = 1,
) -> Verification:
    """`tier` is quick, full or source; the last needs `source`, the slide's path."""
    result = Verification(str(path).rsplit("/", 1)[-1], tier)
    try:
        for finding in findings(path, find_encoder, tier, source, threads, result.measured):
            result.findings.append(finding)
    # Whatever damage makes of the data, the caller gets findings and the other files get their turn.
    except Exception as error:  # noqa: BLE001
        result.findings.append(Finding("internal", f"{type(error).__name__}: {error}"))
    return result


def is_whole(path: Path) -> bool:
    """Whether structure and checksums of a summary are in order; reads every byte, decodes nothing."""
    with open_summary(path) as summary:
        return not [*structure(summary), *checksums(summary)]


def findings(
    path: str | Path,
    find_encoder: FindEncoder,
    tier: str,
    source: Path | None,
    threads: int,
    measured: dict[str, float],
) -> Iterator[Finding]:
    try:
        summary = open_summary(path)
    except SummaryError as error:
        yield Finding("unreadable", str(error))
        return
    with summary:
        damaged = yield from structure(summary)
        if tier == "quick":
            return
        damaged |= yield from checksums(summary)
        content = Content(summary, damaged)
        yield from content.check(find_encoder, measured)
        if tier == "source" and source is not None and content.whole:
            yield from against_source(content, source, find_encoder, threads, measured)


def structure(summary: Summary) -> Generator[Finding, None, set[str]]:
    """Layout and member list; gives back the names of members that cannot be trusted."""
    damaged: set[str] = set()
    difference = layout_differs(summary.file, summary.listed)
    if difference:
        yield Finding("layout", f"{difference}; the file was changed or damaged after it was written")
    listed = summary.attributes.get("members")
    if not isinstance(listed, dict) or not listed:
        yield Finding("attributes", "the attributes list no members", ROOT)
        listed = {}
    for name, entry in listed.items():
        found = summary.members.get(name)
        size = entry.get("bytes") if isinstance(entry, dict) else None
        if found is None:
            damaged.add(name)
            yield Finding("missing-member", f"{name} is not in the file", name)
        elif found.size != size:
            damaged.add(name)
            yield Finding("member-size", f"{name} has another size than listed", name, str(size), str(found.size))
    for name in summary.members.keys() - listed.keys() - {ROOT}:
        yield Finding("unlisted-member", f"{name} was not written with the summary", name)
    root = summary.members[ROOT]
    if zlib.crc32(read_member(summary.file, root)) != root.crc:
        yield Finding("checksum", f"{ROOT} fails its CRC-32", ROOT)
    yield from missing_attributes(summary)
    return damaged


REQUIRED = {
    "source": ("name", "bytes", "sha256", "mpp", "mpp_source", "width", "height", "reader"),
    "patch": ("patch_size", "patch_size_level0", "reading"),
    "pixels": ("mode",),
    "encoder": ("name",),
    "features": ("origin",),
    "quality": ("coverage", "coverage_p05", "coverage_min", "weighted_cosine"),
}


def missing_attributes(summary: Summary) -> Iterator[Finding]:
    for name, keys in REQUIRED.items():
        section = summary.attributes.get(name)
        lacking = [key for key in keys if not isinstance(section, dict) or key not in section]
        if lacking:
            yield Finding("attributes", f"{name} lacks {', '.join(lacking)}", ROOT)
    for name in ("patches", "tissue_patches"):
        if not isinstance(summary.attributes.get(name), int):
            yield Finding("attributes", f"{name} is not a number", ROOT)


def checksums(summary: Summary) -> Generator[Finding, None, set[str]]:
    """Every byte of every listed member; gives back the names of those that differ."""
    damaged: set[str] = set()
    for name, entry in summary.attributes.get("members", {}).items():
        if name not in summary.members:
            continue
        digest = hashlib.sha256(summary.read(name)).hexdigest()
        expected = entry.get("sha256") if isinstance(entry, dict) else None
        if digest != expected:
            damaged.add(name)
            yield Finding("checksum", f"{name} is not as it was written", name, str(expected), digest)
    return damaged


class Content:
    """The arrays of a summary and what they must agree on. Checks that need damaged members are left out."""

    def __init__(self, summary: Summary, damaged: set[str]) -> None:
        self.summary = summary
        self.damaged = damaged
        self.attributes = summary.attributes

    @property
    def whole(self) -> bool:
        return not self.damaged

    def intact(self, *arrays: str) -> bool:
        return not any(name.startswith(f"{array}/") for array in arrays for name in self.damaged)

    def check(self, find_encoder: FindEncoder, measured: dict[str, float]) -> Iterator[Finding]:
        if (yield from self.shapes()):
            yield from self.places()
            yield from self.weights()
            yield from self.quality(measured)
            yield from self.patches(find_encoder, measured)

    def shapes(self) -> Generator[Finding, None, bool]:
        """Decode each array that is not known to be damaged; gives back whether all fit the attributes."""
        kept, tissue = self.attributes.get("patches"), self.attributes.get("tissue_patches")
        dims = self.attributes.get("encoder", {}).get("dims")
        expected: dict[str, tuple[Any, ...]] = {
            "patches/coords": (kept, 2),
            "patches/features": (kept, dims),
            "patches/weights": (kept,),
            "patches/cluster": (kept,),
            "tissue/coords": (tissue, 2),
            "tissue/representative": (tissue,),
            "tissue/similarity": (tissue,),
            "tissue/cluster": (tissue,),
            "reference/mean": (dims,),
            "0": (3, None, None),
        }
        fits = True
        for name, shape in expected.items():
            if not self.intact(name):
                fits = False
                continue
            try:
                found = self.summary.array(name).shape
            except SummaryError as error:
                fits = False
                yield Finding("array-damaged", str(error), name)
                continue
            if len(found) != len(shape) or any(
                want not in (None, have) for want, have in zip(shape, found, strict=True)
            ):
                fits = False
                yield Finding("attributes", f"{name} has another shape", name, str(shape), str(found))
        return fits

    def places(self) -> Iterator[Finding]:
        """Patches lie on the slide, and the kept ones among the tissue."""
        size = self.attributes["patch"]["patch_size_level0"]
        extent = np.array([self.attributes["source"]["width"], self.attributes["source"]["height"]])
        tissue = self.summary.tissue.coords
        for name, coords in (("patches/coords", self.summary.coords), ("tissue/coords", tissue)):
            outside = ((coords < 0) | (coords + size > extent)).any(axis=1)
            if outside.any():
                x, y = coords[outside][0]
                yield Finding(
                    "coords-outside",
                    f"{int(outside.sum())} patches reach beyond the slide",
                    name,
                    f"within {extent[0]} x {extent[1]}",
                    f"({x}, {y})",
                )
        if not set(map(tuple, self.summary.coords.tolist())) <= set(map(tuple, tissue.tolist())):
            yield Finding("attributes", "a kept patch is not among the tissue patches", "patches/coords")

    def weights(self) -> Iterator[Finding]:
        weights, stand_in = self.summary.weights, self.summary.tissue.representative
        total = float(weights.sum())
        if not np.isfinite(weights).all() or (weights < 0).any() or abs(total - 1) > 1e-9:
            yield Finding("weights", "weights are not shares that add up", "patches/weights", "1", f"{total:g}")
        elif stand_in.min() < 0 or stand_in.max() >= len(weights):
            yield Finding("weights", "tissue is assigned to a patch that is not kept", "tissue/representative")
        elif not np.allclose(weights, np.bincount(stand_in, minlength=len(weights)) / len(stand_in)):
            yield Finding("weights", "weights are not the shares of tissue the map assigns", "patches/weights")

    def quality(self, measured: dict[str, float]) -> Iterator[Finding]:
        """Coverage from the tissue map, the weighted mean from features and reference."""
        similarity = self.summary.tissue.similarity.astype(np.float64)
        mean = self.summary.weights @ self.summary.features.astype(np.float64)
        now = {
            "coverage": float(similarity.mean()),
            "coverage_p05": float(np.percentile(similarity, 5)),
            "coverage_min": float(similarity.min()),
            "weighted_cosine": float(cosines(mean[None], self.summary.reference.mean[None])[0]),
        }
        measured |= now
        yield from compare_quality(self.attributes["quality"], now, "the file's own data")

    def patches(self, find_encoder: FindEncoder, measured: dict[str, float]) -> Iterator[Finding]:
        """Decode every patch; compute the features again where the encoder is at hand."""
        pixels: list[np.ndarray] = []
        try:
            patches = self.summary.patches
        except SummaryError as error:
            yield Finding("patch-damaged", str(error))
            return
        if len(patches) != self.attributes["patches"]:
            wanted, have = str(self.attributes["patches"]), str(len(patches))
            yield Finding("attributes", "not as many patches as stated", None, wanted, have)
            return
        for row in range(len(patches)):
            try:
                pixels.append(patches[row])
            except (SummaryError, ValueError) as error:
                yield Finding("patch-damaged", f"patch {row}: {error}")
        if len(pixels) == len(patches) and self.intact("patches"):
            yield from self.features(pixels, find_encoder, measured)

    def features(
        self, pixels: list[np.ndarray], find_encoder: FindEncoder, measured: dict[str, float]
    ) -> Iterator[Finding]:
        card, origin = self.attributes["encoder"], self.attributes["features"]["origin"]
        encoder = find_encoder(card)
        stored = self.summary.features
        if encoder is None or encoder.card.dims != stored.shape[1]:
            owner = f"whose features of {card['name']} were given" if origin == "given" else f"made by {card['name']}"
            yield Finding("features-not-recomputed", f"a summary {owner}; pass that model as --encoder")
            return
        now = encoder(np.stack(pixels))
        cosine = cosines(stored, now)
        measured["feature_cosine_min"] = float(cosine.min())
        if origin == "given":
            differs = cosine < GIVEN_COSINE
        else:
            step = HALF_STEP * np.abs(stored.astype(np.float32)).max()
            close = np.isclose(now.astype(stored.dtype), stored, rtol=2 * HALF_STEP, atol=step / 4)
            differs = ~close.all(axis=1)
        if differs.any():
            rows = ", ".join(map(str, np.flatnonzero(differs)[:8]))
            yield Finding(
                "features-differ",
                f"features of patches {rows} are not those of their pixels",
                "patches/features",
                "cosine 1",
                f"{float(cosine.min()):.4f}",
            )


def compare_quality(recorded: dict[str, Any], now: dict[str, float], by: str) -> Iterator[Finding]:
    for name, value in now.items():
        if not abs(float(recorded[name]) - value) <= QUALITY_TOLERANCE:
            found = f"{value:.4f}"
            yield Finding("quality-differs", f"{name} by {by} is not as recorded", ROOT, str(recorded[name]), found)


def against_source(
    content: Content, path: Path, find_encoder: FindEncoder, threads: int, measured: dict[str, float]
) -> Iterator[Finding]:
    """The same file, the same pixels, the same quality over all tissue."""
    source = content.attributes["source"]
    try:
        digest = find_source(path).sha256
        if digest != source["sha256"]:
            yield Finding("source-differs", f"{path.name} is another file", None, source["sha256"], digest)
            return
        given = source["mpp"] if source["mpp_source"] == "given" else None
        with open_slide(path, given) as slide:
            yield from same_pixels(content, slide, measured)
            encoder = find_encoder(content.attributes["encoder"])
            if encoder is not None and content.attributes["features"]["origin"] == "computed":
                yield from same_quality(content, slide, encoder, threads, measured)
    except (SlideError, OSError) as error:
        yield Finding("source-missing", f"{path.name}: {error}")


def same_pixels(content: Content, slide: Slide, measured: dict[str, float]) -> Iterator[Finding]:
    """Tiles byte for byte where they were copied; PSNR and SSIM where pixels were encoded once more."""
    summary = content.summary
    reading = Reading(**content.attributes["patch"]["reading"])
    if isinstance(summary.patches, SourcePatches):
        yield from same_tiles(summary, summary.patches, slide, reading.level)
        return
    coords = summary.coords
    worst_psnr, worst_ssim = np.inf, 1.0
    for rows, patches in read_patches(slide.pyramid, coords, reading, Damage()):
        for row, original in zip(rows.tolist(), patches, strict=True):
            psnr, ssim = likeness(original, summary.patches[row])
            worst_psnr, worst_ssim = min(worst_psnr, psnr), min(worst_ssim, ssim)
            if psnr < MIN_PSNR or ssim < MIN_SSIM:
                yield Finding(
                    "pixels-lossy",
                    f"patch {row} differs from the slide",
                    "patches/pixels",
                    f"{MIN_PSNR:g} dB, SSIM {MIN_SSIM:g}",
                    f"{psnr:.1f} dB, SSIM {ssim:.3f}",
                )
    measured["psnr_min"], measured["ssim_min"] = float(worst_psnr), float(worst_ssim)


def same_tiles(summary: Summary, stored: Patches, slide: Slide, level: int) -> Iterator[Finding]:
    spliced = summary.array("patches/tile_spliced").tolist()
    positions = summary.array("patches/tile_positions").tolist()
    for index, (column, row) in enumerate(positions):
        original = slide.pyramid.encoded_tile(level, column, row)
        stream = stored.stream(index)
        if original is None or original.stream != stream or original.spliced != spliced[index]:
            where = f"tile at column {column}, row {row} of level {level}"
            yield Finding("pixels-differ", f"the stored {where} is not the slide's", "patches/tiles")


def same_quality(
    content: Content, slide: Slide, encoder: Encoder, threads: int, measured: dict[str, float]
) -> Iterator[Finding]:
    """Encode all tissue again and measure the kept patches against it."""
    summary = content.summary
    reading = Reading(**content.attributes["patch"]["reading"])
    coords = summary.tissue.coords
    features, rows = encode_patches(slide.pyramid, coords, reading, encoder, Damage(), threads)
    row_of = {tuple(at): row for row, at in enumerate(coords[rows].tolist())}
    kept = [row_of[tuple(at)] for at in summary.coords.tolist()]
    features[kept] = summary.features  # as stored: encoding pixels once more changes them a little
    quality = measure_kept(features, summary.features.astype(np.float32), summary.weights)
    now = {name: float(value) for name, value in asdict(quality).items()}
    measured |= {f"source_{name}": value for name, value in now.items()}
    yield from compare_quality(content.attributes["quality"], now, "the slide's tissue")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) cosines of the rows of two (N, D) arrays; 0 where one of them is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.where(norms > 0, norms, np.inf))


def likeness(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """PSNR in dB over all channels, and SSIM (Wang et al. 2004) of the grey images, of (H, W, 3) uint8."""
    import cv2

    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    psnr = 10 * np.log10(255**2 / error) if error else np.inf
    x, y = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64) for image in (a, b))

    def blur(image: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.GaussianBlur(image, (11, 11), 1.5))

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    ssim = structure / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(psnr), float(ssim.mean())
