"""A patch encoder learned from tiles without labels: from random views of them that must agree.

A batch holds many tiles of few slides, so that the stain of a slide does not tell its tiles from the others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from wsisum_cli.errors import UsageError
from wsisum_cli.training import loop
from wsisum_cli.training.encoder.augment import Strength, draw_views, jitter_stains
from wsisum_cli.training.encoder.network import METHODS, Network, follow
from wsisum_cli.training.encoder.symmetry import FieldType, settle
from wsisum_cli.training.encoder.tiles import MPP, SIDE, Tiles, read_tiles
from wsisum_cli.training.export import export_onnx

T = TypeVar("T")

MEAN, STD = (0.76, 0.60, 0.73), (0.17, 0.20, 0.16)  # of H&E tissue, R, G, B scaled to 0..1
SCALED_BY = 4096  # tiles that give the components
FIELDS = (FieldType(8, 3), FieldType(16, 6), FieldType(48, 10), FieldType(128, 16))  # 32, 64, 128 and 256 channels


@dataclass(frozen=True)
class Settings:
    """How an encoder is trained."""

    method: str = "simclr"  # or byol; of a run with a teacher, pupil
    steps_an_epoch: int = 100
    slides: int = 8  # of a batch
    tiles: int = 32  # of each of its slides
    side: int = 136  # px of a view; of 40 n + 16 no layer leaves out a row or a column
    seed: int = 0
    fields: tuple[FieldType, ...] = FIELDS
    dims: int = 384  # of the features
    strength: Strength = field(default_factory=Strength)


class EncoderTask:
    """Learning from views of tiles. An epoch is `steps_an_epoch` batches, each of a few slides."""

    monitor: str | None = None  # the last weights are kept; the measure below is watched, not chosen by
    higher_is_better = True

    def __init__(self, tiles: Tiles, settings: Settings, held_out: Tiles | None = None) -> None:
        self.tiles, self.settings, self.held_out = tiles, settings, held_out
        if settings.method not in METHODS:
            raise UsageError(f"method: expected one of {', '.join(METHODS)}, found {settings.method!r}")
        torch.manual_seed(settings.seed)
        self.module: nn.Module = METHODS[settings.method](Network(settings.fields))
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it

    @property
    def network(self) -> Network:
        network = self.module.network
        assert isinstance(network, Network)
        return network

    def steps(self, processes: int) -> int:
        return self.settings.steps_an_epoch // processes

    def batches(self, epoch: int, process: int, processes: int) -> Iterator[Mapping[str, Tensor]]:
        """Views (2B, S, S, 3) of B tiles, drawn two batches ahead."""
        seeds = [(self.settings.seed, epoch, process, step) for step in range(self.steps(processes))]
        for views in prefetch(lambda seed: draw_batch(self.tiles, self.settings, seed), seeds):
            yield {"views": torch.from_numpy(views)}

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor], share: float) -> Mapping[str, Tensor]:
        del share
        return {"loss": model(normalised(batch["views"]))}

    def after_step(self, share: float) -> None:
        follow(self.module, share)

    def before_epoch(self, epoch: int) -> None:
        """Batches differ by epoch; nothing else does."""

    def evaluate(self) -> Mapping[str, float]:
        """Of held-out tiles: the share whose nearest other view, among all of both views, is its own."""
        if self.held_out is None:
            return {}
        views = draw_batch(self.held_out, replace(self.settings, slides=len(self.held_out.slides)), (0,))
        units = F.normalize(standardised(embed(self.network, views)))
        cosines = units @ units.T
        cosines.fill_diagonal_(-1)
        own = torch.arange(len(views)).roll(len(views) // 2)
        return {"held_out_same_tile": float((cosines.argmax(1) == own).float().mean())}


def prefetch(draw: Callable[[tuple[int, ...]], T], seeds: Sequence[tuple[int, ...]]) -> Iterator[T]:
    """What `draw` makes of each seed, in order, two drawn in advance."""
    with ThreadPoolExecutor(2) as pool:
        drawn = [pool.submit(draw, seed) for seed in seeds[:3]]
        for following in range(3, 3 + len(seeds)):
            yield drawn.pop(0).result()
            if following < len(seeds):
                drawn.append(pool.submit(draw, seeds[following]))


def draw_rows(tiles: Tiles, settings: Settings, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows of the tiles of a batch, in order."""
    of_slide = [np.flatnonzero(tiles.slide == slide) for slide in range(len(tiles.slides))]
    chosen = rng.choice(len(of_slide), min(settings.slides, len(of_slide)), replace=False)
    rows = [rng.choice(of_slide[slide], min(settings.tiles, len(of_slide[slide])), False) for slide in chosen]
    return np.sort(np.concatenate(rows))


def draw_batch(tiles: Tiles, settings: Settings, seed: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Views (2B, S, S, 3): a first one of each of B tiles, then a second of each."""
    rng = np.random.default_rng(seed)
    pixels = tiles.pixels[draw_rows(tiles, settings, rng)]
    views = [draw_views(pixels, settings.side, settings.strength, rng) for _ in range(2)]
    return jitter_stains(np.concatenate(views), settings.strength, rng)


def normalised(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, channels last."""
    mean, std = (torch.tensor(values, device=pixels.device) * 255 for values in (MEAN, STD))
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2)


