"""A patch encoder that learns from another: what a teacher makes of a tile whichever way it lies.

A patch encoder sees the same tissue otherwise where it is turned or magnified; the mean of its features over many
poses hardly does. That mean costs as many passes as there are poses, so it is what a pupil learns (Hinton et al.,
2015) rather than what a slide is encoded by. The teacher may be the pupil's own first training, or a larger model.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsisum_cli.errors import ModelError, UsageError
from wsisum_cli.models.card import Card
from wsisum_cli.models.encoder import Encoder, load_encoder
from wsisum_cli.slides.source import sha256_of
from wsisum_cli.training import loop
from wsisum_cli.training.checkpoint import CHECKPOINT, read_checkpoint
from wsisum_cli.training.encoder.augment import Strength, draw_views, jitter_stains, lay
from wsisum_cli.training.encoder.network import Network, Pupil
from wsisum_cli.training.encoder.tiles import MPP, SIDE, Tiles, read_tiles
from wsisum_cli.training.encoder.train import (
    Settings,
    configuration,
    draw_rows,
    export_encoder,
    normalised,
    prefetch,
)

PUPIL = "pupil"  # the method, beside those of two views
BLOCK = 2048  # tiles between two words of progress
AT_ONCE = 64  # tiles laid before the teacher together
#: Views of a pupil show about as much of a tile as it will see of a slide, so that it learns of whole tiles. No layer
#: leaves out a row or a column of 40 n + 16 px.
VIEW, STRENGTH = 176, Strength(crop=(128, 288), stain=0.1, background=0.02, brightness=0.08)

#: Tiles that the teacher has seen, tiles in all.
Seen = Callable[[int, int], None]


@dataclass(frozen=True)
class Poses:
    """How each tile is laid before the teacher."""

    count: int = 8
    scales: tuple[float, float] = (0.75, 1.6)  # from and to, evenly in their logarithm; above 1 is magnified


@dataclass(frozen=True)
class TeachingSettings:
    """Who teaches, how, and what the pupil knows already."""

    teacher: Path  # an ONNX file with the card of a patch encoder
    start: Path | None = None  # run folder of `train encoder` whose network the pupil starts from; None: from nothing
    poses: Poses = field(default_factory=Poses)


def mean_over_poses(
    teacher: Encoder, pixels: npt.NDArray[np.uint8], poses: Poses, seed: int, workers: int = 2
) -> npt.NDArray[np.float32]:
    """Features (N, D) of tiles (N, 256, 256, 3) at 0.5 µm per px, at the size and mpp that the teacher takes.

    The turns of a tile follow from `seed` and its number alone.
    """
    scales = np.geomspace(*poses.scales, poses.count) * MPP / teacher.card.mpp

    def of_part(start: int) -> npt.NDArray[np.float32]:
        part = pixels[start : start + AT_ONCE]
        rngs = [np.random.default_rng((seed, start + row)) for row in range(len(part))]
        total = np.zeros((len(part), teacher.card.dims), np.float32)
        for scale in scales:
            laid = [lay(tile, teacher.card.patch_size, scale, rng) for tile, rng in zip(part, rngs, strict=True)]
            total += teacher(np.stack(laid))
        total /= poses.count
        return total

    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(of_part, range(0, len(pixels), AT_ONCE))))


def teaching_targets(
    teacher: Encoder, tiles: Tiles, poses: Poses, folder: Path, seen: Seen = lambda tiles, of: None
) -> npt.NDArray[np.float32]:
    """What the teacher makes of each tile (N, D), each feature standardised; kept in `folder`/lessons.npz.

    Raises ModelError when the teacher fails.
    """
    path, about = folder / "lessons.npz", _about(teacher.card, tiles, poses)
    # A file that cannot be read is as good as none.
    with suppress(OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile), np.load(path) as kept:
        if str(kept["about"]) == about:
            return np.asarray(kept["features"])
    parts = []
    for start in range(0, len(tiles.pixels), BLOCK):
        parts.append(mean_over_poses(teacher, tiles.pixels[start : start + BLOCK], poses, start))
        seen(min(start + BLOCK, len(tiles.pixels)), len(tiles.pixels))
    found = np.concatenate(parts)
    features: npt.NDArray[np.float32] = (found - found.mean(0)) / (found.std(0) + 1e-6)
    folder.mkdir(parents=True, exist_ok=True)
    waiting = folder / f"lessons.{os.getpid()}.part.npz"
    np.savez(waiting, features=features, about=np.array(about))
    os.replace(waiting, path)
    return features


def _about(card: Card, tiles: Tiles, poses: Poses) -> str:
    counts = np.bincount(tiles.slide, minlength=len(tiles.slides)).tolist()
    some = zlib.crc32(np.ascontiguousarray(tiles.pixels[:: max(1, len(tiles.pixels) // 64)]).tobytes())
    return json.dumps([card.sha256, dict(zip(tiles.slides, counts, strict=True)), some, poses.count, *poses.scales])


class TeachingTask:
    """Learning what the teacher makes of tiles (N, `dims`), which is set as `taught`, from one view of each."""

    monitor: str | None = None
    higher_is_better = True

    taught: npt.NDArray[np.float32]

    def __init__(self, tiles: Tiles, dims: int, settings: Settings) -> None:
        self.tiles, self.settings = tiles, settings
        torch.manual_seed(settings.seed)
        self.pupil = Pupil(Network(settings.fields), dims)
        self.module: nn.Module = self.pupil
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it

    def steps(self, processes: int) -> int:
        return self.settings.steps_an_epoch // processes

    def batches(self, epoch: int, process: int, processes: int) -> Iterator[Mapping[str, Tensor]]:
        """A view (B, S, S, 3) of each of B tiles, and what the teacher makes of it."""
        seeds = [(self.settings.seed, epoch, process, step) for step in range(self.steps(processes))]
        for views, taught in prefetch(self.draw, seeds):
            yield {"views": torch.from_numpy(views), "taught": torch.from_numpy(taught)}

    def draw(self, seed: tuple[int, ...]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        rng = np.random.default_rng(seed)
        rows = draw_rows(self.tiles, self.settings, rng)
        views = draw_views(self.tiles.pixels[rows], self.settings.side, self.settings.strength, rng)
        return jitter_stains(views, self.settings.strength, rng), self.taught[rows]

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor], share: float) -> Mapping[str, Tensor]:
        del share
        return {"loss": model(normalised(batch["views"]), batch["taught"])}

    def after_step(self, share: float) -> None:
        """Nothing follows the pupil."""

    def before_epoch(self, epoch: int) -> None:
        """Batches differ by epoch; nothing else does."""

    def evaluate(self) -> Mapping[str, float]:
        return {}


def start_from(network: Network, folder: Path) -> None:
    """Take over the network of an earlier run of `train encoder`. Raises UsageError, ModelError."""
    path = folder / CHECKPOINT
    if not path.is_file():
        raise UsageError(f"{folder.name}: expected the run folder of a trained encoder, found no {CHECKPOINT} in it")
    parts: Any = read_checkpoint(path)
    weights = parts.get("module") if isinstance(parts, dict) else None
    weights = weights if isinstance(weights, dict) else {}
    own = {name: value for name, value in weights.items() if name.startswith("network.")}
    try:
        network.load_state_dict({name.removeprefix("network."): value for name, value in own.items()})
    except RuntimeError as error:
        raise ModelError(
            f"{folder.name}: expected a run of `train encoder` by this version of wsisum, "
            "found a network of another shape; train it again, or start without one"
        ) from error


def train_pupil(
    sources: Sequence[Path],
    folder: Path,
    teaching: TeachingSettings,
    settings: Settings,
    training: loop.Settings,
    card: Mapping[str, Any],
    progress: loop.Progress = lambda epoch, epochs, metrics: None,
    seen: Seen = lambda tiles, of: None,
) -> Path | None:
    """Learn from a teacher on ZIP files of tiles and write `folder`/encoder.onnx, whose path is returned.

    Of `settings`, size and strength of the views are those of `VIEW` and `STRENGTH`. The rest is as of
    `train_encoder`. Raises UsageError, ModelError.
    """
    teacher = load_encoder(teaching.teacher, training.device)
    check_teacher(teacher.card)
    tiles, settings = read_tiles(sources), replace(settings, method=PUPIL, side=VIEW, strength=STRENGTH)
    check_batches(tiles, settings)
    task = TeachingTask(tiles, teacher.card.dims, settings)
    if teaching.start is not None:
        start_from(task.pupil.network, teaching.start)
    asked = configuration(tiles, settings, training) | {
        "teacher": {"name": teacher.card.name, "sha256": teacher.card.sha256, **asdict(teaching.poses)},
        "start_sha256": sha256_of(teaching.start / CHECKPOINT) if teaching.start is not None else None,
    }
    loop.check_configuration(folder, asked)  # before the teacher's long work
    task.taught = teaching_targets(teacher, tiles, teaching.poses, folder, seen)
    trained = loop.train(task, folder, training, asked, progress)
    if not trained.first_process:
        return None
    return export_encoder(task.pupil.network, tiles, settings.dims, folder / "encoder.onnx", card)


def check_batches(tiles: Tiles, settings: Settings) -> None:
    """Raises UsageError where a batch could be of one tile, from which nothing can be told apart."""
    fewest = np.sort(np.bincount(tiles.slide))[: settings.slides]
    if fewest.sum() < 2:
        raise UsageError(
            f"--slides {settings.slides}: expected batches of two tiles or more, found a slide of one tile; "
            "take more slides to a batch, or leave that slide out"
        )


def check_teacher(card: Card) -> None:
    """Raises UsageError where tiles of 256 px at 0.5 µm per px show too little of what the teacher looks at."""
    shown = card.patch_size * card.mpp / MPP
    if shown > 1.5 * SIDE:
        raise UsageError(
            f"teacher {card.name!r}: expected one whose patches show at most {1.5 * SIDE:.0f} px at {MPP} µm per px, "
            f"found {shown:.0f}; give another, or tiles are mostly their own mirror image"
        )
