"""What a monitoring programme asks of a classifier: honest probabilities, unknown taxa, abundances."""

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from plankton_study import diffusion, train
from plankton_study.splits import Splits
from plankton_study.study import Study


def temper(chances: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities (n, K) whose log odds are divided by a temperature (Guo et al. 2017)."""
    return softmax(np.log(chances.clip(1e-12)) / temperature, axis=1)


def fit_temperature(chances: np.ndarray, codes: np.ndarray) -> float:
    """Return the temperature under which probabilities (n, K) of validation images give their `codes` (n,) best."""
    own = np.arange(len(codes)), codes

    def surprise(log_temperature: float) -> float:
        return -np.log(temper(chances, np.exp(log_temperature))[own]).mean()

    return float(np.exp(minimize_scalar(surprise, bounds=(-2, 3), method="bounded").x))


def calibration_error(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray, bins: int = 15) -> np.ndarray:
    """Return the expected calibration error, (D,) for D `weights` (D, n) of images: |accuracy - confidence|, binned.

    `confidence` (n,) is the largest probability, `right` (n,) bool; bins hold equally many images.
    """
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    member = np.searchsorted(edges, confidence)[:, None] == np.arange(bins)
    return np.abs(weights @ (member * (right - confidence)[:, None])).sum(axis=1) / weights.sum(axis=1)


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and risk, (n,) each: the share of wrong answers among the most confident images."""
    order = np.argsort(-confidence, kind="stable")
    number = np.arange(1, len(order) + 1)
    return number / len(order), np.cumsum(~right[order]) / number


def novelty(x: np.ndarray, codes: np.ndarray, z: np.ndarray, chances: np.ndarray) -> dict[str, np.ndarray]:
    """Score how little images look like the known taxa: the larger, the more novel.

    Args:
        x: (n, C) standardised features of training images of the classes `codes` (n,).
        z: (m, C) those of the images to score; `chances` (m, K) what the probe says of them.

    Returns:
        Name → (m,): 1 - largest probability; mean distance to the 5 nearest training images; and squared Mahalanobis
        distance to the nearest class mean, with one shrunken covariance for all (Lee et al. 2018).
    """
    means = np.array([x[codes == code].mean(axis=0) for code in np.unique(codes)])
    precision = LedoitWolf(assume_centered=True).fit(x - means[codes]).precision_
    turn = np.linalg.cholesky(precision)
    nearest, _ = NearestNeighbors(n_neighbors=1).fit(means @ turn).kneighbors(z @ turn)
    neighbours, _ = NearestNeighbors(n_neighbors=min(5, len(x))).fit(x).kneighbors(z)
    scores = {"maximum softmax": 1 - chances.max(axis=1), "k-NN distance": neighbours.mean(axis=1)}
    return scores | {"Mahalanobis": nearest[:, 0] ** 2}


def denoising_error(study: Study, splits: Splits, rows: np.ndarray, levels: int = 5) -> np.ndarray:
    """Return the diffusion model's own surprise (n,): its loss, mean over evenly spread timesteps, at one noise."""
    unet, scheduler = diffusion.load(diffusion.denoiser(study, splits), study.profile.images.size, study.device)
    shape = (1, unet.config.in_channels, *splits.collection.images.shape[1:])
    noise, found = torch.randn(shape, generator=torch.Generator().manual_seed(study.seed)), []
    for part in np.split(rows, range(1024, len(rows), 1024)):
        x = train.to_model(splits.collection.images[part], study.device).expand(-1, shape[1], -1, -1)
        losses = diffusion.losses_by_level(unet, scheduler, x, noise, study.profile.features.precision, levels)
        found.append(losses.mean(axis=1).to_numpy())
    return np.concatenate(found)


def abundances(chances: np.ndarray, known: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Estimate the share of each of K classes among images, by three methods (quapy).

    Args:
        chances: (n, K) probabilities of the images to count.
        known: (m, K) probabilities of validation images, of the classes `codes` (m,).

    Returns:
        Method → (K,): "classify and count"; "adjusted count", corrected by the confusions among validation images
        (Forman 2008); "EM", the mix under which the probabilities agree with themselves (Saerens et al. 2002).
    """
    from quapy.method.aggregative import ACC, EMQ

    classes = np.arange(chances.shape[1])
    counted = np.bincount(chances.argmax(axis=1), minlength=len(classes)) / len(chances)
    rates = ACC.getPteCondEstim(classes, codes, known.argmax(axis=1))
    adjusted = ACC.solve_adjustment(rates, counted, method="inversion", solver="minimize")
    # from the shares that the probabilities themselves imply at home: from the training shares, with which those of a
    # weak probe do not quite agree, EM runs away to the rare classes
    mixed, _ = EMQ.EM(known.mean(axis=0), chances)
    return {"classify and count": counted, "adjusted count": adjusted, "EM": mixed}
