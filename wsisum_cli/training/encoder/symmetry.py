"""Layers equivariant to quarter turns and mirroring: where the patch is turned, their maps are turned with it.

They are group convolutions of the group p4m (Cohen and Welling, 2016; for pathology Veeling et al., 2018). There are
eight ways a patch may lie. Of the maps of a layer some are *invariant*: they are turned with the patch and do not
otherwise change. The others come in *regular* sets of eight, one for each way a filter may lie: they are turned with
the patch and change places. Filters are tied so that every layer keeps to this. It costs nothing once training has
ended, for the tied filters are then written out (`settle`).

The eight ways are numbered 4 m + r: mirrored left to right m times, then turned anticlockwise by r quarters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

WAYS = 8
MIRRORED = [4 * (1 - m) + -r % 4 for m in range(2) for r in range(4)]  # what each way becomes when mirrored
TURNED = [4 * m + (r + 1) % 4 for m in range(2) for r in range(4)]  # and when turned by a quarter


@dataclass(frozen=True)
class FieldType:
    """The maps of a layer: `invariant` ones first, then `regular` sets of eight."""

    invariant: int
    regular: int = 0

    @property
    def channels(self) -> int:
        return self.invariant + WAYS * self.regular

    @property
    def count(self) -> int:
        return self.invariant + self.regular

    def sets(self, values: Tensor) -> Tensor:
        """Values of channels (B, channels) -> (B, regular, 8)."""
        return torch.unflatten(values[:, self.invariant :], 1, (self.regular, WAYS))

    def means(self, values: Tensor) -> Tensor:
        """Values of channels (B, channels) -> of fields (B, count): the mean of each set."""
        return torch.cat([values[:, : self.invariant], self.sets(values).mean(2)], 1)

    def spread(self, values: Tensor) -> Tensor:
        """Values of fields (count,) -> of channels (channels,)."""
        return torch.cat([values[: self.invariant], values[self.invariant :].repeat_interleave(WAYS)])

    def moved(self, became: list[int]) -> Tensor:
        """For each channel, the one whose map is found there once way k has become `became[k]`."""
        came_from = torch.argsort(torch.tensor(became))
        sets = self.invariant + WAYS * torch.arange(self.regular)[:, None] + came_from
        return torch.cat([torch.arange(self.invariant), sets.flatten()])


class Convolution(nn.Conv2d):
    """From maps of the fields `before` to maps of the fields `after`, without a bias.

    `weight` is free; what is convolved with is `tied()`.
    """

    #: (2, channels): for each channel the one that takes its place, when mirrored and when turned.
    places_out: Tensor
    places_in: Tensor

    def __init__(self, before: FieldType, after: FieldType, side: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(before.channels, after.channels, side, stride, padding, bias=False)
        self.side, self.step, self.border = side, stride, padding  # as numbers, where torch has pairs or words
        for name, fields in (("places_out", after), ("places_in", before)):
            places = torch.stack([fields.moved(MIRRORED), fields.moved(TURNED)])
            self.register_buffer(name, places, persistent=False)
        with torch.no_grad():  # a mean of eight is smaller than one: let filters begin as large as others do
            self.weight.mul_(self.weight.std() / self.tied().std())

    def tied(self) -> Tensor:
        """The filters nearest to `weight` that keep to the fields whichever way a patch lies.

        That is their mean over the eight ways, made in three steps: with the mirrored, the turned, the upside-down.
        """
        filters = self.weight
        filters = (filters + self._mirrored(filters)) / 2
        filters = (filters + self._turned(filters)) / 2
        return (filters + self._turned(self._turned(filters))) / 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.tied(), None, self.step, self.border)

    def settled(self) -> nn.Conv2d:
        plain = nn.Conv2d(self.in_channels, self.out_channels, self.side, self.step, self.border, bias=False)
        plain.weight.copy_(self.tied())
        return plain

    def _mirrored(self, filters: Tensor) -> Tensor:
        return filters[self.places_out[0]][:, self.places_in[0]].flip(3)

    def _turned(self, filters: Tensor) -> Tensor:
        return filters[self.places_out[1]][:, self.places_in[1]].rot90(1, (2, 3))


class Norm(nn.BatchNorm2d):
    """Batch normalisation; the maps of a set share scale and shift, and in evaluation the running mean and variance."""

    def __init__(self, fields: FieldType) -> None:
        super().__init__(fields.channels)
        self.fields = fields
        self.weight, self.bias = nn.Parameter(torch.ones(fields.count)), nn.Parameter(torch.zeros(fields.count))

    def forward(self, x: Tensor) -> Tensor:
        # Batches lie every way: while training, the maps of a set have much the same mean and variance by themselves.
        running = (self.running_mean, self.running_var) if self.training else self._shared()
        scale, shift = self.fields.spread(self.weight), self.fields.spread(self.bias)
        assert self.momentum is not None
        return F.batch_norm(x, *running, scale, shift, self.training, self.momentum, self.eps)

    def settled(self) -> nn.BatchNorm2d:
        plain = nn.BatchNorm2d(self.num_features, self.eps)
        shared = (*self._shared(), self.fields.spread(self.weight), self.fields.spread(self.bias))
        for own, value in zip((plain.running_mean, plain.running_var, plain.weight, plain.bias), shared, strict=True):
            assert own is not None
            own.copy_(value)
        return plain.eval()

    def _shared(self) -> tuple[Tensor, Tensor]:
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = self.fields.means(torch.stack([self.running_mean, self.running_var]))
        return self.fields.spread(mean), self.fields.spread(var)


@torch.no_grad()
def settle(module: nn.Module) -> None:
    """Put plain layers that do the same in the place of those above; there is no learning from here on."""
    for name, layer in module.named_children():
        if isinstance(layer, Convolution | Norm):
            setattr(module, name, layer.settled())
        else:
            settle(layer)
