"""Attention-based multiple instance learning (ABMIL): bags of patch features go in, class probabilities come out.

A small version of gated attention (Ilse, Tomczak and Welling, Attention-based deep multiple instance learning, ICML
2018). The logarithm of each patch's share is added to its attention logit, so that a patch that represents ten counts
like ten equal patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsisum_cli.errors import ModelError
from wsisum_cli.evaluation.arms import Bag
from wsisum_cli.training.loop import parameter_groups, rate

Probabilities = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

WARMUP, CLIP = 0.05, 1.0
#: Average patches per bag below which more threads only wait for each other.
FEW_PATCHES = 1_024


@dataclass(frozen=True)
class Settings:
    """Training settings. The number of epochs is fixed: few patients leave no data for early stopping."""

    epochs: int = 30
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 8  # bags
    hidden: int = 128
    attention: int = 64
    dropout: float = 0.25


@dataclass(frozen=True)
class Batch:
    """Concatenated bags: `features` (M, D), logarithms `logs` (M,) of their shares, and the `sizes` of the bags."""

    features: Tensor
    logs: Tensor
    sizes: list[int]


class GatedAttention(nn.Module):
    """Standardises features by `mean` and `spread` (D,), pools them by attention, and classifies."""

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Tensor, spread: Tensor, classes: int, settings: Settings) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.embed = nn.Sequential(nn.Linear(len(mean), settings.hidden), nn.ReLU(), nn.Dropout(settings.dropout))
        self.value = nn.Linear(settings.hidden, settings.attention)
        self.gate = nn.Linear(settings.hidden, settings.attention)
        self.score = nn.Linear(settings.attention, 1)
        self.classify = nn.Linear(settings.hidden, classes)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, C) of the bags."""
        embedded = self.embed((batch.features - self.mean) / self.spread)
        gated = torch.tanh(self.value(embedded)) * torch.sigmoid(self.gate(embedded))
        logits = self.score(gated)[:, 0] + batch.logs
        pooled = [
            torch.softmax(of_bag, dim=0) @ rows
            for of_bag, rows in zip(logits.split(batch.sizes), embedded.split(batch.sizes), strict=True)
        ]
        found: Tensor = self.classify(torch.stack(pooled))
        return found


def train_abmil(
    bags: Sequence[Bag], labels: Labels, settings: Settings, seed: int, device: torch.device
) -> GatedAttention:
    """Train on labels (S,) 0..C-1, which must include every class; classes weigh the same. Deterministic by seed.

    Raises ModelError when the loss is not finite.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), few_threads(bags):
        torch.manual_seed(seed)
        classes = int(labels.max()) + 1
        network = GatedAttention(*_spread(bags), classes, settings).to(device).train()
        times = torch.bincount(torch.from_numpy(labels), minlength=classes)
        criterion = nn.CrossEntropyLoss(weight=(len(labels) / (classes * times)).float().to(device))
        optimizer = torch.optim.AdamW(parameter_groups(network, settings.weight_decay), settings.learning_rate)
        steps = -(-len(bags) // settings.batch) * settings.epochs
        step = 0
        for _ in range(settings.epochs):
            for rows in torch.split(torch.randperm(len(bags)), settings.batch):
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * rate(step / steps, WARMUP)
                logits = network(_batch([bags[row] for row in rows.tolist()], device))
                loss = criterion(logits, torch.from_numpy(labels)[rows].to(device))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), CLIP)
                optimizer.step()
                step += 1
    if not torch.isfinite(loss):
        raise ModelError("the loss of the attention network is not finite; are the features very large?")
    return network.eval()


def classify(network: GatedAttention, bags: Sequence[Bag], settings: Settings) -> Probabilities:
    """Class probabilities (S, C) of the bags."""
    device = network.mean.device
    with torch.no_grad(), few_threads(bags):
        logits = [
            network(_batch(bags[start : start + settings.batch], device))
            for start in range(0, len(bags), settings.batch)
        ]
    return np.asarray(torch.softmax(torch.cat(logits).double(), dim=1).cpu().numpy(), np.float64)


@contextmanager
def few_threads(bags: Sequence[Bag]) -> Iterator[None]:
    """Limit torch to one thread if bags are small."""
    before = torch.get_num_threads()
    if sum(len(bag.features) for bag in bags) < FEW_PATCHES * len(bags):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batch(bags: Sequence[Bag], device: torch.device) -> Batch:
    logs = np.concatenate([np.log(bag.shares) for bag in bags]).astype(np.float32)
    features = torch.from_numpy(np.concatenate([bag.features for bag in bags]))
    return Batch(features.to(device), torch.from_numpy(logs).to(device), [len(bag.features) for bag in bags])


def _spread(bags: Sequence[Bag]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of the patches, with equal weight per slide."""
    mean = np.mean([bag.shares @ bag.features for bag in bags], axis=0)
    variance = np.mean([bag.shares @ (bag.features - mean) ** 2 for bag in bags], axis=0)
    spread = np.sqrt(np.maximum(variance, 1e-12))
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(spread.astype(np.float32))
