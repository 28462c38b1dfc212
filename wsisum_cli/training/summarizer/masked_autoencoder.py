"""The summarizer's network: a masked autoencoder over the candidates of one slide.

It takes after WSISum (Medical Image Analysis 110:103970, 2026): a class token and the visible candidates pass an
encoder, a light decoder predicts the features of all candidates, and the class token gives the slide's embedding.
What differs:

- Positions are coordinates, not row numbers, and only distances between patches enter: turning, mirroring or
  moving the slide changes nothing.
- Any number of candidates, with a validity mask; the rest of a batch is padding, which nothing depends on.
- The decoder starts from interpolation. What a masked patch looks like is mostly told by the visible patches around
  it. Kernels over distance, of learned shapes, give weighted means of the visible features; each principal component
  of the features has gains of its own for each of them, as some tissue features are smooth over millimetres and
  others are not, and a slide moves these gains by how well each kernel predicts its visible patches from one another
  (kriging with a learned covariance, in other words). The transformer adds what interpolation cannot know, and
  starts from zero.
- Masked candidates attend to visible ones alone, never to each other: what is predicted for a place does not depend
  on which other places are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

#: The kernels at the start: powers of the inverse distance, then Gaussians, by their lengths in patch sides.
POWERS = (1.0, 2.0, 3.0)
LENGTHS = (1.5, 3.0, 6.0, 12.0, 24.0)
KERNELS = len(POWERS) + len(LENGTHS)
#: The kernels whose smoothed features the decoder's queries are made of: inverse square, and a Gaussian of 6.
FINE, COARSE = 1, 5
#: Added to distances, in patch sides: patches may overlap or coincide.
NEAREST = 0.25
#: Attention sees distance through bumps at 0, 1, 3, 7, ... 255 patch sides: log2(1 + distance) = 0 ... 8.
BUMPS = 9
#: Added to the logits of what must not be attended to; finite, so that a row without anything visible stays finite.
HIDDEN = -1e4


@dataclass(frozen=True)
class Sizes:
    """The sizes of the network."""

    dims: int  # D, of a patch feature
    embedding_dims: int  # E, of a slide embedding
    components: int = 64  # principal components of the features that the tokens are made of
    pooled: int = 64  # principal components of the visible mean that the embedding starts from
    width: int = 96
    depth: int = 2
    decoder_width: int = 64
    decoder_depth: int = 2
    heads: int = 4


class MaskedAutoencoder(nn.Module):
    """features (B, M, D), coords (B, M, 2), valid (B, M), kept (B, K) -> reconstruction (B, M, D), embedding (B, E).

    A kept row that is not valid is ignored.
    """

    mean: Tensor
    axes: Tensor
    spread: Tensor
    pooled_axes: Tensor
    target_mean: Tensor
    target_spread: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        components, pooled = min(sizes.components, sizes.dims), min(sizes.pooled, sizes.dims)
        width, light = sizes.width, sizes.decoder_width
        self.register_buffer("mean", torch.zeros(sizes.dims))
        self.register_buffer("axes", torch.eye(sizes.dims)[:, :components].contiguous())
        self.register_buffer("spread", torch.ones(components))
        #: Each divided by its spread.
        self.register_buffer("pooled_axes", torch.eye(sizes.dims)[:, :pooled].contiguous())
        self.register_buffer("target_mean", torch.zeros(sizes.embedding_dims))
        self.register_buffer("target_spread", torch.ones(()))
        self.interpolation = Interpolation(components)
        self.class_token = nn.Parameter(torch.randn(width) * 0.02)
        self.into_encoder = nn.Linear(components, width)
        self.mean_into_encoder = nn.Linear(components, width)
        self.encoder = nn.ModuleList(Block(width, sizes.heads) for _ in range(sizes.depth))
        self.encoder_norm = nn.LayerNorm(width)
        self.into_decoder = nn.Linear(width, light)
        self.query = nn.Linear(2 * components + len(LENGTHS), light)
        self.decoder = nn.ModuleList(Block(light, sizes.heads, across=True) for _ in range(sizes.decoder_depth))
        self.decoder_norm = nn.LayerNorm(light)
        self.out = zeroed(nn.Linear(light, components))
        self.pooled = zeroed(nn.Linear(pooled, sizes.embedding_dims))
        self.head = zeroed(nn.Linear(width, sizes.embedding_dims))

    def forward(self, features: Tensor, coords: Tensor, valid: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        coords = torch.where(valid.unsqueeze(-1), coords, torch.zeros_like(coords))
        seen = valid.gather(1, kept)
        rows = kept.unsqueeze(-1)
        places = coords.gather(1, rows.expand(-1, -1, 2))
        values = features.gather(1, rows.expand(-1, -1, features.shape[2]))
        values = torch.where(seen.unsqueeze(-1), values, self.mean.expand_as(values)) - self.mean
        average = values.sum(dim=1, keepdim=True) / seen.sum(dim=1).clamp(min=1).view(-1, 1, 1)
        deviations = torch.where(seen.unsqueeze(-1), values - average, torch.zeros_like(values))
        slide = (average @ self.axes / self.spread).squeeze(1)
        view = View(deviations, deviations @ self.axes / self.spread, places, HIDDEN * (~seen).to(features.dtype))
        encoded = self.encode(view, slide)
        pooled = self.pooled(average.squeeze(1) @ self.pooled_axes)
        embedding = self.target_mean + self.target_spread * (pooled + self.head(encoded[:, 0]))
        return self.mean + average + self.decode(coords, view, encoded), embedding

    def encode(self, view: View, slide: Tensor) -> Tensor:
        """(B, 1 + K, W): the class token, then the visible candidates."""
        first = (self.class_token + self.mean_into_encoder(slide)).unsqueeze(1)
        encoded = torch.cat([first, self.into_encoder(view.tokens)], dim=1)
        bumps = distance_bumps(squared_distances(view.places, view.places))
        bumps = functional.pad(bumps, (0, 0, 1, 0, 1, 0))  # the class token has no place
        hidden = functional.pad(view.hidden, (1, 0))[:, None, None]
        for block in self.encoder:
            encoded = block(encoded, encoded, bumps, hidden)
        found: Tensor = self.encoder_norm(encoded)
        return found

    def decode(self, coords: Tensor, view: View, encoded: Tensor) -> Tensor:
        """(B, M, D): by how much each candidate deviates from the visible mean."""
        squared = squared_distances(coords, view.places)
        interpolated, smooth = self.interpolation(squared, view, self.axes, self.spread)
        queries = torch.cat([smooth[:, FINE], smooth[:, COARSE], nearness(squared, view.hidden)], dim=-1)
        queries, memory = self.query(queries), self.into_decoder(encoded)
        bumps = functional.pad(distance_bumps(squared), (0, 0, 1, 0))
        hidden = functional.pad(view.hidden, (1, 0))[:, None, None]
        for block in self.decoder:
            queries = block(queries, memory, bumps, hidden)
        learned = self.out(self.decoder_norm(queries)) * self.spread
        found: Tensor = interpolated + learned @ self.axes.T
        return found


class View(NamedTuple):
    """The visible candidates of each slide, K of them; rows of padding are zero, and `hidden`."""

    deviations: Tensor  # (B, K, D) features, from their mean
    tokens: Tensor  # (B, K, C) the same as principal components, each divided by its spread
    places: Tensor  # (B, K, 2) in patch sides
    hidden: Tensor  # (B, K) 0, or HIDDEN for padding: what to add to the logits of attention


class Interpolation(nn.Module):
    """Weighted means of the visible features by learned kernels over distance, each with a gain.

    A weight falls as distance^-power · exp(-(distance / length)² / 2); those of a place sum to 1.
    """

    def __init__(self, components: int) -> None:
        super().__init__()
        self.powers = nn.Parameter(torch.tensor([*POWERS, *[0.0] * len(LENGTHS)]))
        self.log_lengths = nn.Parameter(torch.tensor([*[1e3] * len(POWERS), *LENGTHS]).log())
        #: Of each kernel; at first the inverse square distance alone.
        self.common = nn.Parameter(functional.one_hot(torch.tensor(FINE), KERNELS).float())
        #: What the gains of each component differ from the common ones by.
        self.special = nn.Parameter(torch.zeros(KERNELS, components))
        #: What those of a slide differ by, from how well each kernel predicts one visible patch from the others.
        self.adapt = nn.Sequential(
            nn.Linear(KERNELS * (KERNELS + 1), 64), nn.GELU(), zeroed(nn.Linear(64, KERNELS, bias=False))
        )

    def forward(self, squared: Tensor, view: View, axes: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, D) interpolated deviations, and (B, kernels, M, C) each kernel's components."""
        weights = self.weights(squared, view.hidden.unsqueeze(1))
        smooth = weights @ view.tokens.unsqueeze(1)
        gains = (self.common + self.adapt(self.mutual(view, spread))).view(-1, KERNELS, 1, 1)
        interpolated = (weights * gains).sum(dim=1) @ view.deviations
        special = (smooth * self.special.unsqueeze(1)).sum(dim=1) * spread
        return interpolated + special @ axes.T, smooth

    def weights(self, squared: Tensor, hidden: Tensor) -> Tensor:
        """(B, kernels, M, K) from squared distances (B, M, K) and what to add to the logits (B, M or 1, K)."""
        squared = squared.unsqueeze(1)
        power = self.powers.view(-1, 1, 1) / 2
        precision = torch.exp(-2 * self.log_lengths).view(-1, 1, 1) / 2
        logits = -power * torch.log(squared + NEAREST**2) - precision * squared
        return torch.softmax(logits + hidden.unsqueeze(1), dim=-1)

    def mutual(self, view: View, spread: Tensor) -> Tensor:
        """(B, kernels · (kernels + 1)): products of the kernels' predictions of each visible patch from the others.

        With the patches themselves, then with one another, as shares of the patches' own variance.
        """
        squared = squared_distances(view.places, view.places)
        hidden = view.hidden.unsqueeze(1) + HIDDEN * (squared == 0).to(squared.dtype)
        actual = view.tokens * spread
        shown = (view.hidden == 0).to(actual.dtype)[:, None, :, None]
        predicted = (self.weights(squared, hidden) @ actual.unsqueeze(1) * shown).flatten(2)
        actual = actual.flatten(1).unsqueeze(2)
        variance = (actual**2).sum(dim=1, keepdim=True) + 1e-6
        products = torch.cat([predicted @ actual, predicted @ predicted.transpose(1, 2)], dim=2)
        return (products / variance).flatten(1)