@torch.no_grad()
def embed(network: nn.Module, pixels: npt.NDArray[np.uint8], batch: int = 64) -> Tensor:
    """Features (N, dims) of tiles (N, H, W, 3), on the network's device."""
    device = next(network.parameters()).device
    parts = [torch.from_numpy(np.array(pixels[start : start + batch])) for start in range(0, len(pixels), batch)]
    return torch.cat([network(normalised(part.to(device))) for part in parts])


def standardised(features: Tensor) -> Tensor:
    return (features - features.mean(0)) / (features.std(0) + 1e-6)


class Encoder(nn.Module):
    """What is exported: uint8 patches (B, P, P, 3) -> features (B, dims), principal components of the statistics.

    The network computes what it did in training from pixels as they come: normalising and turning round interleaved
    pixels first took two fifths of the time that ONNX Runtime needs for a patch.
    """

    centre: Tensor
    axes: Tensor

    def __init__(self, network: Network, centre: Tensor, axes: Tensor) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        settle(self.network)
        stem = self.network.stem[0]
        assert type(stem) is nn.Conv2d
        self.network.stem[0] = of_interleaved(stem)
        self.register_buffer("centre", centre)
        self.register_buffer("axes", axes)

    def forward(self, patches: Tensor) -> Tensor:
        pixels = patches.flatten(2)[:, None].float()  # (B, 1, P, 3 P)
        features: Tensor = (self.network(pixels) - self.centre) @ self.axes
        return features


@torch.no_grad()
def of_interleaved(stem: nn.Conv2d) -> nn.Conv2d:
    """The same convolution of pixels 0..255 whose channels lie side by side in each row, as one channel (B, 1, P, 3 P).

    `STD` goes into the weights, `MEAN` into a bias, which it can as the stem sees nothing beyond the edge.
    """
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    (high, wide), (down, along) = stem.kernel_size, stem.stride
    weight = stem.weight / std
    flat = nn.Conv2d(1, stem.out_channels, (high, 3 * wide), (down, 3 * along))
    flat.weight.copy_(weight.permute(0, 2, 3, 1).reshape(flat.weight.shape))
    assert flat.bias is not None
    flat.bias.copy_(-(weight * mean).sum((1, 2, 3)))
    return flat


def finish_encoder(network: Network, tiles: Tiles, dims: int) -> Encoder:
    """The trained network and, of what it makes of tiles spread over all slides, the first `dims` components.

    Each statistic counts alike; components are brought towards equal variance by the root of theirs plus the mean
    variance, so that a few strong ones do not decide every cosine and the weakest are not blown up.
    """
    rows = np.linspace(0, len(tiles.pixels) - 1, min(SCALED_BY, len(tiles.pixels))).astype(np.int64)
    found = embed(network.eval(), tiles.pixels[rows]).double()
    centre, scale = found.mean(0), found.std(0) + 1e-5
    values, vectors = torch.linalg.eigh(torch.cov(((found - centre) / scale).T))
    values, vectors = values.flip(0)[:dims], vectors.flip(1)[:, :dims]
    vectors = vectors * torch.sign(vectors.sum(0))  # an eigenvector's sign is any
    axes = vectors / scale[:, None] / (values + values.mean()).sqrt()
    return Encoder(network, centre.float(), axes.float())


def train_encoder(
    sources: Sequence[Path],
    folder: Path,
    settings: Settings,
    training: loop.Settings,
    card: Mapping[str, Any],
    progress: loop.Progress = lambda epoch, epochs, metrics: None,
) -> Path | None:
    """Learn from ZIP files of tiles and write `folder`/encoder.onnx, whose path is returned.

    `card` holds what the card says beyond patch size, mpp and dims: name, version, licence, description. None under
    torchrun for all processes but the first, which writes. Raises UsageError, ModelError.
    """
    tiles = read_tiles(sources)
    task = EncoderTask(tiles, settings)
    trained = loop.train(task, folder, training, configuration(tiles, settings, training), progress)
    if not trained.first_process:
        return None
    return export_encoder(task.network, tiles, settings.dims, folder / "encoder.onnx", card)


def configuration(tiles: Tiles, settings: Settings, training: loop.Settings) -> dict[str, Any]:
    """What configuration.json says of a run, JSON-able."""
    return {
        "encoder": asdict(settings),
        "training": {key: value for key, value in asdict(training).items() if key != "device"},
        "tiles": {name: int(count) for name, count in zip(tiles.slides, np.bincount(tiles.slide), strict=True)},
    }


def export_encoder(network: Network, tiles: Tiles, dims: int, path: Path, card: Mapping[str, Any]) -> Path:
    """Raises ModelError, and writes nothing, when ONNX Runtime does not compute what torch computes."""
    encoder = finish_encoder(network, tiles, dims)
    examples = [{"patches": torch.from_numpy(np.array(tiles.pixels[:count]))} for count in (2, 5, 1)]
    measures = {"kind": "encoder", "patch_size": SIDE, "mpp": MPP, "mpp_tolerance": 0.1, "dims": encoder.axes.shape[1]}
    export_onnx(encoder, examples, ["features"], {"patches": {0: "batch"}}, {**card, **measures}, path)
    return path
