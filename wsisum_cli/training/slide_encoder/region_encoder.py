"""The region encoder.

A region is a square of up to 16 x 16 patches. A small transformer sees its patches' features and places, and pools
them by attention into one unit vector, as the region-level ViT of HIPT and SLPD does with its class token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Sizes:
    """Of a region encoder: depth in blocks, side in patches."""

    dims: int  # of a patch feature
    components: int  # of it that are looked at
    width: int = 128
    depth: int = 2
    heads: int = 2
    side: int = 16


class Block(nn.Module):
    """Attention, then a perceptron, each normalised first and added (Vaswani et al., 2017; Xiong et al., 2020)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.perceptron_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens (B, S, width); those not `present` (B, S) are not looked at."""
        each = self.queries_keys_values(self.attention_norm(tokens))
        queries, keys, values = each.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # torch's own attention asks whether there is one token, which an exported graph cannot know
        likeness = queries @ keys.transpose(2, 3) * (queries.shape[-1] ** -0.5)
        seen = likeness.masked_fill(~present[:, None, None], -1e9).softmax(dim=-1) @ values
        tokens = tokens + self.joined(seen.transpose(1, 2).flatten(2))
        return torch.add(tokens, self.perceptron(self.perceptron_norm(tokens)))


class RegionEncoder(nn.Module):
    """Patch features and their places in a region to one unit vector."""

    mean: Tensor
    axes: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.register_buffer("mean", torch.zeros(sizes.dims))
        self.register_buffer("axes", torch.eye(sizes.dims, sizes.components))
        self.embedding = nn.Linear(sizes.components, sizes.width)
        self.places = nn.Parameter(0.2 * sine_places(sizes.side, sizes.width))
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width)
        self.score = nn.Linear(sizes.width, 1)

    @torch.no_grad()
    def whiten(self, mean: np.ndarray, axes: np.ndarray) -> None:
        """Take the mean (D,) of the patch features, and axes (D, components) along which they vary by 1."""
        self.mean.copy_(torch.from_numpy(mean))
        self.axes.copy_(torch.from_numpy(axes))

    def whitened(self, features: Tensor) -> Tensor:
        """(..., components) of features (..., D)."""
        return torch.matmul(features - self.mean, self.axes)

    def embed(self, features: Tensor) -> Tensor:
        """Features (..., D) whitened and embedded, (..., width); affine, so that means may follow it."""
        embedded: Tensor = self.embedding(self.whitened(features))
        return embedded

    def pool(self, tokens: Tensor, positions: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Region embeddings (B, width), unit vectors, and the shares (B, S) that the tokens have in them.

        Of embedded tokens (B, S, width), positions (B, S) int64 (row times side plus column), present (B, S) bool.
        """
        tokens = tokens + self.places[positions]
        for block in self.blocks:
            tokens = block(tokens, present)
        tokens = self.norm(tokens)
        shares = self.score(tokens).squeeze(-1).masked_fill(~present, -1e9).softmax(dim=1)
        return functional.normalize((shares[..., None] * tokens).sum(dim=1), dim=1), shares

    def forward(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        """Region embeddings (B, width) of patch features (B, S, D)."""
        return self.pool(self.embed(features), positions, present)[0]


def sine_places(side: int, width: int) -> Tensor:
    """(side², width) sines and cosines of row and column, in wavelengths from 4 patches to 4 sides."""
    turns = torch.arange(side)[:, None] * torch.logspace(0, math.log10(1 / side), width // 4) * (math.tau / 4)
    axis = torch.cat([turns.sin(), turns.cos()], dim=1)
    rows, columns = axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
