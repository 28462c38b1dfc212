"""How many patches are kept: by number, by bytes, by coverage; the tightest of them binds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsisum_cli.errors import UsageError
from wsisum_cli.selection.prefixes import Prefixes
from wsisum_cli.selection.selectors import keep_count

#: What can bind: the number that is kept by default, the one asked for, bytes, coverage, all tissue being kept already,
#: or `MOST`.
BOUNDS = (AUTO, KEEP, MAX_BYTES, TARGET, TISSUE, CEILING) = ("auto", "keep", "max_bytes", "target", "tissue", "most")

#: Patches kept at most where only bytes or coverage are asked for.
MOST = 1024
#: The number from which a search begins.
GUESS = 64

UNITS = {"b": 1} | {
    f"{letter}{middle}b": base**power
    for power, letter in enumerate("kmgt", 1)
    for middle, base in (("", 1000), ("i", 1024))
}


@dataclass(frozen=True)
class Limit:
    """At most so many patches are kept, and what says so: one of `BOUNDS`."""

    keep: int
    bound: str

    def cut(self, keep: int, bound: str) -> Limit:
        """The tighter of the two; of equal ones the earlier."""
        return Limit(keep, bound) if keep < self.keep else self


def most_kept(tissue_patches: int, keep: int | None, free: bool) -> Limit:
    """What `keep` allows: so many, or by default one in eight, 8 to 64; where that is `free`, `MOST`.

    It is free where bytes or coverage are asked for and no number is.
    """
    if keep is not None:
        limit = Limit(keep, KEEP)
    else:
        limit = Limit(MOST, CEILING) if free else Limit(keep_count(tissue_patches, None), AUTO)
    return limit if limit.keep < tissue_patches else Limit(tissue_patches, TISSUE)


def coverage_curve(prefixes: Prefixes, keep: int) -> npt.NDArray[np.float64]:
    """Coverage (K,) of the first 1, 2, ... `keep` picks: mean cosine of a patch to that which stands for it.

    Cosines count as precisely as a summary stores them. It never falls.
    """
    stored = prefixes.similarity.astype(np.float16).astype(np.float64)
    first = np.diff(prefixes.patch, prepend=-1) != 0
    gain = stored - np.where(first, 0, np.roll(stored, 1))  # over what stood for the patch before
    gained = np.bincount(prefixes.pick, gain, minlength=keep)[:keep]  # multiples of 2^-24 of so many: an exact sum
    return np.asarray(np.cumsum(gained) / (prefixes.patch[-1] + 1), np.float64)


def fewest(reaches: Callable[[int], bool], most: int, guess: int = GUESS) -> int | None:
    """The least number in 1..`most` that `reaches`, None where not even `most` does.

    What reaches must go on doing so for all larger numbers, else one is found below which the next does not. Numbers
    near `guess` are tried first, then ones twice and half as large.
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
    """The largest number in 1..`most` whose `size` is within `limit`; 0 where not even that of 1 is.

    `estimate` is cheaper than `size`, and off by about the same for numbers that are near each other. Both should
    rise. Whatever they do, the size of what is found was seen to be within the limit.
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
    """A number of patches, None for `auto`. Raises UsageError."""
    if text == AUTO:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise UsageError(f"--keep {text}: expected a number of patches, at least 1, or auto")
    return int(text)


def parse_bytes(text: str) -> int:
    """5MB, 800kB, 1.5 GiB, 300000: a number of bytes. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*([a-z]*)", text.strip().lower())
    unit = UNITS.get(found[2] or "b") if found else None
    if found is None or unit is None or int(float(found[1]) * unit) < 1:
        raise UsageError(f"--max-bytes {text}: expected a size above 0 such as 5MB, 800kB or 4MiB")
    return int(float(found[1]) * unit)


def check_target(target: float | None) -> None:
    """Raises UsageError for what no coverage can be."""
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"--target {target:g}: expected a coverage above 0 and at most 1, such as 0.95")
