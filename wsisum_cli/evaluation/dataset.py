"""Summaries as a dataset of torch: one slide an item, for training on kept patches."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from wsisum_cli.errors import SummaryError, UsageError
from wsisum_cli.evaluation.cohort import read_labels
from wsisum_cli.summary.container import SUFFIX, visible_summaries
from wsisum_cli.summary.reader import Summary, open_summary


class _Always(TypedDict):
    name: str  # of the slide: the summary's path below its folder, without suffix
    features: torch.Tensor  # (K, D) float32
    coords: torch.Tensor  # (K, 2) int64, level-0 px
    weights: torch.Tensor  # (K,) float32, sum to 1


class Item(_Always, total=False):
    """One slide. Keys that were not asked for are missing."""

    pixels: torch.Tensor  # (K, 3, P, P) uint8 RGB
    drawn: torch.Tensor  # (K,) int64: how often each patch was drawn
    label: int  # index into `classes`


class SummaryDataset(Dataset[Item]):
    """The kept patches of summaries, one slide an item, read when asked for.

    It holds paths alone, so that workers of a DataLoader get copies and open files themselves. Slides have different
    numbers of patches: use `batch_size=None`, or a `collate_fn` of your own.
    """

    def __init__(
        self,
        summaries: str | Path | Iterable[str | Path],
        labels: str | Path | None = None,
        *,
        label: str = "label",
        encoder: str | None = None,
        pixels: bool = False,
        draws: int | None = None,
        seed: int = 0,
    ) -> None:
        """`summaries` is a folder, or paths and URLs of summaries; `labels` a CSV as `wsisum evaluate` takes it.

        Slides without a label are left out. `encoder`, a name or sha256, chooses among features that were added; None
        is for those that weights rest on. `draws` draws so many patches an item by weight, with repetition: what comes
        out depends on `seed`, the epoch and the slide alone. Raises UsageError, SummaryError.
        """
        found = named_paths(summaries)
        self.classes: tuple[str, ...] = ()
        self.labels: dict[str, int] = {}
        if labels is not None:
            cohort = read_labels(Path(labels), found, label)
            self.classes = cohort.classes
            self.labels = dict(zip(cohort.slides, cohort.labels.tolist(), strict=True))
            found = {name: found[name] for name in cohort.slides}
        if draws is not None and draws < 1:
            raise UsageError(f"draws: expected at least 1, found {draws}")
        self.names, self.paths = tuple(found), tuple(found.values())
        self.encoder, self.pixels, self.draws, self.seed, self.epoch = encoder, pixels, draws, seed, 0

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        classes = f", classes {', '.join(self.classes)}" if self.classes else ""
        return f"<SummaryDataset of {len(self)} slides{classes}>"

    def set_epoch(self, epoch: int) -> None:
        """Draw other patches from now on. Call it before the workers of a DataLoader start."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Item:
        """Raises IndexError, and SummaryError where the summary cannot be read."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"slide {index} of {len(self)}")
        place = index % len(self)
        name = self.names[place]
        with open_summary(self.paths[place]) as summary:
            item = Item(
                name=name,
                features=torch.from_numpy(features_by(summary, self.encoder).astype(np.float32)),
                coords=torch.from_numpy(summary.coords.astype(np.int64)),
                weights=torch.from_numpy(summary.weights.astype(np.float32)),
            )
            if self.pixels:
                item["pixels"] = torch.from_numpy(np.moveaxis(summary.patches[:], 3, 1).copy())
            if self.draws is not None:
                item["drawn"] = torch.from_numpy(self._draw(summary.weights, name))
        if name in self.labels:
            item["label"] = self.labels[name]
        return item

    def _draw(self, weights: np.ndarray, name: str) -> np.ndarray:
        """How often each patch (K,) is drawn; the same in every process, whatever other slides there are."""
        slide = int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8])
        rng = np.random.default_rng((self.seed, self.epoch, slide))
        return rng.multinomial(self.draws or 0, weights / weights.sum())


def named_paths(summaries: str | Path | Iterable[str | Path]) -> dict[str, str]:
    """Names and paths, ascending by name; within a folder, the path below it is the name. Raises UsageError."""
    if isinstance(summaries, (str, Path)) and Path(summaries).is_dir():
        folder = Path(summaries)
        inside = visible_summaries(folder)
        pairs = [(path.relative_to(folder).as_posix().removesuffix(SUFFIX), str(path)) for path in inside]
        count = Counter(name.rpartition("/")[2] for name, _ in pairs)
        pairs = [(short if count[short := name.rpartition("/")[2]] == 1 else name, path) for name, path in pairs]
    else:
        single = isinstance(summaries, (str, Path))
        paths: Sequence[str] = [str(summaries)] if single else [str(path) for path in summaries]  # type: ignore[union-attr]
        pairs = [(path.replace("\\", "/").rpartition("/")[2].removesuffix(SUFFIX), path) for path in paths]
    if not pairs:
        raise UsageError("expected summaries, found none; give a folder of them, or their paths")
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]}: expected one summary of that name, found several; give the folder of all")
    return dict(sorted(pairs))


def features_by(summary: Summary, encoder: str | None) -> np.ndarray:
    """Features (K, D) by an encoder of this name or sha256; None: those that weights rest on. Raises SummaryError."""
    record = summary.record
    if encoder is None or encoder in (record.encoder.name, record.features_encoder):
        return summary.features
    added = zip(record.reembedded or (), summary.reembedded, strict=True)
    found = [features for entry, features in added if encoder in (entry.encoder.name, entry.encoder.sha256)]
    if len(found) > 1:
        raise SummaryError(f"{summary.name}: {len(found)} encoders are called {encoder}; give the sha256 of one")
    if found:
        return found[0]
    known = ", ".join([record.encoder.name, *(entry.encoder.name for entry in record.reembedded or ())])
    raise SummaryError(
        f"{summary.name}: expected features by {encoder}, found those by {known}; add them with wsisum reembed"
    )
