"""The network of the patch encoder, and three ways to learn it.

SimCLR (Chen et al., 2020) asks that two views of a tile agree and that views of different tiles do not; BYOL
(Grill et al., 2020) that one view foretells what a slowly moving copy of the network makes of the other; and a
`Pupil` learns what a teacher found in the tile (Hinton et al., 2015), told from what it found in others
(Tian et al., 2020).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

SMALL = 1e-6  # added to a variance before its root, whose slope at 0 has no bound


class Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut (He et al., 2016); `stride` 2 halves the map."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity(),
                nn.Conv2d(channels_in, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class Network(nn.Module):
    """Patches (B, 3, P, P), normalised -> the means (B, channels) over the maps of the last two stages.

    Plain convolutions rather than depthwise ones: they do more per second, in training and through ONNX Runtime.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 7, 5, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        before = (widths[0], *widths[:-1])
        self.stages = nn.ModuleList(
            Block(channels_in, channels, 1 if index == 0 else 2)
            for index, (channels_in, channels) in enumerate(zip(before, widths, strict=True))
        )
        self.channels = widths[-2] + widths[-1]

    @property
    def first(self) -> nn.Conv2d:
        """The convolution that sees the pixels."""
        convolution = self.stem[0]
        assert isinstance(convolution, nn.Conv2d)
        return convolution

    def maps(self, x: Tensor) -> list[Tensor]:
        """The maps (B, C, H, W) of the last two stages."""
        x = self.stem(x)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found[-2:]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([found.mean((2, 3)) for found in self.maps(x)], 1)


class Statistics(nn.Module):
    """Normalised patches -> mean and standard deviation over each map of the last two stages, (B, 2 channels)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        maps = [found.float() for found in self.network.maps(x)]
        means = [found.mean((2, 3)) for found in maps]
        spreads = [
            ((found - mean[:, :, None, None]) ** 2).mean((2, 3)) for found, mean in zip(maps, means, strict=True)
        ]
        return torch.cat([*means, *((spread + SMALL).sqrt() for spread in spreads)], 1)


def head(dims: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dims, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )


class SimClr(nn.Module):
    """Agreement of two views against all other views of the batch."""

    def __init__(self, network: Network, temperature: float = 0.1) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature
        self.project = head(network.channels, 512, 128)

    def forward(self, views: Tensor) -> Tensor:
        """`views` (2B, 3, S, S): the second views follow the first ones."""
        units = F.normalize(self.project(self.network(views)).float())
        logits = (units @ units.T).float() / self.temperature
        logits.fill_diagonal_(-torch.inf)
        other = torch.arange(len(views), device=views.device).roll(len(views) // 2)
        return F.cross_entropy(logits, other)


class Byol(nn.Module):
    """One view foretells what a slowly moving copy of the network makes of the other."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.project = head(network.channels, 512, 128)
        self.foretell = head(128, 512, 128)
        self.target = copy.deepcopy(nn.Sequential(self.network, self.project)).requires_grad_(False)

    def forward(self, views: Tensor) -> Tensor:
        foretold = self.foretell(self.project(self.network(views)))
        with torch.no_grad():
            seen = self.target(views).roll(len(views) // 2, 0)
        return 2 - 2 * F.cosine_similarity(foretold.float(), seen.float()).mean()


class Pupil(nn.Module):
    """Features of a view that are near what a teacher found in its tile, and far from what it found in others."""

    def __init__(self, network: Network, dims: int, temperature: float = 0.1) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature
        statistics = Statistics(network)
        self.features = nn.Sequential(
            statistics, nn.BatchNorm1d(2 * network.channels, affine=False), nn.Linear(2 * network.channels, dims)
        )

    def forward(self, views: Tensor, taught: Tensor) -> Tensor:
        """`views` (B, 3, S, S), `taught` (B, dims): the teacher's of each."""
        cosines = F.normalize(self.features(views).float()) @ F.normalize(taught).T
        own = torch.arange(len(views), device=views.device)
        return F.cross_entropy(cosines / self.temperature, own) + 2 * (1 - cosines.diagonal().mean())


@torch.no_grad()
def follow(learner: nn.Module, share: float) -> None:
    """Let BYOL's copy follow, ever more slowly. `share` of the training is done."""
    if isinstance(learner, Byol):
        momentum = 1 - 0.01 * (math.cos(math.pi * share) + 1) / 2
        online = [*learner.network.parameters(), *learner.project.parameters()]
        for theirs, ours in zip(learner.target.parameters(), online, strict=True):
            theirs.lerp_(ours, 1 - momentum)


METHODS: dict[str, Callable[[Network], SimClr | Byol]] = {"simclr": SimClr, "byol": Byol}
