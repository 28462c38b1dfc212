"""Where the summarizer starts from: what can be computed of the training slides is not left to gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsisum_cli.training.data import TrainingSlide
from wsisum_cli.training.summarizer.masked_autoencoder import (
    KERNELS,
    Interpolation,
    MaskedAutoencoder,
    squared_distances,
)
from wsisum_cli.training.summarizer.masking import NO_PARTS, Masking, Parts, training_batch, visible_count

#: Patches of each slide that mean and principal components are found on.
SAMPLE = 500
#: Least spread of a component, as a share of the first one's: what hardly varies is not blown up.
FLOOR = 0.03
#: Draws, over all slides, that the gains are fitted to, and each slide gives at least one.
DRAWS = 64
#: How many slides the starting gains of a component weigh as much as: few slides hardly move them.
PRIOR_SLIDES = 30
#: What the ridge of the embedding is chosen from, as shares of the mean variance, by folds of slides.
RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
FOLDS = 5
#: Draws of each slide that the embedding is fitted to.
VIEWS = 4
#: The same of each part that has a target of its own.
PART_VIEWS = 2


def set_start(
    model: MaskedAutoencoder,
    slides: Sequence[TrainingSlide],
    targets: Sequence[np.ndarray | None],
    masking: Masking,
    seed: int,
    parts: Parts = NO_PARTS,
) -> None:
    """Fit the frame of the features, the gains of the interpolation and the pooled part of the embedding."""
    with torch.no_grad():
        set_frame(model, slides, targets, seed)
        set_gains(model, slides, masking, seed)
        set_pooled(model, slides, targets, masking, seed, parts)


def set_frame(
    model: MaskedAutoencoder, slides: Sequence[TrainingSlide], targets: Sequence[np.ndarray | None], seed: int
) -> None:
    """Mean, principal components and spread of patch features, each slide weighing the same; those of the targets."""
    rng = np.random.default_rng((seed, 1))
    dims = slides[0].features.shape[1]
    mean, products = np.zeros(dims), np.zeros((dims, dims))
    for slide in slides:
        rows = slide.features[rng.integers(len(slide.features), size=SAMPLE)].astype(np.float64)
        mean += rows.mean(axis=0) / len(slides)
        products += rows.T @ rows / (SAMPLE * len(slides))
    variances, axes = np.linalg.eigh(products - np.outer(mean, mean))
    axes, variances = axes[:, ::-1].copy(), variances[::-1]
    spread = np.sqrt(np.maximum(variances, FLOOR**2 * max(variances[0], 1e-12)))
    width, pooled = model.axes.shape[1], model.pooled_axes.shape[1]
    model.mean.copy_(torch.from_numpy(mean))
    model.axes.copy_(torch.from_numpy(axes[:, :width]))
    model.spread.copy_(torch.from_numpy(spread[:width]))
    model.pooled_axes.copy_(torch.from_numpy(axes[:, :pooled] / spread[:pooled]))
    known = np.stack([target for target in targets if target is not None]).astype(np.float64)
    model.target_mean.copy_(torch.from_numpy(known.mean(axis=0)))
    model.target_spread.fill_(max(float(known.std(axis=0).mean()), 1e-6))


def set_gains(model: MaskedAutoencoder, slides: Sequence[TrainingSlide], masking: Masking, seed: int) -> None:
    """Least squares of masked features on what the kernels predict, patches of all lengths weighing the same.

    First gains common to all components, then what each differs by, held back by a prior.
    """
    width = model.axes.shape[1]
    common = torch.zeros(KERNELS, KERNELS + 1, dtype=torch.float64)
    special = torch.zeros(width, KERNELS, KERNELS + 1, dtype=torch.float64)
    for number in range(-(-DRAWS // len(slides))):
        for i, slide in enumerate(slides):
            batch = training_batch([slide], [None], masking, (seed, 2, number, i))
            predicted, actual = predictions(model, batch)
            weight = 1 / (len(actual) * batch["features"][0, batch["masked"][0]].double().pow(2).sum(1) + 1e-12)
            both = torch.cat([predicted, actual.unsqueeze(0)])
            common += torch.einsum("knd,lnd,n->kl", predicted, both, weight)
            parts = both @ model.axes.double()
            special += torch.einsum("knc,lnc,n->ckl", parts[:-1], parts, weight)
    start = model.interpolation.common.double()
    gains = start + ridge(common[:, :-1], common[:, -1] - common[:, :-1] @ start, 1e-3)
    model.interpolation.common.copy_(gains)
    matrices, products = special[:, :, :-1], special[:, :, -1]
    excess = ridge(matrices, products - matrices @ gains, PRIOR_SLIDES / len(slides))
    model.interpolation.special.copy_(excess.T)


def predictions(model: MaskedAutoencoder, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Of one slide's masked patches (n, D) deviations as each kernel predicts them (kernels, n, D), and as they are."""
    kept, masked = batch["kept"][0], batch["masked"][0]
    features, coords = batch["features"][0].double(), batch["coords"][0]
    average = features[kept].mean(dim=0)
    squared = squared_distances(coords[masked][None], coords[kept][None])
    interpolation: Interpolation = model.interpolation
    weights = interpolation.weights(squared, torch.zeros(1, 1, len(kept)))[0].double()
    return weights @ (features[kept] - average), features[masked] - average


