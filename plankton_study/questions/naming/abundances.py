"""Abundances: how many images of each taxon a sample holds, with intervals."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import gamma

from plankton_study.images.division import group_key
from plankton_study.images.splits import Splits
from plankton_study.questions.monitoring.abundance import mix_by_em
from plankton_study.questions.naming.names import HELD_OUT, NAMED, TEST, Names

#: the ends of a 95 % interval
ENDS = (0.025, 0.975)
#: expected images of a taxon in a sample, from which its interval is checked
CHECKED_IMAGES = 1
#: so that a count of nothing has an interval
SMALLEST_COUNT = 1e-6
#: expected images of a taxon in a sample, from which it is listed even if none has its name
SHOWN_IMAGES = 0.5
WHOLE_SET, UNKNOWN_SAMPLE = "all images", "unknown"


def sample_names(splits: Splits) -> np.ndarray:
    """Return the sample of each image of a collection, (N,) texts.

    It is what the set is grouped by. A set of single images is divided by sample, else by day, as
    far as these are known.
    """
    records, group_by = splits.collection.records, splits.collection.entry.group_by
    sample, day = group_key(records, "sample"), group_key(records, "day")
    has_samples = sample.ne("").any()
    if group_by == "sample" or (group_by == "image" and has_samples):
        chosen = sample
    elif day.ne("").any():
        chosen = day
    else:
        return np.full(len(records), WHOLE_SET, dtype=object)
    return chosen.where(chosen.ne(""), UNKNOWN_SAMPLE).to_numpy(dtype=object)


class Counts(NamedTuple):
    """Expected numbers of images by sample and taxon, as (samples, K) arrays.

    Attributes:
        samples: names of the samples.
        expected: the sum of the probabilities.
        variance: of the number, if the images are independent.
    """

    samples: np.ndarray
    expected: np.ndarray
    variance: np.ndarray


def expected_counts(samples: np.ndarray, probabilities: np.ndarray) -> Counts:
    """Return the expected number of images of each taxon in each sample.

    If the probabilities are calibrated, the sum over the images of a sample is the expected
    number. The number itself is then Poisson-binomial, with the variance sum p (1 - p).

    Args:
        samples: (n,) the sample of each image.
        probabilities: (n, K) class probabilities.
    """
    names, codes = np.unique(samples, return_inverse=True)
    expected = np.zeros((len(names), probabilities.shape[1]))
    variance = np.zeros_like(expected)
    np.add.at(expected, codes, probabilities)
    np.add.at(variance, codes, probabilities * (1 - probabilities))
    return Counts(names, expected, variance)


class Errors(NamedTuple):
    """How far expected numbers may be wrong, learnt from held-out images.

    Attributes:
        factor: by how much numbers vary more than those of independent images; at least 1.
        relative: (K,) the relative error that remains in large samples: the held-out images of a
            taxon show whether its expected number is too high only as exactly as they are many.
    """

    factor: float
    relative: np.ndarray


def learn_errors(counts: Counts, true: np.ndarray) -> Errors:
    """Return how far the expected numbers of held-out images are wrong.

    Args:
        counts: of the held-out images.
        true: (samples, K) their true numbers.
    """
    variance = counts.variance.sum(axis=0)
    expected = counts.expected.sum(axis=0)
    factor = 1.0
    if variance.sum() > 0:
        factor = max(float(((true - counts.expected) ** 2).sum() / variance.sum()), 1.0)
    return Errors(factor, np.sqrt(variance) / expected.clip(1))


def count_intervals(counts: Counts, errors: Errors) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper bounds of the 95 % intervals, (samples, K) each.

    They are quantiles of gamma distributions, which are skewed as small counts are, rounded
    outwards to whole images.
    """
    variance = errors.factor * counts.variance + (errors.relative * counts.expected) ** 2
    expected = counts.expected.clip(SMALLEST_COUNT)
    variance = variance.clip(SMALLEST_COUNT)
    shape, scale = expected**2 / variance, variance / expected
    low, high = (gamma.ppf(end, shape, scale=scale) for end in ENDS)
    images = counts.expected.sum(axis=1, keepdims=True)
    return np.floor(low), np.ceil(high).clip(max=np.ceil(images))


