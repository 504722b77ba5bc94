"""How far names can be trusted: by taxon, by probability, and by where the images come from."""

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from plankton_study.images.splits import Splits
from plankton_study.probes import intervals
from plankton_study.probes.intervals import Estimate
from plankton_study.questions.naming.names import NAMED, TEST, Names
from plankton_study.run.study import Study

#: the smallest probabilities that a user may accept without checking
ACCEPTED = (0.0, 0.5, 0.7, 0.9, 0.95, 0.99)

# where an image comes from, compared with the labelled images that the probe was fitted on
SAME_GROUP = "a day or sample with labels"
BETWEEN = "another day between those with labels"
OUTSIDE = "before the first or after the last day with labels"
OTHER_PLACE = "another site or instrument"
NO_TIME = "unknown time, in no sample with labels"
ORIGINS = (SAME_GROUP, BETWEEN, OUTSIDE, OTHER_PLACE, NO_TIME)


def taxa_table(study: Study, names: Names) -> pd.DataFrame:
    """Return for each taxon how often its name is right, and how many of its images are found.

    Both are measured on test images. How often a name is right depends on the mix of taxa: a rare
    taxon gets more wrong names where it is rarer than in the test images.

    Returns:
        One row for each taxon, the most frequent name first; columns taxon, images named, of them
        unknown?, labelled for training, test images, named so in the test, name is right (%),
        found (%).
    """
    truth, predicted = names.truth(TEST), names.taxa(TEST)
    rates = _Rates(study, names)
    labelled = pd.Series(names.held.labels.taxa[names.held.labelled_rows]).value_counts()
    named = names.taxa(NAMED)
    is_unknown = names.novelty.is_unknown
    lines = []
    for taxon in names.classes:
        is_right = (truth == taxon) & (predicted == taxon)
        lines.append(
            {
                "taxon": taxon,
                "images named": int((named == taxon).sum()),
                "of them unknown?": int((is_unknown & (named == taxon)).sum()),
                "labelled for training": int(labelled[taxon]),
                "test images": int((truth == taxon).sum()),
                "named so in the test": int((predicted == taxon).sum()),
                "name is right (%)": rates.of(is_right, predicted == taxon),
                "found (%)": rates.of(is_right, truth == taxon),
            }
        )
    table = pd.DataFrame(lines)
    return table.sort_values("images named", ascending=False, kind="stable", ignore_index=True)


class _Rates:
    """Shares of test images with 95 % intervals.

    An interval covers both that of resampled days, samples or images, and Wilson's, which does not
    vanish if all of a few images are right.
    """

    def __init__(self, study: Study, names: Names) -> None:
        groups = names.splits.groups(names.rows(TEST))
        units = intervals.Units.of(groups)
        self.weights = intervals.draw_weights(units, study.profile.probes.draws)

    def of(self, is_right: np.ndarray, is_counted: np.ndarray) -> Estimate | None:
        """Return the share of counted images that are right; None if no image is counted."""
        count = int(is_counted.sum())
        if count == 0:
            return None
        right = int((is_right & is_counted).sum())
        with np.errstate(invalid="ignore"):  # a draw without such images has no answer
            drawn = (self.weights @ (is_right & is_counted)) / (self.weights @ is_counted)
        resampled = intervals.percentiles(drawn, count)
        low, high = proportion_confint(right, count, method="wilson")
        return Estimate(
            right / count,
            float(np.nanmin([low, resampled.low])),
            float(np.nanmax([high, resampled.high])),
            count,
        )


def acceptance_table(study: Study, names: Names) -> pd.DataFrame:
    """Return how many names have at least some probability, and how often such a name is right.

    Returns:
        Columns probability at least, images named (%), test images (%), name is right (%).
    """
    rates = _Rates(study, names)
    is_right, confidence = names.is_right(TEST), names.confidence(TEST)
    lines = []
    for least in ACCEPTED:
        is_accepted = confidence >= least
        lines.append(
            {
                "probability at least": least,
                "images named (%)": 100 * float((names.confidence(NAMED) >= least).mean()),
                "test images (%)": 100 * float(is_accepted.mean()),
                "name is right (%)": rates.of(is_right, is_accepted),
            }
        )
    return pd.DataFrame(lines)


def origins(splits: Splits, rows: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Return where images come from, compared with labelled ones, (n,) texts.

    Args:
        splits: the set.
        rows: (n,) of the images.
        labelled: rows of the labelled images.
    """
    records = splits.collection.records
    day = records["time"].dt.normalize()
    first, last = day.iloc[labelled].min(), day.iloc[labelled].max()
    own_day = day.iloc[rows]
    place = records["site"] + "|" + records["instrument"]
    is_other_place = ~place.iloc[rows].isin(set(place.iloc[labelled])).to_numpy()
    has_labels = np.zeros(len(rows), bool)
    for key in (records["sample"].where(records["sample"].ne("")), day):
        has_labels |= key.iloc[rows].isin(key.iloc[labelled].dropna()).to_numpy()
    is_outside = ((own_day < first) | (own_day > last)).to_numpy()
    is_timeless = own_day.isna().to_numpy()
    conditions = [is_other_place, has_labels, is_timeless, is_outside]
    return np.select(conditions, [OTHER_PLACE, SAME_GROUP, NO_TIME, OUTSIDE], default=BETWEEN)


def origins_table(names: Names) -> pd.DataFrame:
    """Return how sure the names are by where the images come from.

    The mean probability is what one may expect to be right, if the probabilities are calibrated
    there as well. More than 5 % of unknown? images mean that these images differ from the labelled
    ones: in their taxa, or in how they look.

    Returns:
        Columns images come from, images, mean probability (%), unknown? (%); and in a rehearsal
        name is right (%).
    """
    labelled = np.union1d(names.held.labelled_rows, names.held.test)
    if names.images.is_rehearsal:
        labelled = names.held.labelled_rows
    of_image = origins(names.splits, names.images.rows, labelled)
    images = pd.DataFrame(
        {
            "images come from": of_image,
            "mean probability (%)": 100 * names.confidence(NAMED),
            "unknown? (%)": 100.0 * names.novelty.is_unknown,
        }
    )
    if names.images.is_rehearsal:
        images["name is right (%)"] = 100.0 * names.is_right(NAMED)
    grouped = images.groupby("images come from")
    table = grouped.mean().reset_index()
    table.insert(1, "images", grouped.size().to_numpy())
    order = table["images come from"].map(ORIGINS.index)
    return table.iloc[order.argsort()].reset_index(drop=True)
