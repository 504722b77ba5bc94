"""Accuracy, macro-F1 and balanced accuracy with bootstrap intervals, and paired differences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

MINUS = "\N{MINUS SIGN}"


class Estimate(NamedTuple):
    """A value with its 95 % interval.

    Attributes:
        value, low, high: as shares of 1, for the metrics of this module.
        n: number of images that it is based on.
        p: the two-sided p-value of a difference; None for other values.
    """

    value: float
    low: float
    high: float
    n: int
    p: float | None = None

    @property
    def is_difference(self) -> bool:
        """Whether the value is a difference, which is shown with its sign."""
        return self.p is not None

    def text(self, scale: float = 100, digits: int = 1) -> str:
        """Return "52.1 [50.3, 53.9]", in percent by default; a difference as "+2.1 [0.3, 3.9]"."""
        if np.isnan(self.value):
            return "not defined"
        value = number_text(scale * self.value, digits)
        low = number_text(scale * self.low, digits)
        high = number_text(scale * self.high, digits)
        sign = "+" if self.is_difference and self.value > 0 else ""
        return f"{sign}{value} [{low}, {high}]"

    def __str__(self) -> str:
        return self.text()


class MeanWithError(NamedTuple):
    """A value, as a share of 1, with its standard error."""

    value: float
    error: float

    def text(self, scale: float = 100, digits: int = 1) -> str:
        """Return "61.0 ± 2.7", in percent by default."""
        value = number_text(scale * self.value, digits)
        return f"{value} ± {scale * self.error:.{digits}f}"

    def __str__(self) -> str:
        return self.text()


class Spread(NamedTuple):
    """Variation between training seeds: mean, minimum and maximum, as shares of 1."""

    value: float
    low: float
    high: float
    n: int  # number of seeds

    def text(self, scale: float = 100, digits: int = 1) -> str:
        """Return "42.0 (41.7 to 42.5)", in percent by default."""
        value = number_text(scale * self.value, digits)
        if self.n == 1:
            return f"{value} (one seed)"
        low = number_text(scale * self.low, digits)
        return f"{value} ({low} to {number_text(scale * self.high, digits)})"

    def __str__(self) -> str:
        return self.text()


def spread_of(values: Sequence[float]) -> Spread:
    """Return the spread of one score over training seeds."""
    values = np.asarray(values, dtype=float)
    return Spread(float(values.mean()), float(values.min()), float(values.max()), len(values))


def number_text(value: float, digits: int) -> str:
    """Return a number with a true minus sign, and never as minus zero."""
    return f"{value:z.{digits}f}".replace("-", MINUS)


def scores(
    truth: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray | None = None,
    taxa: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Return the metrics for D weightings of the same n predictions.

    Macro-F1 and balanced accuracy average over the taxa that are present in `truth`, so a taxon
    that is absent from a test set has no influence. Predictions of such a taxon still count as
    errors.

    Args:
        truth: (n,) taxon names.
        predicted: (n,) taxon names.
        weights: (D, n) how often each image counts; None: once (D = 1).
        taxa: the taxa to evaluate; None: all. Accuracy is then the share of their images that are
            predicted correctly. Images of other taxa that are predicted as one of them still lower
            its F1.

    Returns:
        "accuracy", "macro_f1" and "balanced_accuracy": (D,) float64 in [0, 1].
    """
    if weights is None:
        weights = np.ones((1, len(truth)))
    present, true_codes = np.unique(truth, return_inverse=True)
    predicted_codes = _codes_of(predicted, present)
    is_hit = true_codes == predicted_codes
    taxa_count = len(present)
    hits = _weighted_counts(weights, true_codes, is_hit, taxa_count)
    images = _weighted_counts(weights, true_codes, np.ones(len(truth), bool), taxa_count)
    predictions = _weighted_counts(weights, predicted_codes, np.ones(len(truth), bool), taxa_count)

    # a taxon may be missing from a bootstrap draw
    is_judged = images > 0
    if taxa is not None:
        is_judged = is_judged & np.isin(present, taxa)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(is_judged, 2 * hits / (images + predictions), 0)
        recall = np.where(is_judged, hits / images, 0)
        judged_taxa = is_judged.sum(axis=1)
        judged_images = (images * is_judged).sum(axis=1)
        return {
            "accuracy": (hits * is_judged).sum(axis=1) / judged_images,
            "macro_f1": f1.sum(axis=1) / judged_taxa,
            "balanced_accuracy": recall.sum(axis=1) / judged_taxa,
        }


def _codes_of(names: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the position of each name in the sorted `present`; len(present) for other names."""
    nearest = np.searchsorted(present, names).clip(max=len(present) - 1)
    return np.where(present[nearest] == names, nearest, len(present))


def _weighted_counts(
    weights: np.ndarray, codes: np.ndarray, counted: np.ndarray, taxa_count: int
) -> np.ndarray:
    """Return how many counted images have each code, (D, taxa), by a sparse product.

    The last code, which stands for names that are not present, is left out.
    """
    row_starts = np.arange(len(codes) + 1)
    entries = (counted.astype(float), codes, row_starts)
    membership = csr_array(entries, shape=(len(codes), taxa_count + 1))
    return (weights @ membership)[:, :-1]


def resample(groups: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Return bootstrap weights from resampling whole groups with replacement.

    Args:
        groups: (n,) codes of days, samples or single images.
        draws: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        (draws, n) float64, how often each image counts.
    """
    _, codes = np.unique(groups, return_inverse=True)
    number = codes.max() + 1
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(number, np.full(number, 1 / number), size=draws)
    return counts[:, codes].astype(float)


def estimates(
    truth: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    draws: int,
    minus: np.ndarray | None = None,
    taxa: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Return every metric with its 95 % percentile interval over resampled groups.

    Args:
        truth, predicted: (n,) taxon names.
        groups: (n,) codes of the groups that are resampled as a whole.
        draws: number of bootstrap draws.
        minus: other predictions for the same images. The results are then paired differences to
            them, over the same draws.
        taxa: the taxa to evaluate, see `scores`.
    """
    weights = np.vstack([np.ones(len(truth)), resample(groups, draws)])
    values = scores(truth, predicted, weights, taxa)
    if minus is not None:
        others = scores(truth, minus, weights, taxa)
        values = {metric: values[metric] - others[metric] for metric in values}
    n = len(truth) if taxa is None else int(np.isin(truth, taxa).sum())
    is_difference = minus is not None
    return {metric: percentiles(value, n, is_difference) for metric, value in values.items()}


def percentiles(values: np.ndarray, n: int, is_difference: bool = False) -> Estimate:
    """Return the estimate of a value from its bootstrap draws.

    Args:
        values: (1 + draws,) the value, then its draws.
        n: number of images that it is based on.
        is_difference: adds p, twice the share of draws on the other side of zero, which is at
            least 2 / (draws + 1).
    """
    value, draws = values[0], values[1:]
    low, high = np.nan, np.nan
    if not np.isnan(draws).all():
        low, high = np.nanpercentile(draws, [2.5, 97.5])
    p = None
    if is_difference:
        on_other_side = min(np.sum(draws <= 0), np.sum(draws >= 0))
        p = min(2 * float(on_other_side + 1) / (len(draws) + 1), 1.0)
    return Estimate(float(value), float(low), float(high), n, p)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values corrected for multiple comparisons (Holm 1979), in the given order."""
    from statsmodels.stats.multitest import multipletests

    if len(p_values) < 2:  # nothing to correct, and `multipletests` is slow (it calls gc.collect)
        return np.array(p_values, dtype=float)
    _, corrected, _, _ = multipletests(p_values, method="holm")
    return corrected
