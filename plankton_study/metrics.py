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

    `truth` and `predicted` are (n,) taxon names; `weights` (D, n) says how often each image counts, None once (D = 1).

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


def estimates(
    truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray, draws: int, minus: np.ndarray | None = None
) -> dict[str, Estimate]:
    """Return every metric with its 95 % percentile interval over resampled groups.

    With `minus`, other predictions of the same images, it is the paired difference: both see the same draws.
    """
    weights = np.vstack([np.ones(len(truth)), resample(groups, draws)])
    values = scores(truth, predicted, weights)
    if minus is not None:
        others = scores(truth, minus, weights)
        values = {key: values[key] - others[key] for key in values}
    bounds = {key: np.nanpercentile(v[1:], [2.5, 97.5]) for key, v in values.items()}
    return {key: Estimate(float(v[0]), *map(float, bounds[key]), len(truth)) for key, v in values.items()}
