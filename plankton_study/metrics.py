"""Accuracy, macro-F1 and balanced accuracy with bootstrap intervals, and paired differences."""

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A value with its 95 % interval and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int

    def text(self, scale: float = 100, digits: int = 1) -> str:
        """Return "52.1 [50.3, 53.9]", in percent unless told otherwise."""
        value, low, high = (f"{scale * x:.{digits}f}" for x in self[:3])
        return f"{value} [{low}, {high}]"


def scores(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return the metrics of D weightings of the same n predictions.

    Macro-F1 and balanced accuracy average over the taxa present in `truth`, so that a taxon absent from a test set
    neither helps nor harms; predictions of such taxa still count as errors.

    Args:
        truth, predicted: (n,) taxon names.
        weights: (D, n) how often each image counts; None means once each (D = 1).

    Returns:
        "accuracy", "macro_f1", "balanced_accuracy": (D,) float64 in [0, 1].
    """
    if weights is None:
        weights = np.ones((1, len(truth)))
    present, true = np.unique(truth, return_inverse=True)
    at = np.searchsorted(present, predicted).clip(max=len(present) - 1)
    guessed = np.where(present[at] == predicted, at, len(present))  # the last column: taxa absent from the truth
    columns = np.arange(len(present) + 1)
    is_true, is_guessed = true[:, None] == columns, guessed[:, None] == columns
    hits, support, named = (weights @ m.astype(float) for m in (is_true & is_guessed, is_true, is_guessed))
    hits, support, named = hits[:, :-1], support[:, :-1], named[:, :-1]
    with np.errstate(invalid="ignore", divide="ignore"):  # a taxon may be missing from a bootstrap draw
        f1, recall = 2 * hits / (support + named), hits / support
    f1[support == 0] = np.nan
    accuracy = hits.sum(axis=1) / support.sum(axis=1)
    return {"accuracy": accuracy, "macro_f1": np.nanmean(f1, axis=1), "balanced_accuracy": np.nanmean(recall, axis=1)}


def resample(groups: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Return bootstrap weights (draws, n) that take whole groups (days, samples or single images) with replacement."""
    _, codes = np.unique(groups, return_inverse=True)
    number = codes.max() + 1
    counts = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=draws)
    return counts[:, codes].astype(float)


def estimates(truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray, draws: int) -> dict[str, Estimate]:
    """Return every metric with its 95 % percentile interval over resampled groups."""
    values = scores(truth, predicted)
    spread = scores(truth, predicted, resample(groups, draws))
    return {key: Estimate(float(values[key][0]), *_bounds(spread[key]), len(truth)) for key in values}


def differences(
    truth: np.ndarray, first: np.ndarray, second: np.ndarray, groups: np.ndarray, draws: int
) -> dict[str, Estimate]:
    """Return metric(first) − metric(second) on the same images, with intervals from the same bootstrap draws."""
    weights = resample(groups, draws)
    values = [scores(truth, p) for p in (first, second)]
    spread = [scores(truth, p, weights) for p in (first, second)]
    return {
        key: Estimate(
            float(values[0][key][0] - values[1][key][0]), *_bounds(spread[0][key] - spread[1][key]), len(truth)
        )
        for key in values[0]
    }


def _bounds(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)
