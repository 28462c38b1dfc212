"""The slide encoder as it is exported: all patches of a slide in, its embedding and prototypes out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsisum_cli.training.slide_encoder.prototypes import find_prototypes
from wsisum_cli.training.slide_encoder.region_encoder import RegionEncoder
from wsisum_cli.training.slide_encoder.regions import SLACK

#: What the graph gives, (E,), (P, width), shares of the tissue (P,), and what share each patch has in the regions (N,).
OUTPUTS = ("embedding", "prototypes", "prototype_weights", "attention")
#: Columns of patches that a slide has at most.
COLUMNS = 2**24


@dataclass(frozen=True)
class Layout:
    """Which patches of a slide share a cell, which cells a region. All index by row, cells and regions row by row."""

    cell: Tensor  # (N,) cell of each patch
    patches: Tensor  # (C,) float32, patches in each cell
    region: Tensor  # (C,) region of each cell
    slot: Tensor  # (C,) place of each cell among those of its region
    at: Tensor  # (R, S) cells of each region; where there are fewer than S, any
    present: Tensor  # (R, S) bool, whether there is such a cell
    positions: Tensor  # (C,) row in the region times side, plus column


def lay_out(coords: Tensor, side: int) -> Layout:
    """Regions of patches at (N, 2) coords in patch sides; the grid begins where the patches do."""
    at = torch.floor(coords - coords.amin(dim=0) + SLACK).long()
    place = at % side  # remainders alone: whole numbers are exported to be divided as floats, which are too short
    corner, area = at - place, side * side
    key = (corner[:, 1] * COLUMNS + corner[:, 0]) * area + place[:, 1] * side + place[:, 0]
    cells, cell, patches = torch.unique(key, return_inverse=True, return_counts=True)
    positions = cells % area
    _, region, counts = torch.unique(cells - positions, return_inverse=True, return_counts=True)
    start = counts.cumsum(0) - counts
    slots = torch.arange(counts.max(), device=coords.device)
    return Layout(
        cell=cell,
        patches=patches.float(),
        region=region,
        slot=torch.arange(cells.shape[0], device=coords.device) - start[region],
        at=(start[:, None] + slots).clamp(max=cells.shape[0] - 1),
        present=slots < counts[:, None],
        positions=positions,
    )


class SlideEncoder(nn.Module):
    """Features (N, D) and coords (N, 2) in patch sides to the slide's embedding (E,) and prototypes.

    The embedding is a unit vector that joins two: the mean of the region embeddings, less that of the training slides,
    and the mean of the whitened patch features; each of the same length.
    """

    centre: Tensor

    def __init__(self, regions: RegionEncoder, prototypes: int) -> None:
        super().__init__()
        self.regions, self.prototypes = regions, prototypes
        self.register_buffer("centre", torch.zeros(regions.sizes.width))

    @property
    def embedding_dims(self) -> int:
        return self.regions.sizes.width + self.regions.sizes.components

    def forward(self, features: Tensor, coords: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `OUTPUTS` says; `prototype_weights` and `attention` each add up to 1."""
        layout = lay_out(coords, self.regions.sizes.side)
        embedded, shares = self.regions.pool(
            self.cell_tokens(features, layout)[layout.at], layout.positions[layout.at], layout.present
        )
        weights = (layout.patches[layout.at] * layout.present).sum(dim=1) / layout.patches.sum()
        centres, prototype_weights, _ = find_prototypes(embedded, weights, self.prototypes)
        embedding = self.join(mean_of(embedded, weights), self.regions.whitened(features).mean(dim=0))
        cell_shares = shares[layout.region, layout.slot] * weights[layout.region] / layout.patches
        return embedding, centres, prototype_weights, cell_shares[layout.cell]

    def join(self, regions: Tensor, patches: Tensor) -> Tensor:
        """Mean region embedding (width,) and mean whitened features (components,) to one unit vector."""
        parts = [functional.normalize(regions - self.centre, dim=0), functional.normalize(patches, dim=0)]
        return functional.normalize(torch.cat(parts), dim=0)

    def cell_tokens(self, features: Tensor, layout: Layout) -> Tensor:
        """(C, width): patches embedded, and averaged where they share a cell."""
        tokens = self.regions.embed(features)
        sums = tokens.new_zeros(layout.patches.shape[0], tokens.shape[1])
        sums = sums.scatter_add(0, layout.cell[:, None].expand(-1, tokens.shape[1]), tokens)
        return sums / layout.patches[:, None]


def mean_of(embedded: Tensor, weights: Tensor) -> Tensor:
    """(width,) of region embeddings (R, width) with weights (R,) that add up to 1."""
    return (embedded * weights[:, None]).sum(dim=0)
