"""Abundances: shares of taxa by day or week, by three methods."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context

from plankton_study.probes import intervals
from plankton_study.questions.monitoring.calibration import Calibrated
from plankton_study.run.study import Study

COUNTING = "classify and count"
ADJUSTED = "adjusted count"
EM = "EM"
KEYS = ["set", "part", "encoder", "method"]
COMMON_TAXA = 8


def estimate_abundances(
    probabilities: np.ndarray, validation_probabilities: np.ndarray, codes: np.ndarray
) -> dict[str, np.ndarray]:
    """Estimate the share of each of K classes among images, by three methods of quapy.

    Args:
        probabilities: (n, K) class probabilities of the images to count.
        validation_probabilities: (m, K) class probabilities of validation images.
        codes: (m,) classes of the validation images.

    Returns:
        Method → (K,). "classify and count"; "adjusted count", corrected by the confusions among
        validation images (Forman 2008); "EM", the mix of classes for which the adjusted
        probabilities are self-consistent (Saerens et al. 2002).
    """
    with rc_context():  # quapy changes the resolution of figures when it is imported
        from quapy.method.aggregative import ACC

    classes = np.arange(probabilities.shape[1])
    counted = np.bincount(probabilities.argmax(axis=1), minlength=len(classes)) / len(probabilities)
    confusions = ACC.getPteCondEstim(classes, codes, validation_probabilities.argmax(axis=1))
    adjusted = ACC.solve_adjustment(confusions, counted, method="inversion", solver="minimize")
    by_em = mix_by_em(validation_probabilities.mean(axis=0), probabilities)
    return {COUNTING: counted, ADJUSTED: adjusted, EM: by_em}


def mix_by_em(at_home: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the mix of classes for which the adjusted probabilities are self-consistent, (K,).

    EM (Saerens et al. 2002) starts from the mean probabilities at home. For a weak probe these
    differ from the training frequencies, and if EM started there, it would drift towards the rare
    classes.

    Args:
        at_home: (K,) the mean probabilities of images at home.
        probabilities: (n, K) of the images whose mix is estimated.
    """
    with rc_context():  # quapy changes the resolution of figures when it is imported
        from quapy.method.aggregative import EMQ

    mix, _ = EMQ.EM(at_home, probabilities)
    return mix


def abundances_by_period(study: Study, probe: Calibrated, part: str) -> pd.DataFrame:
    """Return true and estimated shares of every taxon for each day, or week, of a part.

    Weeks are used if the median day has too few images. Periods with too few images are left out
    (`monitoring.period_images`).

    Returns:
        Columns set, part, encoder, method, period, images, taxon, true, estimated.
    """
    rows = probe.result.rows[part]
    periods = _periods(probe.splits.collection.records["time"].iloc[rows], study)
    validation, codes = probe.probabilities["validation"], probe.codes("validation")
    truth, probabilities = probe.truth(part), probe.probabilities[part]
    tables = []
    for period in np.unique(periods[periods != ""]):
        is_here = periods == period
        if is_here.sum() < study.profile.monitoring.period_images:
            continue
        true_shares = _shares(truth[is_here], probe.result.classes)
        estimated = estimate_abundances(probabilities[is_here], validation, codes)
        for method, shares in estimated.items():
            tables.append(
                pd.DataFrame(
                    {
                        "set": probe.set,
                        "part": part,
                        "encoder": probe.encoder,
                        "method": method,
                        "period": period,
                        "images": is_here.sum(),
                        "taxon": probe.result.classes,
                        "true": true_shares,
                        "estimated": shares,
                    }
                )
            )
    columns = [*KEYS, "period", "images", "taxon", "true", "estimated"]
    return pd.concat(tables) if tables else pd.DataFrame(columns=columns)


def _periods(times: pd.Series, study: Study) -> np.ndarray:
    """Return the day or the week of each image as text; "" for an unknown time."""
    images_of_a_day = times.dt.date.value_counts().median()
    unit = "D" if images_of_a_day >= study.profile.monitoring.period_images else "W"
    periods = times.dt.to_period(unit)
    return periods.astype(str).where(times.notna(), "").to_numpy(dtype=object)


def _shares(taxa: np.ndarray, classes: np.ndarray) -> np.ndarray:
    shares = pd.Series(taxa).value_counts(normalize=True)
    return shares.reindex(classes, fill_value=0).to_numpy()


def community_distances(counted: pd.DataFrame) -> pd.DataFrame:
    """Return the Bray-Curtis distance between estimated and true communities.

    Args:
        counted: from `abundances_by_period`, for any number of probes and parts.

    Returns:
        Index set, part, encoder and period; a column for each method. 0 means that all shares are
        right, 1 that the communities have nothing in common.
    """
    gap = counted.assign(gap=(counted["estimated"] - counted["true"]).abs() / 2)
    index = ["set", "part", "encoder", "period"]
    return gap.pivot_table("gap", index, "method", aggfunc="sum", sort=False)


def abundance_table(study: Study, counted: pd.DataFrame) -> pd.DataFrame:
    """Return the mean distance over periods, and how much better than counting each method is.

    Returns:
        Columns set, part, encoder, method, periods, Bray-Curtis (%), and better than counting by
        (points).
    """
    columns = [*KEYS, "periods", "Bray-Curtis (%)", "better than counting by (points)"]
    if counted.empty:
        return pd.DataFrame(columns=columns)
    lines: list[dict[str, Any]] = []
    distances = community_distances(counted)
    for (name, part, encoder), periods in distances.groupby(level=[0, 1, 2], sort=False):
        counting = periods[COUNTING].to_numpy()
        for method in periods:
            values = periods[method].to_numpy()
            gain = mean_over_periods(study, counting - values, is_difference=True)
            lines.append(
                {
                    "set": name,
                    "part": part,
                    "encoder": encoder,
                    "method": method,
                    "periods": len(values),
                    "Bray-Curtis (%)": mean_over_periods(study, values),
                    "better than counting by (points)": None if method == COUNTING else gain,
                }
            )
    return pd.DataFrame(lines, columns=columns)


def taxon_bias(study: Study, counted: pd.DataFrame) -> pd.DataFrame:
    """Return the bias of the estimated shares of the commonest taxa of each part.

    Args:
        study: provides the number of bootstrap draws.
        counted: from `abundances_by_period`, for one encoder.

    Returns:
        Columns panel, encoder (here the taxon), kind (the method) and estimate, for
        `plot_estimates`.
    """
    lines = []
    for (name, part), shares in counted.groupby(["set", "part"], sort=False):
        common = shares.groupby("taxon")["true"].mean().nlargest(COMMON_TAXA).index
        common_shares = shares[shares["taxon"].isin(common)]
        for (taxon, method), periods in common_shares.groupby(["taxon", "method"], sort=False):
            errors = (periods["estimated"] - periods["true"]).to_numpy()
            bias = mean_over_periods(study, errors, is_difference=True)
            lines.append((f"{name}: {part}", taxon, method, bias))
    return pd.DataFrame(lines, columns=["panel", "encoder", "kind", "estimate"])


def mean_over_periods(
    study: Study, values: np.ndarray, is_difference: bool = False
) -> intervals.Estimate:
    """Return the mean of the values of all periods, with its interval over resampled periods."""
    n = len(values)
    weights = intervals.draw_weights(intervals.Units.of(np.arange(n)), study.profile.probes.draws)
    return intervals.percentiles(weights @ values / n, n, is_difference)