class Block(nn.Module):
    """A transformer block, pre-norm, whose attention adds a learned function of distance, one for each head."""

    def __init__(self, width: int, heads: int, across: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width) if across else None
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.by_distance = nn.Linear(BUMPS, heads, bias=False)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor, memory: Tensor, bumps: Tensor, hidden: Tensor) -> Tensor:
        """Tokens x (B, M, W) attend to memory (B, K, W); bumps (B, M, K, BUMPS); hidden (B, 1, 1, K)."""
        queries = self.norm(x)
        memory = queries if self.memory_norm is None else self.memory_norm(memory)
        query = split_heads(self.query(queries), self.heads)
        key, value = self.key_value(memory).chunk(2, dim=-1)
        key, value = split_heads(key, self.heads), split_heads(value, self.heads)
        logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        logits = logits + self.by_distance(bumps).permute(0, 3, 1, 2) + hidden
        mixed = torch.softmax(logits, dim=-1) @ value
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        added: Tensor = self.mlp(self.mlp_norm(x))
        return x + added


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, M, W) -> (B, heads, M, W / heads)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(B, M, K) from (B, M, 2) and (B, K, 2)."""
    return ((a.unsqueeze(2) - b.unsqueeze(1)) ** 2).sum(dim=-1)


def distance_bumps(squared: Tensor) -> Tensor:
    """(..., BUMPS): a distance as its nearness to each of `BUMPS` distances, on a logarithmic scale."""
    scale = torch.log2(1 + torch.sqrt(squared)).unsqueeze(-1)
    return torch.exp(-((scale - torch.arange(BUMPS, dtype=squared.dtype, device=squared.device)) ** 2))


def nearness(squared: Tensor, hidden: Tensor) -> Tensor:
    """(B, M, lengths): how much is visible around each place, on each length, as a logarithm."""
    shown = (hidden == 0).to(squared.dtype)[:, None, None]
    lengths = torch.tensor(LENGTHS, dtype=squared.dtype, device=squared.device).view(-1, 1, 1)
    near = (torch.exp(-squared.unsqueeze(1) / (2 * lengths**2)) * shown).sum(dim=-1)
    return torch.log(near + 1e-2).transpose(1, 2)


def zeroed(linear: nn.Linear) -> nn.Linear:
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear
