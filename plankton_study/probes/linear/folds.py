"""LDA probes on folds: each image is scored by a probe that was not fitted to it."""

from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from plankton_study.features.bank import AnyBank
from plankton_study.features.interface import Cell
from plankton_study.probes import metrics
from plankton_study.probes.linear.lda import LdaPath, LdaScorer, sharpness
from plankton_study.probes.linear.scaling import ScaledFeatures, Scaler, fit_scaler
from plankton_study.run.schema import Probes

#: score and log share of a class without training images in a fold: it is never predicted there
ABSENT = np.float32(-np.inf)


class Fold(NamedTuple):
    """Rows on which a probe is fitted, and others that it then scores; both sorted."""

    train: np.ndarray
    held_out: np.ndarray


class HeldOut(NamedTuple):
    """The scores of all held-out images, in the order of the folds.

    Attributes:
        penalty: the penalty with the best score over all held-out images.
        score: that score, the profile's metric.
        sharpness: the factor of the scores that makes the images' classes most likely.
        probabilities: (n, K) float32, of the scores with that factor.
    """

    penalty: float
    score: float
    sharpness: float
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
    scores: dict[float, list[np.ndarray]] = {penalty: [] for penalty in penalties}
    log_shares = []
    for fold in folds:
        present, codes = np.unique(labels.codes(fold.train), return_inverse=True)
        scaler = fit_scaler(bank, cell, fold.train)
        path = LdaPath(ScaledFeatures(bank, cell, fold.train, scaler), codes)
        held_out = ScaledFeatures(bank, cell, fold.held_out, scaler)
        for penalty in penalties:
            own = path.scorer(penalty).scores(held_out)
            scores[penalty].append(_for_all_classes(own, present, len(labels.classes)))
        shares = np.tile(path.log_shares, (len(fold.held_out), 1))
        log_shares.append(_for_all_classes(shares, present, len(labels.classes)))
    joined = {penalty: np.concatenate(of_folds) for penalty, of_folds in scores.items()}
    return _best_of(joined, np.concatenate(log_shares), folds, labels, config.metric)


def _for_all_classes(values: np.ndarray, present: np.ndarray, classes: int) -> np.ndarray:
    """Return values (n, present) as (n, classes), with `ABSENT` for the other classes."""
    complete = np.full((len(values), classes), ABSENT)
    complete[:, present] = values
    return complete


def _best_of(
    scores: dict[float, np.ndarray],
    log_shares: np.ndarray,
    folds: list[Fold],
    labels: Labelled,
    metric: str,
) -> HeldOut:
    """Return the penalty whose probabilities name the images best.

    The scores are sharpened first, since the names depend on it: the less certain the scores, the
    more the shares of the classes count.
    """
    rows = np.concatenate([fold.held_out for fold in folds])
    truth, codes = labels.taxa[rows], labels.codes(rows)
    candidates = []
    for penalty, own in scores.items():
        factor = _sharpness_of(own, log_shares, codes)
        probabilities = softmax(np.float32(factor) * own + log_shares, axis=1)
        predicted = labels.classes[probabilities.argmax(axis=1)]
        score = metrics.scores(truth, predicted)[metric][0]
        candidates.append(HeldOut(penalty, float(score), factor, probabilities))
    return max(candidates, key=lambda candidate: candidate.score)


def _sharpness_of(scores: np.ndarray, log_shares: np.ndarray, codes: np.ndarray) -> float:
    """Return the factor of the scores that makes the held-out images' classes most likely.

    Images whose class had no training image in their fold say nothing about it, and are left out.

    Args:
        scores, log_shares: (n, K).
        codes: (n,) their classes.
    """
    is_possible = np.isfinite(scores[np.arange(len(codes)), codes])
    return sharpness(scores[is_possible], log_shares[is_possible], codes[is_possible])


def fit_on_all(
    bank: AnyBank, cell: Cell, rows: np.ndarray, labels: Labelled, penalty: float
) -> tuple[Scaler, LdaScorer]:
    """Fit LDA on all rows, among which every class is present."""
    scaler = fit_scaler(bank, cell, rows)
    path = LdaPath(ScaledFeatures(bank, cell, rows, scaler), labels.codes(rows))
    return scaler, path.scorer(penalty)
