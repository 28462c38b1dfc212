"""Trim a folder of summaries to a number of bytes in all, so that they represent the most tissue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.figures.words import size
from wsisum_cli.pipeline.trim import TrimResult
from wsisum_cli.quality.represented import share_curve
from wsisum_cli.quality.verdict import VERDICTS
from wsisum_cli.selection.allocation import Curve, allocate
from wsisum_cli.summary.reader import SourcePatches, Summary, open_summary
from wsisum_cli.summary.standing import judge_again

#: Times that sizes are measured and the bytes shared anew, where the estimates were too low.
ROUNDS = 6

#: Trims a summary to a file, to so many patches; None where that failed, which has been reported.
Trim = Callable[[Path, Path, int, bool], TrimResult | None]
#: Reads what is known of a summary; None where that failed, which has been reported.
Read = Callable[[Path], "Cuttable | None"]


@dataclass(frozen=True)
class Cuttable:
    """A summary before it is trimmed. `curve` is None where it does not say how much tissue fewer patches represent."""

    bytes: int
    patches: int
    tissue_mm2: float
    represented_mm2: float
    verdict: str | None
    curve: Curve | None

    def cost(self, keep: int) -> float:
        return float(self.bytes if self.curve is None else self.curve.cost[min(keep, self.patches) - 1])


@dataclass
class SharedResult:
    """What became of all summaries together. Areas are of those that say how much tissue they represent."""

    budget: int
    bytes_in: int = 0
    bytes_out: int = 0
    tissue_mm2: float = 0.0
    before_mm2: float = 0.0
    after_mm2: float = 0.0
    bound_mm2: float = 0.0  # by estimated bytes, no choice of first patches represents more
    verdicts: dict[str, list[int]] = field(default_factory=dict)  # before and after
    uncut: list[str] = field(default_factory=list)  # names of summaries copied for want of a curve
    trimmed: list[TrimResult] = field(default_factory=list)
    failed: int = 0  # summaries that could not be read or trimmed


def trim_within(places: Mapping[Path, Path], budget: int, read: Read, trim: Trim, force: bool = False) -> SharedResult:
    """Trim each summary at a path to its place, all together to at most `budget` bytes.

    A summary from before format 1.4 is copied. Raises UsageError when the fewest patches take more, SummaryError when
    the files written are still larger after `ROUNDS` attempts.
    """
    before = {path: found for path in places if (found := read(path)) is not None}
    done: dict[Path, TrimResult] = {}
    kept: dict[Path, int] = {}
    factors = dict.fromkeys(before, 1.0)
    failed: set[Path] = set()
    for _ in range(ROUNDS):
        taken = sum(done[path].bytes_out for path in failed & set(done))  # by what an earlier round wrote
        rest = {path: one for path, one in before.items() if path not in failed}
        wanted, bound = share(rest, factors, budget - taken)
        for path, keep in wanted.items():
            if kept.get(path) == keep:
                continue
            made = trim(path, places[path], keep, force or path in done)
            if made is None:
                failed.add(path)
                continue
            kept[path], done[path] = keep, made
        if sum(result.bytes_out for result in done.values()) <= budget:
            missing = len(places) - len(before) + len(failed)
            return replace(summed(budget, {path: before[path] for path in done}, done, bound), failed=missing)
        factors = {path: done[path].bytes_out / before[path].cost(kept[path]) for path in done}
    raise SummaryError(f"the trimmed summaries take more than {size(budget)}; give a larger --total-bytes")


def share(
    summaries: Mapping[Path, Cuttable], factors: Mapping[Path, float], budget: int
) -> tuple[dict[Path, int], float]:
    """Patches that each summary keeps, and the most area in mm² that could be represented. Raises UsageError.

    `factors`: bytes that were measured, divided by those estimated.
    """
    fixed = sum(one.bytes for one in summaries.values() if one.curve is None)
    curves = {
        path: Curve(one.curve.gain, one.curve.cost * factors[path])
        for path, one in summaries.items()
        if one.curve is not None
    }
    found = allocate(list(curves.values()), budget - fixed)
    if found is None:
        least = fixed + allocate_least(list(curves.values()))
        raise UsageError(
            f"--total-bytes: {len(summaries)} summaries with their fewest patches take about {size(int(least))}, "
            f"expected at most {size(budget)}; give more bytes"
        )
    keep = dict(zip(curves, found.keep, strict=True))
    return {path: keep.get(path, one.patches) for path, one in summaries.items()}, found.bound


def allocate_least(curves: list[Curve]) -> float:
    """Bytes of the fewest patches that `allocate` leaves to each."""
    unlimited = allocate([Curve(np.zeros_like(curve.gain), curve.cost) for curve in curves], np.inf)
    return unlimited.cost if unlimited is not None else 0.0


def read_cuttable(path: Path) -> Cuttable:
    """What a summary represents and takes with fewer patches. Raises SummaryError."""
    with open_summary(path) as summary:
        record, section = summary.record, summary.record.represented
        verdict = judge_again(record)
        tissue, share = (0.0, 0.0) if section is None else (section.tissue_mm2, section.share)
        word = verdict.verdict if verdict else None
        held = path.stat().st_size
        return Cuttable(held, record.patches, tissue, share * tissue, word, curve_of(summary, held))


def curve_of(summary: Summary, held: int) -> Curve | None:
    """Represented mm², and about how many bytes, of the first 1, 2, ... patches; None before format 1.4."""
    section, prefixes = summary.record.represented, summary.prefixes
    if section is None or prefixes is None:
        return None
    keep = summary.record.patches
    gain = share_curve(prefixes, keep, section.cosine, section.unread) * section.tissue_mm2
    streams = stream_bytes(summary)
    entries = np.bincount(prefixes.pick, minlength=keep).cumsum() - len(summary.tissue.coords)
    earlier, arrays = member_bytes(summary, "tissue/earlier_"), member_bytes(summary, "patches/") - streams.sum()
    falling = streams.sum() + earlier + arrays
    parts = streams.cumsum() + earlier * entries / max(entries[-1], 1) + arrays * np.arange(1, keep + 1) / keep
    return Curve(gain, held - falling + parts)


def member_bytes(summary: Summary, start: str) -> int:
    return sum(member.size for name, member in summary.members.items() if name.startswith(start))


def stream_bytes(summary: Summary) -> npt.NDArray[np.float64]:
    """Bytes (K,) of JPEG streams that each patch adds; a tile counts for the first patch that touches it."""
    patches = summary.patches
    if not isinstance(patches, SourcePatches):
        return np.array([patches.shard.stored_bytes(row) for row in range(len(patches))], np.float64)
    rows = {tuple(at): row for row, at in enumerate(patches.positions.tolist())}
    added = np.zeros(len(patches), np.float64)
    for i, (x, y) in enumerate(summary.coords.tolist()):
        touched = {rows.pop(tile, None) for tile in patches.reading.tiles(x, y)} - {None}
        added[i] = sum(patches.shard.stored_bytes(row) for row in touched if row is not None)
    return added


def summed(budget: int, before: Mapping[Path, Cuttable], done: Mapping[Path, TrimResult], bound: float) -> SharedResult:
    """The totals of all summaries that were written."""
    result = SharedResult(budget, bound_mm2=bound, trimmed=list(done.values()))
    was: Counter[str | None] = Counter()
    now: Counter[str] = Counter()
    for path, one in before.items():
        made = done[path]
        result.bytes_in += one.bytes
        result.bytes_out += made.bytes_out
        result.tissue_mm2 += one.tissue_mm2
        result.before_mm2 += one.represented_mm2
        result.after_mm2 += (made.represented or 0.0) * one.tissue_mm2
        was[one.verdict], now[made.verdict] = was[one.verdict] + 1, now[made.verdict] + 1
        if one.curve is None:
            result.uncut.append(made.name)
    result.verdicts = {name: [was[name], now[name]] for name in VERDICTS}
    return result
