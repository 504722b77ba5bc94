"""Accuracy, macro-F1 and balanced accuracy with bootstrap intervals, and paired differences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array


class Estimate(NamedTuple):
    """A value with its 95 % interval, the number of images behind it and, of a difference, its two-sided p."""

    value: float
    low: float
    high: float
    n: int
    p: float | None = None

    def text(self, scale: float = 100, digits: int = 1) -> str:
        """Return "52.1 [50.3, 53.9]", in percent unless told otherwise; a difference, "+2.1 [0.3, 3.9]"."""
        value, low, high = (f"{scale * x:.{digits}f}" for x in self[:3])
        return f"{'+' if self.p is not None and self.value > 0 else ''}{value} [{low}, {high}]"


def scores(
    truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None, taxa: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Return the metrics of D weightings of the same n predictions.

    Macro-F1 and balanced accuracy average over the taxa present in `truth`, so that a taxon absent from a test set
    neither helps nor harms; predictions of such taxa still count as errors.

    `truth` and `predicted` are (n,) taxon names; `weights` (D, n) says how often each image counts, None once (D = 1);
    `taxa` are those to judge, None all: accuracy is then the share of their images that is named right, and images of
    other taxa that are taken for them still count against their F1.

    Returns:
        "accuracy", "macro_f1", "balanced_accuracy": (D,) float64 in [0, 1].
    """
    if weights is None:
        weights = np.ones((1, len(truth)))
    present, true = np.unique(truth, return_inverse=True)
    at = np.searchsorted(present, predicted).clip(max=len(present) - 1)
    guessed = np.where(present[at] == predicted, at, len(present))  # the last column: taxa absent from the truth

    def total(column: np.ndarray, counts: np.ndarray) -> np.ndarray:  # (D, taxa)
        entries = counts.astype(float), column, np.arange(len(column) + 1)
        return (weights @ csr_array(entries, shape=(len(column), len(present) + 1)))[:, :-1]

    every = np.ones(len(truth), bool)
    hits, support, named = total(true, true == guessed), total(true, every), total(guessed, every)
    judged = (support > 0) & (np.isin(present, taxa) if taxa is not None else True)
    with np.errstate(invalid="ignore", divide="ignore"):  # a taxon may be missing from a bootstrap draw
        f1, recall = (np.where(judged, x, 0) for x in (2 * hits / (support + named), hits / support))
        number = judged.sum(axis=1)
        accuracy = (hits * judged).sum(axis=1) / (support * judged).sum(axis=1)
        means = {"macro_f1": f1.sum(axis=1) / number, "balanced_accuracy": recall.sum(axis=1) / number}
    return {"accuracy": accuracy, **means}


def resample(groups: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Return bootstrap weights (draws, n) that take whole groups (days, samples or single images) with replacement."""
    _, codes = np.unique(groups, return_inverse=True)
    number = codes.max() + 1
    counts = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=draws)
    return counts[:, codes].astype(float)


def estimates(
    truth: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    draws: int,
    minus: np.ndarray | None = None,
    taxa: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Return every metric with its 95 % percentile interval over resampled groups; `taxa` are those of `scores`.

    With `minus`, other predictions of the same images, it is the paired difference: both see the same draws, and
    p is twice the share of draws on the other side of zero, at least 2 / (draws + 1).
    """
    weights = np.vstack([np.ones(len(truth)), resample(groups, draws)])
    values = scores(truth, predicted, weights, taxa)
    if minus is not None:
        others = scores(truth, minus, weights, taxa)
        values = {key: values[key] - others[key] for key in values}
    number = len(truth) if taxa is None else int(np.isin(truth, taxa).sum())
    return {key: percentiles(each, number, minus is not None) for key, each in values.items()}


def percentiles(values: np.ndarray, n: int, paired: bool = False) -> Estimate:
    """Return the estimate of a value (the first of `values`) from its bootstrap draws (the rest); `paired` adds p."""
    value, drawn = values[0], values[1:]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    tail = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    p = min(2 * float(tail + 1) / (len(drawn) + 1), 1.0) if paired else None
    return Estimate(float(value), float(low), float(high), n, p)


def holm(p: Sequence[float]) -> np.ndarray:
    """Return p-values corrected for several comparisons (Holm 1979), in the order given."""
    order, p = np.argsort(p), np.asarray(p, dtype=float)
    steps = p[order] * np.arange(len(p), 0, -1)
    return np.maximum.accumulate(steps).clip(max=1)[np.argsort(order)]
