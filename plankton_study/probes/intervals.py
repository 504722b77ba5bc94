"""Values with confidence intervals: the bootstrap, spreads over seeds, and Holm's correction."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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


def draw_weights(groups: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Return weights for a value and its bootstrap draws, (1 + draws, n) float64.

    The first row counts each image once; the others are those of `resample`.
    """
    return np.vstack([np.ones(len(groups)), resample(groups, draws, seed)])


def with_centred_draws(value: float, drawn: np.ndarray) -> np.ndarray:
    """Return a value and its draws, (1 + draws,), shifted to have the value as their mean.

    It serves measures that rise when images are repeated, as they are in bootstrap draws.
    """
    return np.append(value, drawn - np.mean(drawn) + value)


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
