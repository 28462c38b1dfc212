"""The checkpoint that WSISum's authors publish, made a summarizer of this package.

WSISum's model is a masked autoencoder (He et al., 2022) over the features of 500 candidates of a slide instead of the
patches of an image. A candidate's position is the number of its row; the class token's way through encoder *and*
decoder gives the slide embedding, distilled from slide foundation models. Here is the layout of the parameters that
its training saves, and a module that computes the same for any number of candidates, in the way in which this
package's summarizers are called.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsisum_cli.errors import ModelError
from wsisum_cli.models.card import SUMMARIZER, Fields, parse_summarizer_card
from wsisum_cli.training.export import export_onnx
from wsisum_cli.training.summarizer.published import PUBLISHED, Sizes, check_layout, read_checkpoint, sizes_of

#: What it was trained with: candidates of a slide, and the share of them that is masked.
CANDIDATES, MASK_RATIO = 500, 0.875
#: Width of an attention head. No shape tells it; each of the authors' configurations has this one.
HEAD_DIMS = 64
NORM_EPS = 1e-6
LICENCE = "none stated by the authors"

# ---------------------------------------------------------------------------------------------- the module


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_DIMS
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        """Tokens (B, T, width) look at those that are there (B, T)."""
        triple = self.qkv(tokens).unflatten(-1, (3, self.heads, HEAD_DIMS)).permute(2, 0, 3, 1, 4)
        query, key, value = triple[0], triple[1], triple[2]
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None, :])
        mixed: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return mixed


class _Block(nn.Module):
    def __init__(self, width: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=NORM_EPS), nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = _Attention(width)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, mlp_ratio * width), "fc2": nn.Linear(mlp_ratio * width, width)}
        )

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), there)
        deeper: Tensor = self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(tokens))))
        return tokens + deeper


class _Transformer(nn.Module):
    def __init__(self, width: int, depth: int, mlp_ratio: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, there)
        normed: Tensor = self.norm(tokens)
        return normed


class _Encoder(_Transformer):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes.width, sizes.depth, sizes.mlp_ratio)
        self.cls_token = nn.Parameter(torch.empty(1, 1, sizes.width))


class _Decoder(_Transformer):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes.decoder_width, sizes.decoder_depth, sizes.mlp_ratio)
        self.head = nn.Linear(sizes.decoder_width, sizes.width)

    def forward(self, tokens: Tensor, there: Tensor) -> Tensor:
        features: Tensor = self.head(super().forward(tokens, there))
        return features


class WSISum(nn.Module):
    """The published masked autoencoder, called as a summarizer. Its parameters are not initialised.

    Positions are row numbers, as in training; `coords` is there for the sake of the interface and changes
    nothing. Rows that are not valid are seen by no token.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = _Encoder(sizes)
        self.encoder_to_decoder = nn.Linear(sizes.width, sizes.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, sizes.decoder_width))
        self.decoder = _Decoder(sizes)

    def forward(self, features: Tensor, coords: Tensor, valid: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction (B, candidates, D) and slide embedding (B, D).

        `features` (B, candidates, D), `valid` (B, candidates) and `kept` (B, kept), rows of candidates. Only the
        masked rows of the reconstruction were trained; they are raw features, not normalised ones.
        """
        batch, candidates, _ = features.shape
        rows = kept[:, :, None]
        class_there = torch.ones_like(valid[:, :1])
        # That the zeros take their shape from the coords keeps these among the inputs of an exported graph.
        features = torch.where(valid[:, :, None], features, torch.zeros_like(coords[:, :, :1]))

        positions = sinusoids(candidates + 1, self.sizes.width, features.device)
        visible = (features + positions[1:]).gather(1, rows.expand(-1, -1, self.sizes.width))
        class_token = (self.encoder.cls_token + positions[:1]).expand(batch, -1, -1)
        there = torch.cat([class_there, valid.gather(1, kept)], 1)
        encoded = self.encoder_to_decoder(self.encoder(torch.cat([class_token, visible], 1), there))

        masked = self.mask_token.expand(batch, candidates, -1)
        tokens = masked.scatter(1, rows.expand(-1, -1, self.sizes.decoder_width), encoded[:, 1:])
        tokens = torch.cat([encoded[:, :1], tokens], 1)
        tokens = tokens + sinusoids(candidates + 1, self.sizes.decoder_width, features.device)
        decoded = self.decoder(tokens, torch.cat([class_there, valid], 1))
        return decoded[:, 1:], decoded[:, 0]


def sinusoids(count: int, width: int, device: torch.device) -> Tensor:
    """Position encodings (count, width) of 0, 1, ..: sine and cosine by turns (Vaswani et al., 2017).

    In float64 until the end: the graph computes them itself, so that any number of rows has one.
    """
    dim = torch.arange(width, dtype=torch.float64)
    frequency = (10000.0 ** (-2 * (dim // 2) / width)).to(device)
    phase = (dim % 2 * (math.pi / 2)).to(device)
    position = torch.arange(count, dtype=torch.float64, device=device)
    return torch.sin(position[:, None] * frequency + phase).to(torch.float32)


# ---------------------------------------------------------------------------------------------- the import


def load_wsisum(checkpoint: Path, dims: int = PUBLISHED.width) -> WSISum:
    """The module with a checkpoint's parameters, for features of `dims`, in eval mode.

    Raises ModelError when the file is no checkpoint, holds foreign pickles, or has another layout than the
    published one.
    """
    parameters = read_checkpoint(checkpoint)
    sizes = sizes_of(parameters)
    check_layout(parameters, sizes, checkpoint.name)
    if sizes.width != dims:
        raise ModelError(
            f"{checkpoint.name}: expected a model of features of {dims} dims, found {sizes.width}; "
            f"give the dims of the features that it was trained on (--dims {sizes.width})"
        )
    if sizes.width % HEAD_DIMS or sizes.decoder_width % HEAD_DIMS:
        raise ModelError(
            f"{checkpoint.name}: expected widths that are multiples of the {HEAD_DIMS} dims of an attention head, "
            f"found {sizes.width} and {sizes.decoder_width}; give a checkpoint of the authors' configurations"
        )
    module = WSISum(sizes)
    module.load_state_dict(_joined_biases(parameters))
    return module.eval()


def _joined_biases(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters that the module uses, each block's biases of queries and values in one."""
    joined = {name: value for name, value in parameters.items() if not name.startswith("encoder.patch_embed.")}
    for name in [name for name in joined if name.endswith(".attn.q_bias")]:
        query, value = joined.pop(name), joined.pop(name.replace("q_bias", "v_bias"))
        joined[name.replace("q_bias", "qkv.bias")] = torch.cat([query, torch.zeros_like(query), value])
    return joined


@dataclass(frozen=True)
class Imported:
    """What became of a checkpoint."""

    sizes: Sizes
    #: Largest absolute difference between torch and ONNX Runtime on seeded examples.
    difference: float


def import_wsisum(
    checkpoint: Path,
    path: Path,
    dims: int = PUBLISHED.width,
    name: str = "wsisum",
    licence: str = LICENCE,
    encoder: str = "",
) -> Imported:
    """Write the authors' weights as a summarizer, an ONNX file with a card.

    `encoder` names the encoder whose features they were trained on, "" any of `dims`. Raises ModelError as
    `load_wsisum` does, for a card without name or licence, and when torch and ONNX Runtime disagree; then nothing is
    written.
    """
    module = load_wsisum(checkpoint, dims)
    card = {**_card(module.sizes, checkpoint), "name": name, "licence": licence, "encoder": encoder}
    parse_summarizer_card(Fields(path.name, card, "correct what the command was given"), "")
    both: Mapping[int, str] = {0: "batch", 1: "candidates"}
    dynamic = {
        **dict.fromkeys(("features", "coords", "valid", "reconstruction"), both),
        "kept": {0: "batch", 1: "kept"},
        "embedding": {0: "batch"},
    }
    examples = [
        _example(dims, batch=2, candidates=12, kept=4, invalid=2),
        _example(dims, batch=1, candidates=CANDIDATES, kept=CANDIDATES // 8 + 1, invalid=0),
        _example(dims, batch=3, candidates=40, kept=1, invalid=25),
    ]
    difference = export_onnx(module, examples, ("reconstruction", "embedding"), dynamic, card, path)
    return Imported(module.sizes, difference)


def _card(sizes: Sizes, checkpoint: Path) -> dict[str, str | int | float]:
    """What the file itself says; name, licence and encoder are for others to say."""
    with checkpoint.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "version": "1",
        "kind": SUMMARIZER,
        "dims": sizes.width,
        "embedding_dims": sizes.width,
        "encoder_sha256": "",
        "candidates": CANDIDATES,
        "mask_ratio": MASK_RATIO,
        "description": f"WSISum's masked autoencoder, {sizes}, its authors' weights (checkpoint sha256 {sha256}). "
        "Positions are row numbers: give the candidates in the order of the slide's patches; coords change nothing.",
    }


def _example(dims: int, batch: int, candidates: int, kept: int, invalid: int) -> dict[str, Tensor]:
    """Seeded inputs; the last `invalid` candidates are none."""
    generator = torch.Generator().manual_seed(candidates)
    valid = torch.ones(batch, candidates, dtype=torch.bool)
    valid[:, candidates - invalid :] = False
    drawn = [torch.randperm(candidates - invalid, generator=generator)[:kept] for _ in range(batch)]
    return {
        "features": torch.randn(batch, candidates, dims, generator=generator),
        "coords": torch.rand(batch, candidates, 2, generator=generator) * 100,
        "valid": valid,
        "kept": torch.stack(drawn).sort(1).values,
    }