def count_taxa(
    samples: np.ndarray, taxa: np.ndarray, all_samples: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Return the number of images of each class in each sample, (samples, K) float64.

    Args:
        samples, taxa: (n,) of each image.
        all_samples: the rows of the result.
        classes: its columns.
    """
    counts = pd.crosstab(samples, taxa)
    counts = counts.reindex(index=all_samples, columns=classes, fill_value=0)
    return counts.to_numpy(dtype=float)


class Abundances(NamedTuple):
    """The abundances of all samples, and how good their intervals are.

    Attributes:
        table: columns sample, taxon, labelled, named, estimate, low and high (numbers of images,
            the labelled ones included), share, the estimate as a share of the sample, and other
            mix, the estimate if the images named have a mix of taxa of their own. Taxa that are
            hardly expected in a sample are left out.
        change: of the mix of taxa, from the held-out images to those named, by EM: half the sum of
            the differences between their shares.
        coverage: share of the checked test numbers that lie in their interval.
        checked: how many these are.
    """

    table: pd.DataFrame
    change: float
    coverage: float
    checked: int


def estimate_abundances(names: Names) -> Abundances:
    """Estimate how many images of each taxon each sample holds.

    The width of the intervals is learnt from held-out samples; how often the intervals then hold
    the true number is measured on test samples.
    """
    sample_of_row = sample_names(names.splits)
    held_out = _counts(names, sample_of_row, HELD_OUT)
    errors = learn_errors(held_out, _true_numbers(names, sample_of_row, HELD_OUT, held_out))
    coverage, checked = _test_coverage(names, sample_of_row, errors)
    mix = estimate_mix(names.probabilities[HELD_OUT], names.probabilities[NAMED])
    table = _table(names, sample_of_row, errors, mix)
    return Abundances(table, mix.change, coverage, checked)


class Mix(NamedTuple):
    """The mix of taxa of the images named, if it may differ from that of the labelled ones.

    Attributes:
        change: half the sum of the differences between the shares of both mixes.
        probabilities: (n, K + 1) of the images named, for the mix of their own.
    """

    change: float
    probabilities: np.ndarray


def estimate_mix(held_out: np.ndarray, named: np.ndarray) -> Mix:
    """Estimate the mix for which the probabilities are self-consistent (Saerens et al. 2002).

    Args:
        held_out: (m, K) probabilities of held-out images.
        named: (n, K) probabilities of the images named.
    """
    at_home = held_out.mean(axis=0).clip(SMALLEST_COUNT)
    shares = mix_by_em(at_home, named)
    ratio = shares / at_home
    adjusted = named * ratio
    adjusted /= adjusted.sum(axis=1, keepdims=True)
    return Mix(float(np.abs(shares - at_home).sum() / 2), adjusted)


def _counts(names: Names, sample_of_row: np.ndarray, part: str) -> Counts:
    return expected_counts(sample_of_row[names.rows(part)], names.probabilities[part])


def _true_numbers(names: Names, sample_of_row: np.ndarray, part: str, counts: Counts) -> np.ndarray:
    samples = sample_of_row[names.rows(part)]
    return count_taxa(samples, names.truth(part), counts.samples, names.columns)


def _test_coverage(names: Names, sample_of_row: np.ndarray, errors: Errors) -> tuple[float, int]:
    """Return the share of test numbers that lie in their interval, and how many were checked."""
    counts = _counts(names, sample_of_row, TEST)
    true = _true_numbers(names, sample_of_row, TEST, counts)
    low, high = count_intervals(counts, errors)
    is_checked = counts.expected >= CHECKED_IMAGES
    is_inside = (low <= true) & (true <= high)
    checked = is_inside[is_checked]
    return float(checked.mean()) if len(checked) else np.nan, len(checked)


def _table(names: Names, sample_of_row: np.ndarray, errors: Errors, mix: Mix) -> pd.DataFrame:
    samples = sample_of_row[names.images.rows]
    counts = _counts(names, sample_of_row, NAMED)
    low, high = count_intervals(counts, errors)
    of_mix = expected_counts(samples, mix.probabilities)
    named = count_taxa(samples, names.taxa(NAMED), counts.samples, names.columns)
    labelled = _labelled_counts(names, sample_of_row, counts)
    grid = pd.MultiIndex.from_product([counts.samples, names.columns], names=["sample", "taxon"])
    table = pd.DataFrame(
        {
            "labelled": labelled.ravel().astype(int),
            "named": named.ravel().astype(int),
            "estimate": (labelled + counts.expected).ravel(),
            "low": (labelled + low).ravel(),
            "high": (labelled + high).ravel(),
            "other mix": (labelled + of_mix.expected).ravel(),
        },
        index=grid,
    ).reset_index()
    totals = table.groupby("sample")["estimate"].transform("sum")
    table["share"] = table["estimate"] / totals
    is_present = (table["labelled"] + table["named"] > 0) | (table["estimate"] >= SHOWN_IMAGES)
    return table[is_present].reset_index(drop=True)


def _labelled_counts(names: Names, sample_of_row: np.ndarray, counts: Counts) -> np.ndarray:
    """Return the labelled images of each known taxon in each sample, (samples, K)."""
    labels = names.held.labels.taxa
    is_labelled = names.splits.collection.records["taxon"].ne("").to_numpy()
    is_labelled = is_labelled & ~np.isin(np.arange(len(labels)), names.images.rows)
    samples = sample_of_row[is_labelled]
    return count_taxa(samples, labels[is_labelled], counts.samples, names.columns)
