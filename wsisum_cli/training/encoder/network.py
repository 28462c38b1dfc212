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

from wsisum_cli.training.encoder.symmetry import Convolution, FieldType, Norm

STEM_SIDE, STEM_STRIDE = 6, 5
#: Of the stages. A patch of 256 px has maps 51, 25, 13 and 7 px wide: no window leaves out a row or a column.
STRIDES, PADDINGS = (1, 2, 2, 2), (1, 0, 1, 1)
SMALL = 1e-6  # added to a variance before its root, whose slope at 0 has no bound


class Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut (He et al., 2016); `stride` 2 halves the map."""

    def __init__(self, before: FieldType, after: FieldType, stride: int, padding: int) -> None:
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
    """Patches (B, 3, P, P), normalised -> statistics (B, dims) of the maps of the last two stages.

    Of each field its mean and its standard deviation over the map, and of each set of eight how far the means of its
    maps differ, which tells tissue that lies one way from tissue that lies any way. They are the same whichever way a
    patch of 256 px lies, or one of 40 n + 16 px: all its maps lie evenly about its middle.

    Plain convolutions rather than depthwise ones: they do more per second, in training and through ONNX Runtime.
    """

    def __init__(self, fields: tuple[FieldType, ...]) -> None:
        super().__init__()
        self.fields = fields
        self.stem = nn.Sequential(
            Convolution(FieldType(3), fields[0], STEM_SIDE, STEM_STRIDE), Norm(fields[0]), nn.ReLU()
        )
        before = (fields[0], *fields[:-1])
        self.stages = nn.ModuleList(
            Block(*geometry) for geometry in zip(before, fields, STRIDES, PADDINGS, strict=True)
        )
        self.dims = sum(2 * stage.count + stage.regular for stage in fields[-2:])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        found = [statistics(x.float(), fields) for x, fields in zip(maps[-2:], self.fields[-2:], strict=True)]
        return torch.cat([part for of_stages in zip(*found, strict=True) for part in of_stages], 1)


def statistics(maps: Tensor, fields: FieldType) -> list[Tensor]:
    """Maps (B, channels, H, W) -> mean and standard deviation of each field, and of the means of each set."""
    means = maps.mean((2, 3))
    variances = ((maps - means[:, :, None, None]) ** 2).mean((2, 3))
    turns = ((fields.sets(means) - fields.sets(means).mean(2, keepdim=True)) ** 2).mean(2)
    return [fields.means(means), (fields.means(variances) + SMALL).sqrt(), (turns + SMALL).sqrt()]


def head(dims: int, hidden: int, out: int) -> nn.Sequential:
    """Inputs, standardised over the batch so that each counts alike -> `out` numbers, by way of `hidden`."""
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
        self.project = head(network.dims, 512, 128)

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
        self.project = head(network.dims, 512, 128)
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
            network, nn.BatchNorm1d(network.dims, affine=False), nn.Linear(network.dims, dims)
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
