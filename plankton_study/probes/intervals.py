"""Values with confidence intervals: the bootstrap, spreads over seeds, and Holm's correction."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from plankton_study.images.splits import Splits

#: of two-sided tests; intervals hold 1 - LEVEL
LEVEL = 0.05
MINUS = "\N{MINUS SIGN}"


class Estimate(NamedTuple):
    """A value with its 95 % interval.

    Attributes:
        value, low, high: as shares of 1, for scores such as accuracy.
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
        if np.isnan(self.low):
            return f"{value} (no interval)"
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


class SeedMean(NamedTuple):
    """The mean of one estimate over training seeds.

    Attributes:
        value, low, high: the mean and its 95 % interval, as shares of 1.
        error: the standard error.
        freedom: its degrees of freedom.
    """

    value: float
    low: float
    high: float
    error: float
    freedom: float


def mean_of_seeds(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> SeedMean:
    """Return the mean over training seeds, with an error that includes two kinds of variation.

    All seeds share the test images, so averaging does not reduce this part of the error. The part
    between training runs is estimated from few seeds; so Student's t is used, with degrees of
    freedom by Welch and Satterthwaite. (With three seeds such intervals hold the true mean in 92
    to 96 % of simulations.)

    Args:
        values, low, high: (seeds,) each; estimates with their 95 % intervals over test images. A
            single seed keeps its interval. If no seed has an interval, neither has the mean.
    """
    value = float(np.mean(values))
    half_width = (np.mean(high) - np.mean(low)) / 2
    error = float(half_width / norm.ppf(1 - LEVEL / 2))
    seeds = len(values)
    if seeds == 1:
        return SeedMean(value, float(low[0]), float(high[0]), error, np.inf)
    between_trainings = float(np.std(values, ddof=1)) / seeds**0.5
    error = float(np.hypot(error, between_trainings))
    if np.isnan(error):
        return SeedMean(value, np.nan, np.nan, np.nan, np.nan)
    freedom = np.inf
    if between_trainings > 0:
        with np.errstate(over="ignore"):  # if seeds hardly differ, it is infinite
            freedom = float((seeds - 1) * np.float64(error / between_trainings) ** 4)
    reach = float(t.ppf(1 - LEVEL / 2, freedom)) * error
    return SeedMean(value, value - reach, value + reach, error, freedom)


def number_text(value: float, digits: int) -> str:
    """Return a number with a true minus sign, and never as minus zero."""
    return f"{value:z.{digits}f}".replace("-", MINUS)


class Units(NamedTuple):
    """What a bootstrap draw resamples: whole groups of images, within strata.

    Attributes:
        groups: (n,) codes of days, samples or single images.
        strata: (n,) codes; groups are resampled within each stratum. Single images are resampled
            within their taxon, so that each draw judges the same taxa; days and samples hold
            several taxa, so they form one stratum.
    """

    groups: np.ndarray
    strata: np.ndarray

    @classmethod
    def of(cls, groups: np.ndarray, strata: np.ndarray | None = None) -> "Units":
        """Return units for codes of groups, and of strata if there are several."""
        if strata is None:
            strata = np.zeros(len(groups), np.int64)
        return cls(groups, strata)


def units_of(splits: Splits, rows: np.ndarray) -> Units:
    """Return what a bootstrap draw of some rows resamples.

    It is whole days or samples if they are known, else single images within their taxon.
    """
    groups = splits.groups(rows)
    if splits.clustered:
        return Units.of(groups)
    _, taxa = np.unique(splits.taxa(rows).astype(str), return_inverse=True)
    return Units.of(groups, taxa)


def resample(units: Units, draws: int, seed: int = 0) -> np.ndarray:
    """Return bootstrap weights from resampling whole groups with replacement.

    Args:
        units: what is resampled.
        draws: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        (draws, n) float64, how often each image counts. If no stratum has a second group, nothing
        can be resampled, and there are no draws: (0, n).
    """
    pairs = np.stack([units.strata, units.groups])
    strata_of_groups, codes = np.unique(pairs, axis=1, return_inverse=True)
    sizes = np.unique(strata_of_groups[0], return_counts=True)[1]  # groups of each stratum
    if sizes.max(initial=0) < 2:
        return np.zeros((0, len(units.groups)))
    rng = np.random.default_rng(seed)
    counts = [rng.multinomial(size, np.full(size, 1 / size), size=draws) for size in sizes]
    return np.concatenate(counts, axis=1)[:, codes.ravel()].astype(float)


def draw_weights(units: Units, draws: int, seed: int = 0) -> np.ndarray:
    """Return weights for a value and its bootstrap draws, (1 + draws, n) float64.

    The first row counts each image once; the others are those of `resample`.
    """
    return np.vstack([np.ones(len(units.groups)), resample(units, draws, seed)])


def with_centred_draws(value: float, drawn: np.ndarray) -> np.ndarray:
    """Return a value and its draws, (1 + draws,), shifted to have the value as their mean.

    It serves measures that rise when images are repeated, as they are in bootstrap draws.
    """
    if not len(drawn):
        return np.array([value])
    return np.append(value, drawn - np.mean(drawn) + value)


def percentiles(values: np.ndarray, n: int, is_difference: bool = False) -> Estimate:
    """Return the estimate of a value from its bootstrap draws.

    Draws without an answer (NaN), such as those that hold none of the judged taxa, are left out.
    Without any draw the interval and p are NaN.

    Args:
        values: (1 + draws,) the value, then its draws.
        n: number of images that it is based on.
        is_difference: adds p, twice the share of draws on the other side of zero, which is at
            least 2 / (draws + 1).
    """
    value, draws = values[0], values[1:]
    draws = draws[~np.isnan(draws)]
    low, high, p = np.nan, np.nan, np.nan
    if len(draws):
        low, high = np.percentile(draws, [2.5, 97.5])
        on_other_side = min(np.sum(draws <= 0), np.sum(draws >= 0))
        p = min(2 * float(on_other_side + 1) / (len(draws) + 1), 1.0)
    if not is_difference:
        p = None
    return Estimate(float(value), float(low), float(high), n, p)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values corrected for multiple comparisons (Holm 1979), in the given order.

    Unknown p-values (NaN) stay unknown, and count as comparisons.
    """
    from statsmodels.stats.multitest import multipletests

    p_values = np.array(p_values, dtype=float)
    if len(p_values) < 2:  # nothing to correct, and `multipletests` is slow (it calls gc.collect)
        return p_values
    _, corrected, _, _ = multipletests(np.nan_to_num(p_values, nan=1.0), method="holm")
    return np.where(np.isnan(p_values), np.nan, corrected)