def ridge(matrices: Tensor, products: Tensor, strength: float) -> Tensor:
    """Solve (..., k, k) for (..., k), held to zero by `strength` times the mean of each diagonal."""
    diagonal = matrices.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
    solved: Tensor = torch.linalg.solve(matrices + (strength * diagonal + 1e-9) * eye, products.unsqueeze(-1))
    return solved.squeeze(-1)


def set_pooled(
    model: MaskedAutoencoder,
    slides: Sequence[TrainingSlide],
    targets: Sequence[np.ndarray | None],
    masking: Masking,
    seed: int,
    parts: Parts,
) -> None:
    """Ridge regression of the target on the mean of the visible features; its strength by leaving out cases.

    On parts of slides where there are some: many more targets than there are slides.
    """
    inputs, outputs, cases = [], [], []
    for i, (slide, target) in enumerate(zip(slides, targets, strict=True)):
        if slide.name in parts:
            pairs = part_means(slide, parts, masking, (seed, 12, i))
        else:
            pairs = [] if target is None else whole_means(slide, target, masking, (seed, 3), i)
        inputs += [average for average, _ in pairs]
        outputs += [aim for _, aim in pairs]
        cases += [slide.case] * len(pairs)
    x = (np.stack(inputs) - model.mean.double().numpy()) @ model.pooled_axes.double().numpy()
    y = (np.stack(outputs) - model.target_mean.double().numpy()) / float(model.target_spread)
    strength = choose_ridge(x, y, np.array(cases), seed)
    centre, offset = x.mean(axis=0), y.mean(axis=0)
    weights = fit_ridge(x - centre, y - offset, strength)
    model.pooled.weight.copy_(torch.from_numpy(weights.T))
    model.pooled.bias.copy_(torch.from_numpy(offset - centre @ weights))
    # Its ridge was chosen by leaving out cases; gradients would fit it to the training slides alone.
    model.pooled.requires_grad_(False)


def whole_means(
    slide: TrainingSlide, target: np.ndarray, masking: Masking, seed: tuple[int, int], row: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean visible features (D,) of random draws of the slide, each with its target (E,)."""
    batches = [training_batch([slide], [target], masking, (*seed, number, row)) for number in range(VIEWS)]
    return [(batch["features"][0, batch["kept"][0]].double().mean(dim=0).numpy(), target) for batch in batches]


def part_means(
    slide: TrainingSlide, parts: Parts, masking: Masking, seed: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean features (D,) of as many patches of each part as are visible at run time, each with its target (E,)."""
    rng = np.random.default_rng(seed)
    count = visible_count(masking.candidates, masking.mask_ratio)
    return [
        (slide.features[rng.permutation(part.rows)[:count]].mean(axis=0, dtype=np.float64), part.target)
        for part in parts[slide.name]
        for _ in range(PART_VIEWS)
    ]


def choose_ridge(x: np.ndarray, y: np.ndarray, cases: np.ndarray, seed: int) -> float:
    """The strength of least squared error on cases left out; the strongest where there are too few to tell."""
    names = np.random.default_rng((seed, 4)).permutation(np.unique(cases))
    if len(names) < 3:
        return RIDGES[-1]
    errors = dict.fromkeys(RIDGES, 0.0)
    for fold in np.array_split(names, min(FOLDS, len(names))):
        out = np.isin(cases, fold)
        centre, offset = x[~out].mean(axis=0), y[~out].mean(axis=0)
        for strength in RIDGES:
            weights = fit_ridge(x[~out] - centre, y[~out] - offset, strength)
            errors[strength] += float(((y[out] - offset - (x[out] - centre) @ weights) ** 2).sum())
    return min(errors, key=lambda strength: errors[strength])


def fit_ridge(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """(C, E) weights for centred x (n, C) and y (n, E)."""
    covariance = x.T @ x / len(x)
    penalty = strength * max(float(np.trace(covariance)) / len(covariance), 1e-12)
    return np.asarray(np.linalg.solve(covariance + penalty * np.eye(len(covariance)), x.T @ y / len(x)))
