"""Accuracy, macro-F1 and balanced accuracy, with intervals and paired differences."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from plankton_study.probes.intervals import Estimate, draw_weights, percentiles


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
    weights = draw_weights(groups, draws)
    values = scores(truth, predicted, weights, taxa)
    if minus is not None:
        others = scores(truth, minus, weights, taxa)
        values = {metric: values[metric] - others[metric] for metric in values}
    n = len(truth) if taxa is None else int(np.isin(truth, taxa).sum())
    is_difference = minus is not None
    return {metric: percentiles(value, n, is_difference) for metric, value in values.items()}
