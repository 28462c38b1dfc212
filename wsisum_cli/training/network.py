"""The network of the patch encoder, and three ways to learn it.

SimCLR (Chen et al., 2020) asks that two views of a tile agree and that views of different tiles do not; BYOL
(Grill et al., 2020) that one view foretells what a slowly moving copy of the network makes of the other; and a
`Pupil` learns what a teacher found in the tile (Hinton et al., 2015), told from what it found in others
(Tian et al., 2020). What is learned is the same for a patch turned by quarters or mirrored, see `symmetry`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from wsisum_cli.training.symmetry import Convolution, Fields, Norm

STEM_STRIDE = 5
SMALL = 1e-6  # added to a variance before its root, whose slope at 0 has no bound


class Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut (He et al., 2016); `stride` 2 halves the map."""

    def __init__(self, before: Fields, after: Fields, stride: int, padding: int) -> None:
        super().__init__()
        self.first = Convolution(before, after, 3, stride, padding)
        self.first_norm = Norm(after)
        self.second = Convolution(after, after, 3, padding=1)
        self.second_norm = Norm(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(3, stride, padding, count_include_pad=False) if stride > 1 else nn.Identity(),
                Convolution(before, after, 1),
                Norm(after),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(y)) + self.shortcut(x))


class Network(nn.Module):
    """Patches (B, 3, P, P), normalised -> statistics (B, channels) of the maps of the last two stages.

    Of each field its mean and its standard deviation over the map, and of each set of eight how far the means of its
    maps differ, which tells tissue that lies one way from tissue that lies any way. They are the same whichever way a
    patch of 256 px lies: every map of it, 51, 25, 13 and 7 px wide, lies evenly about its middle.

    Plain convolutions rather than depthwise ones: they do more per second, in training and through ONNX Runtime.
    """

    def __init__(self, fields: tuple[Fields, ...]) -> None:
        super().__init__()
        self.fields = fields
        self.stem = nn.Sequential(Convolution(Fields(3), fields[0], 6, STEM_STRIDE), Norm(fields[0]), nn.ReLU())
        before = (fields[0], *fields[:-1])
        self.stages = nn.ModuleList(
            Block(of_before, of_stage, 1 if index == 0 else 2, 0 if index == 1 else 1)
            for index, (of_before, of_stage) in enumerate(zip(before, fields, strict=True))
        )
        self.channels = sum(2 * stage.count + stage.regular for stage in fields[-2:])

    @property
    def first(self) -> nn.Conv2d:
        """The convolution that sees the pixels."""
        first = self.stem[0]
        assert isinstance(first, nn.Conv2d)
        return first

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        found: list[list[Tensor]] = []
        for stage, fields in zip(self.stages, self.fields, strict=True):
            x = stage(x)
            found.append(statistics(x.float(), fields))
        return torch.cat([part for parts in zip(*found[-2:], strict=True) for part in parts], 1)


def statistics(maps: Tensor, fields: Fields) -> list[Tensor]:
    """Maps (B, channels, H, W) -> mean and standard deviation of each field, and of the means of each set."""
    means = maps.mean((2, 3))
    variances = ((maps - means[:, :, None, None]) ** 2).mean((2, 3))
    turns = ((fields.sets(means) - fields.sets(means).mean(2, keepdim=True)) ** 2).mean(2)
    return [fields.means(means), (fields.means(variances) + SMALL).sqrt(), (turns + SMALL).sqrt()]


def head(dims: int, hidden: int, out: int) -> nn.Sequential:
    """Inputs that each count alike -> `out` numbers, by way of `hidden`."""
    return nn.Sequential(
        nn.BatchNorm1d(dims, affine=False),
        nn.Linear(dims, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out),
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
        self.features = nn.Sequential(
            network, nn.BatchNorm1d(network.channels, affine=False), nn.Linear(network.channels, dims)
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
