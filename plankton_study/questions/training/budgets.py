"""Scores over training budgets: how they grow, and whether the gap to diffusion closes.

What counts as closing was fixed before any curve was run, see `gap_table`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from plankton_study.features.registry import encoder_family
from plankton_study.images.splits import Splits
from plankton_study.models.diffusion.denoiser import trained_denoiser
from plankton_study.models.recipe import images_to_see, with_images_seen
from plankton_study.probes.intervals import LEVEL, Estimate, mean_of_seeds
from plankton_study.probes.probe import probe_encoder
from plankton_study.probes.result import evaluate
from plankton_study.probes.selection import JOINED, LDA_ONLY
from plankton_study.run.study import Study

#: name of a read-out → the search that it stands for. Logistic regression at every budget would
#: take longer than the trainings.
READ_OUTS = {"one cell": LDA_ONLY, "all layers": JOINED}
#: columns that identify a curve
CURVE = ["setting", "read-out", "encoder"]
MACRO_F1 = "macro-F1 (%)"
SEEN = "images seen"
#: what a training with a budget cost
COSTS = ["training GFLOPs", "seconds"]

#: the columns of `gap_table` after those that identify a curve
GAP = ["gap (points)", "difference of slopes (points)", "by the rule", "crossing"]

# what the difference of two slopes means
CLOSES, WIDENS, UNKNOWN = "the gap closes", "the gap widens", "stays or unknown"
# the same where diffusion is ahead
LEAD_GROWS, LEAD_SHRINKS = "the lead grows", "the lead shrinks"


def longest_denoiser(study: Study, splits: Splits) -> Path:
    """Return the training folder of the denoiser that saw the most images of a set."""
    images_seen = images_to_see(study, splits)
    largest = max([images_seen, *study.profile.curve.budgets(study.seed)])
    return trained_denoiser(with_images_seen(study, splits, largest), splits)


def curve_table(study: Study, splits: Splits) -> pd.DataFrame:
    """Train the encoders of the profile's [curve] with each of its budgets, and probe them.

    With balanced labels, supervised encoders are left out: they would have to be trained again for
    each draw of the labels.

    Args:
        study, splits: the images.

    Returns:
        One row for each setting, encoder, budget and read-out; columns setting, read-out, encoder,
        images seen, training GFLOPs, seconds, cell, accuracy (%) and macro-F1 (%).
    """
    curve = study.profile.curve
    lines = []
    for setting in curve.settings:
        for name in curve.encoders:
            if setting == "balanced" and "labels" in encoder_family(study, name):
                continue
            for images_seen in curve.budgets(study.seed):
                lines += _points(study, splits, setting, name, images_seen)
    return pd.DataFrame(lines, columns=[*CURVE, SEEN, *COSTS, "cell", "accuracy (%)", MACRO_F1])


def _points(
    study: Study, splits: Splits, setting: str, name: str, images_seen: int
) -> list[dict[str, Any]]:
    """Return one point of the curve for each read-out."""
    budgeted = with_images_seen(study, splits, images_seen)
    points = []
    for read_out, search in READ_OUTS.items():
        result = probe_encoder(budgeted, splits, name, setting, search)
        scores = evaluate(study, splits, result, "test")
        cost = result.encoder.cost
        point = {
            "setting": setting,
            "read-out": read_out,
            "encoder": name,
            SEEN: images_seen,
            "training GFLOPs": round(cost["images_seen"] * cost["flops"] / 1e9),
            "seconds": round(cost["seconds"]),
            "cell": str(result.selected),
            "accuracy (%)": scores["accuracy"],
            MACRO_F1: scores["macro_f1"],
        }
        points.append(point)
    return points


class Line(NamedTuple):
    """A straight line through the scores over the logarithm of the budgets.

    Attributes:
        middle: mean of log2(images seen).
        height: its score there.
        slope: points of score for each doubling of the budget.
    """

    middle: float
    height: float
    slope: float


def fit_line(images_seen: np.ndarray, scores: np.ndarray) -> Line:
    """Return the least-squares line through the scores of several budgets."""
    doublings = np.log2(images_seen)
    middle = doublings.mean()
    slope, height = np.polyfit(doublings - middle, scores, 1)
    return Line(float(middle), float(height), float(slope))


def mean_over_seeds(values: np.ndarray) -> Estimate:
    """Return the mean of one number over training seeds, with Student's interval.

    A single seed has no interval.
    """
    seeds = len(values)
    if seeds == 1:
        return Estimate(float(values[0]), np.nan, np.nan, seeds)
    mean = mean_of_seeds(values, low=values, high=values)  # test images do not vary it
    return Estimate(mean.value, mean.low, mean.high, seeds)


def slopes_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return how much each doubling of the budget adds.

    Args:
        scores: columns setting, read-out, encoder, seed, images seen and score (a share of 1).

    Returns:
        One row for each curve; columns setting, read-out, encoder, slope (points), over seeds, and
        budgets, the smallest and the largest one that all seeds have.
    """
    lines = []
    for names, curve in scores.groupby(CURVE, sort=False):
        by_seed = _common_budgets(curve)
        fits = [fit_line(by_seed.columns.to_numpy(), values) for values in by_seed.to_numpy()]
        slope = mean_over_seeds(np.array([fit.slope for fit in fits]))
        budgets = f"{by_seed.columns.min():,} to {by_seed.columns.max():,}"
        lines.append((*names, slope, budgets))
    return pd.DataFrame(lines, columns=[*CURVE, "slope (points)", "budgets"])


