"""LDA probes on folds: each image is scored by a probe that was not fitted to it."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from plankton_study.features.bank import AnyBank
from plankton_study.features.interface import Cell
from plankton_study.probes import metrics
from plankton_study.probes.linear.lda import (
    LOG_SHARPNESS,
    LdaPath,
    LdaScorer,
    best_penalty,
    spread,
)
from plankton_study.probes.linear.scaling import ScaledFeatures, Scaler, fit_scaler
from plankton_study.run.schema import Probes

#: logit and log share of a class without training images in a fold: it is never predicted there
ABSENT = np.float32(-np.inf)
#: factors and doubts from which the fit of a calibration starts
STARTS = ((1.0, 0.2), (5.0, 0.2))
#: a probability below this counts as this much, so that its logarithm is finite
SMALLEST_CHANCE = 1e-12


class Fold(NamedTuple):
    """Rows on which a probe is fitted, and others that it then scores; both sorted."""

    train: np.ndarray
    held_out: np.ndarray


class Calibration(NamedTuple):
    """How logits become probabilities: (1 - doubt) softmax(sharpness · logits) + doubt · shares.

    Where there are many features and few images, some images are named wrongly with great
    certainty. Sharpness alone would have to make all images uncertain for the sake of these few.
    The doubt allows for them: with this probability, an image's features tell nothing about its
    class (after the model for contaminated data of Copas 1988). Of uncertain images, the commonest
    class then becomes the most probable one.

    Attributes:
        sharpness: the factor of the logits.
        doubt: between 0 and 1.
    """

    sharpness: float
    doubt: float

    def probabilities(self, logits: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return probabilities (n, K) float32 of logits (n, K) and shares (n, K) or (K,)."""
        chances = softmax(np.float32(self.sharpness) * logits, axis=1)
        return self.with_doubt(chances, shares)

    def with_doubt(self, chances: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return chances (n, K), the softmax of sharpened logits, mixed with the shares."""
        doubt = np.float32(self.doubt)
        return (1 - doubt) * chances + doubt * shares


class HeldOut(NamedTuple):
    """The scores of all held-out images, in the order of the folds.

    Attributes:
        penalty: the one whose logits name the images best.
        score: that of the calibrated names, the profile's metric.
        calibration: what makes the images' classes most likely.
        probabilities: (n, K) float32, calibrated.
    """

    penalty: float
    score: float
    calibration: Calibration
    probabilities: np.ndarray


class Labelled(NamedTuple):
    """The labels of a collection: its classes (K,), sorted, and the name of each row (N,)."""

    classes: np.ndarray
    taxa: np.ndarray

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions of the rows' names in `classes`."""
        return np.searchsorted(self.classes, self.taxa[rows])


def score_held_out(
    bank: AnyBank, cell: Cell, folds: list[Fold], labels: Labelled, config: Probes
) -> HeldOut:
    """Fit LDA on the training rows of each fold, and score its held-out rows.

    Args:
        bank, cell: the features.
        folds: no two hold the same row out.
        labels: of these rows.
        config: provides the penalties, and the metric that selects one of them. Of equally good
            penalties it is the largest.
    """
    penalties = sorted(config.penalties, reverse=True)
    logits: dict[float, list[np.ndarray]] = {penalty: [] for penalty in penalties}
    shares = []
    for fold in folds:
        present, codes = np.unique(labels.codes(fold.train), return_inverse=True)
        scaler = fit_scaler(bank, cell, fold.train)
        path = LdaPath(ScaledFeatures(bank, cell, fold.train, scaler), codes)
        held_out = ScaledFeatures(bank, cell, fold.held_out, scaler)
        for penalty in penalties:
            own = path.scorer(penalty).logits(held_out)
            logits[penalty].append(_for_all_classes(own, present, len(labels.classes)))
        log_shares = np.tile(path.log_shares, (len(fold.held_out), 1))
        shares.append(np.exp(_for_all_classes(log_shares, present, len(labels.classes))))
    joined = {penalty: np.concatenate(of_folds) for penalty, of_folds in logits.items()}
    rows = np.concatenate([fold.held_out for fold in folds])
    return _best_of(joined, np.concatenate(shares), rows, labels, config.metric)


def _for_all_classes(values: np.ndarray, present: np.ndarray, classes: int) -> np.ndarray:
    """Return values (n, present) as (n, classes), with `ABSENT` for the other classes."""
    complete = np.full((len(values), classes), ABSENT)
    complete[:, present] = values
    return complete


def _best_of(
    logits: dict[float, np.ndarray],
    shares: np.ndarray,
    rows: np.ndarray,
    labels: Labelled,
    metric: str,
) -> HeldOut:
    """Return the penalty whose logits name the images best, and its calibrated probabilities."""
    truth, codes = labels.taxa[rows], labels.codes(rows)
    predicted = {penalty: labels.classes[own.argmax(axis=1)] for penalty, own in logits.items()}
    penalty = best_penalty(predicted, truth, metric)
    calibration = calibrate(logits[penalty], shares, codes)
    probabilities = calibration.probabilities(logits[penalty], shares)
    named = labels.classes[probabilities.argmax(axis=1)]
    score = metrics.scores(truth, named)[metric][0]
    return HeldOut(penalty, float(score), calibration, probabilities)


def calibrate(logits: np.ndarray, shares: np.ndarray, codes: np.ndarray) -> Calibration:
    """Return the calibration that makes the held-out images' classes most likely.

    Images whose class had no training image in their fold say nothing about it, and are left out.

    Args:
        logits: (n, K) of images that the probe was not fitted to; `ABSENT` for the classes without
            training images.
        shares: (n, K) of the classes among the training images, 0 for these classes.
        codes: (n,) the classes of the images.
    """
    is_known = np.isfinite(logits[np.arange(len(codes)), codes])
    logits, shares, codes = logits[is_known].astype(np.float64), shares[is_known], codes[is_known]
    finite = np.where(np.isfinite(logits), logits, 0)
    unit = spread(logits)
    own = np.arange(len(codes)), codes

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean negative log-likelihood, and its slopes."""
        factor, doubt = np.exp(values[0]) / unit, values[1]
        chances = softmax(factor * logits, axis=1)
        likelihood = (1 - doubt) * chances[own] + doubt * shares[own]
        likelihood = likelihood.clip(SMALLEST_CHANCE)
        surprise = finite[own] - (chances * finite).sum(axis=1)
        by_factor = (1 - doubt) * chances[own] * factor * surprise / likelihood
        by_doubt = (shares[own] - chances[own]) / likelihood
        return -np.log(likelihood).mean(), -np.array([by_factor.mean(), by_doubt.mean()])

    fits = [
        minimize(
            loss,
            (np.log(factor), doubt),
            jac=True,
            bounds=(LOG_SHARPNESS, (0, 1)),
            method="L-BFGS-B",
        )
        for factor, doubt in STARTS
    ]
    log_factor, doubt = min(fits, key=lambda fit: fit.fun).x
    return Calibration(float(np.exp(log_factor) / unit), float(doubt))


def fit_on_all(
    bank: AnyBank, cell: Cell, rows: np.ndarray, labels: Labelled, penalty: float
) -> tuple[Scaler, LdaScorer]:
    """Fit LDA on all rows, among which every class is present."""
    scaler = fit_scaler(bank, cell, rows)
    path = LdaPath(ScaledFeatures(bank, cell, rows, scaler), labels.codes(rows))
    return scaler, path.scorer(penalty)
