"""How many patches to keep: limits on number, bytes and represented tissue; the tightest one applies."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import UsageError
from wsisum_cli.selection.prefixes import Prefixes

#: The possible limits: the requested number, bytes, represented tissue, all tissue kept, the most, or the least.
BOUNDS = (KEEP, MAX_BYTES, TARGET, TISSUE, CEILING, FLOOR) = ("keep", "max_bytes", "target", "tissue", "most", "least")
#: What `--keep` says to leave the number to the represented tissue.
AUTO = "auto"

#: Most patches to keep when the represented tissue decides, and when bytes alone do.
MAX_KEEP, MOST = 256, 1024
#: Fewest patches to keep when the represented tissue decides.
LEAST = 8
#: Where a search starts.
GUESS = 64

UNITS = {"b": 1} | {
    f"{letter}{middle}b": base**power
    for power, letter in enumerate("kmgt", 1)
    for middle, base in (("", 1000), ("i", 1024))
}


@dataclass(frozen=True)
class Limit:
    """The most patches to keep, and which of `BOUNDS` sets it."""

    keep: int
    bound: str

    def cut(self, keep: int, bound: str) -> Limit:
        """The tighter of the two limits; the current one if they are equal."""
        return Limit(keep, bound) if keep < self.keep else self


def most_kept(tissue_patches: int, keep: int | None, most: int) -> Limit:
    """The limit by number: `keep`, or `most` if None; at most all tissue."""
    limit = Limit(most, CEILING) if keep is None else Limit(keep, KEEP)
    return limit if limit.keep < tissue_patches else Limit(tissue_patches, TISSUE)


def reduced(limit: Limit, fewest_patches: int | None) -> Limit:
    """The limit once the target needs `fewest_patches`, None if the limit does not reach it; `LEAST` at least."""
    if fewest_patches is None:
        return limit
    return limit.cut(fewest_patches, TARGET) if fewest_patches > LEAST else limit.cut(LEAST, FLOOR)


def coverage_curve(prefixes: Prefixes, keep: int) -> npt.NDArray[np.float64]:
    """Coverage (K,) of the first 1, 2, ... `keep` picks: mean cosine of a patch to its representative.

    Cosines are rounded to float16, as a summary stores them. The curve never falls.
    """
    stored = prefixes.similarity.astype(np.float16).astype(np.float64)
    first = np.diff(prefixes.patch, prepend=-1) != 0
    gain = stored - np.where(first, 0, np.roll(stored, 1))  # over the patch's previous representative
    gained = np.bincount(prefixes.pick, gain, minlength=keep)[:keep]  # multiples of 2^-24, so the sum is exact
    return np.asarray(np.cumsum(gained) / (prefixes.patch[-1] + 1), np.float64)


def fewest(reaches: Callable[[int], bool], most: int, guess: int = GUESS) -> int | None:
    """The smallest number in 1..`most` for which `reaches` is true; None if it is false for `most`.

    `reaches` must stay true for all larger numbers; otherwise the result is a number at which it turns true. The
    search starts at `guess` and doubles or halves from there.
    """
    below, enough = 0, most + 1
    trial = min(max(guess, 1), most)
    while enough - below > 1:
        if reaches(trial):
            enough = trial
        else:
            below = trial
        trial = min(2 * below, most) if enough > most else (below + enough) // 2
    return enough if enough <= most else None


def most_within(limit: int, most: int, estimate: Callable[[int], int], size: Callable[[int], int]) -> int:
    """The largest number in 1..`most` whose `size` is within `limit`; 0 if the size of 1 is not.

    `estimate` is cheaper than `size`, with a similar error for nearby numbers. Both should increase. Even if they do
    not, the size of the result was measured to be within the limit.
    """
    fits, fails, off = 0, most + 1, 0
    while fails - fits > 1:
        over = fewest(lambda number, room=limit - off: estimate(number) > room, most, fits or GUESS)  # type: ignore[misc]
        guess = min(most if over is None else over - 1, fails - 1)
        if guess <= fits and fits:
            break
        guess = max(guess, 1)
        found = size(guess)
        off = found - estimate(guess)
        if found <= limit:
            fits = guess
        else:
            fails = guess
    return fits


def parse_keep(text: str) -> int | None:
    """Parse a number of patches; None for `auto`. Raises UsageError."""
    if text == AUTO:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise UsageError(f"--keep {text}: expected a number of patches, at least 1, or auto")
    return int(text)


def parse_bytes(text: str, option: str = "--max-bytes") -> int:
    """Parse a size such as 5MB, 800kB, 1.5 GiB or 300000 to bytes. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*([a-z]*)", text.strip().lower())
    unit = UNITS.get(found[2] or "b") if found else None
    if found is None or unit is None or int(float(found[1]) * unit) < 1:
        raise UsageError(f"{option} {text}: expected a size above 0 such as 5MB, 800kB or 4MiB")
    return int(float(found[1]) * unit)


def check_target(target: float | None) -> None:
    """Raises UsageError when the target is not a possible share of the tissue."""
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"--target {target:g}: expected a share of the tissue above 0 and at most 1, such as 0.95")