def _common_budgets(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of one curve: a row for each seed, a column for each shared budget."""
    by_seed = curve.pivot_table(index="seed", columns=SEEN, values="score")
    return by_seed.dropna(axis="columns")


def gap_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Compare the growth of diffusion's score with that of every other encoder.

    The gap closes if the lower bound of the difference between the slopes, diffusion minus the
    other encoder, is above 0; it widens if the upper bound is below 0; otherwise it stays or is
    unknown. Where diffusion is ahead, its lead grows or shrinks. The crossing is the budget at
    which both lines meet, with Fieller's interval; where this interval has no end, it is unknown.

    Args:
        scores: see `slopes_table`.

    Returns:
        One row for each curve of another encoder; columns setting, read-out, encoder, gap at the
        largest common budget (points), difference of slopes (points), by the rule, and crossing.
    """
    lines = []
    for (setting, read_out), curves in scores.groupby(["setting", "read-out"], sort=False):
        for name in dict.fromkeys(curves["encoder"]):
            if name == "diffusion":
                continue
            gaps = _gaps(curves, name)
            fits = [fit_line(gaps.columns.to_numpy(), values) for values in gaps.to_numpy()]
            growth = mean_over_seeds(np.array([fit.slope for fit in fits]))
            gap = mean_over_seeds(gaps.to_numpy()[:, -1])
            word = judge_gap(gap.value, growth)
            meeting = crossing_text(fits, int(gaps.columns.min()), int(gaps.columns.max()))
            lines.append((setting, read_out, name, gap, growth, word, meeting))
    return pd.DataFrame(lines, columns=[*CURVE, *GAP])


def _gaps(curves: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return diffusion's score minus another encoder's: a row for each seed, by budget."""
    of_diffusion = _common_budgets(curves[curves["encoder"] == "diffusion"])
    of_other = _common_budgets(curves[curves["encoder"] == name])
    gaps = of_diffusion - of_other
    return gaps.loc[of_diffusion.index.intersection(of_other.index)].dropna(axis="columns")


def judge_gap(gap: float, growth: Estimate) -> str:
    """Return what becomes of a gap.

    Args:
        gap: diffusion minus the other encoder, at the largest budget.
        growth: the difference of their slopes.
    """
    if growth.low > 0:
        return CLOSES if gap < 0 else LEAD_GROWS
    if growth.high < 0:
        return WIDENS if gap < 0 else LEAD_SHRINKS
    return UNKNOWN


def crossing_text(fits: list[Line], smallest: int, largest: int) -> str:
    """Return the budget at which a gap is zero, with its interval, as text.

    Args:
        fits: the line of the gap for each seed, all over the same budgets.
        smallest: the smallest budget that was trained; a crossing below it is none.
        largest: the largest budget that was trained; beyond it the text says "extrapolated".
    """
    budget = crossing(fits)
    if not np.isfinite(budget.high) or not np.isfinite(budget.low):
        return "unknown"
    if budget.value < smallest:
        return "none"
    value, low, high = (f"{number:,.0f}" for number in budget)
    ending = ", extrapolated" if budget.value > largest else ""
    return f"{value} [{low}, {high}]{ending}"


class Crossing(NamedTuple):
    """A number of images seen, with its 95 % interval."""

    value: float
    low: float
    high: float


def crossing(fits: list[Line]) -> Crossing:
    """Return the number of images seen at which the mean of some lines is zero.

    The interval is Fieller's (1954), from the spread of heights and slopes over seeds. It is
    infinite where the slope does not differ from zero, or for a single seed.
    """
    heights = np.array([fit.height for fit in fits])
    slopes = np.array([fit.slope for fit in fits])
    seeds, middle = len(fits), fits[0].middle
    height, slope = heights.mean(), slopes.mean()
    best = _images_after(middle - height / slope) if slope else np.nan
    unknown = Crossing(best, -np.inf, np.inf)
    if seeds == 1:
        return unknown
    covariance = np.cov(heights, slopes) / seeds
    margin = student_t.ppf(1 - LEVEL / 2, seeds - 1) ** 2
    # all doublings d at which (height + d slope)^2 is within the margin of its variance
    square = slope**2 - margin * covariance[1, 1]
    linear = 2 * (height * slope - margin * covariance[0, 1])
    constant = height**2 - margin * covariance[0, 0]
    if square <= 0:
        return unknown
    low, high = sorted(np.roots([square, linear, constant]).real)
    return Crossing(best, _images_after(middle + low), _images_after(middle + high))


def _images_after(doublings: float) -> float:
    """Return 2 to the power of the doublings; infinity beyond the largest number."""
    with np.errstate(over="ignore"):
        return float(np.exp2(doublings))


def scores_of_seeds(tables: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Return the scores of `slopes_table` from the stored curves of several seeds.

    Args:
        tables: seed → `curve_table` as numbers, see `tidy_table`.
    """
    joined = pd.concat(tables, names=["seed", "row"]).reset_index()
    joined = joined[joined["quantity"] == MACRO_F1]
    joined[SEEN] = joined[SEEN].astype(int)
    return joined.rename(columns={"value": "score"})[[*CURVE, "seed", SEEN, "score"]]
