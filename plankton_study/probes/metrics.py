"""Accuracy, macro-F1 and balanced accuracy, with intervals and paired differences."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from plankton_study.probes.intervals import Estimate, Units, draw_weights, percentiles

#: key of a metric that a profile may choose → its name in tables
METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


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


def drawn_scores(
    truth: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray,
    taxa: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Return the metrics and their bootstrap draws, also over several draws of labels.

    Args:
        truth: (n,) taxon names.
        predicted: (n,) taxon names; or (L, n), predictions of probes that were trained on L random
            draws of labels.
        weights: (1 + draws, n) from `draw_weights`.
        taxa: the taxa to evaluate, see `scores`.

    Returns:
        Metric → (1 + draws,). The first value is the mean over the draws of labels. Each bootstrap
        draw is a mean over draws of labels as well, which are resampled too. So the interval is
        that of the mean, and includes how much it depends on which images were labelled.
    """
    of_labels = np.atleast_2d(predicted)
    each = [scores(truth, taxa_of_draw, weights, taxa) for taxa_of_draw in of_labels]
    times = _label_weights(len(of_labels), len(weights) - 1)
    return {
        metric: (times * np.stack([values[metric] for values in each], axis=1)).sum(axis=1)
        for metric in each[0]
    }


def _label_weights(label_draws: int, draws: int) -> np.ndarray:
    """Return how much each of L draws of labels counts, (1 + draws, L); each row adds up to 1.

    A bootstrap draw takes L - 1 of them with replacement: with L, the variance of their mean would
    be too small by the factor (L - 1) / L (Rao and Wu 1988).
    """
    first = np.full((1, label_draws), 1 / label_draws)
    taken = max(label_draws - 1, 1)
    rng = np.random.default_rng(2)
    chance = np.full(label_draws, 1 / label_draws)
    return np.vstack([first, rng.multinomial(taken, chance, size=draws) / taken])


def estimates(
    truth: np.ndarray,
    predicted: np.ndarray,
    units: Units,
    draws: int,
    minus: np.ndarray | None = None,
    taxa: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Return every metric with its 95 % percentile interval over resampled images.

    Args:
        truth: (n,) taxon names.
        predicted: (n,) or (L, n) taxon names, see `drawn_scores`.
        units: what a bootstrap draw resamples.
        draws: number of bootstrap draws.
        minus: other predictions for the same images. The results are then paired differences to
            them, over the same draws.
        taxa: the taxa to evaluate, see `scores`.
    """
    weights = draw_weights(units, draws)
    values = drawn_scores(truth, predicted, weights, taxa)
    if minus is not None:
        others = drawn_scores(truth, minus, weights, taxa)
        values = {metric: values[metric] - others[metric] for metric in values}
    n = len(truth) if taxa is None else int(np.isin(truth, taxa).sum())
    is_difference = minus is not None
    return {metric: percentiles(value, n, is_difference) for metric, value in values.items()}
