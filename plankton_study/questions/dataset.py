"""The contents of the image sets: their parts, their seasons, and leaks between parts."""

import numpy as np
import pandas as pd

from plankton_study.images.duplicates import near_duplicates
from plankton_study.images.splits import Splits
from plankton_study.run.schema import DataSet

DAY = "%Y-%m-%d"


def parts_table(sets: dict[str, Splits]) -> pd.DataFrame:
    """Return the contents of each part of each set.

    Returns:
        Columns set, part, images, taxa, groups (days or samples, if known), first day and last
        day.
    """
    lines = []
    for name, splits in sets.items():
        for part, rows in splits.parts.items():
            first_day, last_day = _first_and_last_day(splits, rows)
            lines.append(
                {
                    "set": name,
                    "part": part,
                    "images": len(rows),
                    "taxa": len(set(splits.taxa(rows)) - {""}),
                    "groups": len(set(splits.groups(rows))) if splits.clustered else None,
                    "first day": first_day,
                    "last day": last_day,
                }
            )
    return pd.DataFrame(lines)


def _first_and_last_day(splits: Splits, rows: np.ndarray) -> tuple[str, str]:
    times = splits.collection.records["time"].iloc[rows].dropna()
    if times.empty:
        return "", ""
    return times.min().strftime(DAY), times.max().strftime(DAY)


def removed_table(sets: dict[str, Splits]) -> pd.DataFrame:
    """Return how many images of each set were left out, with a row for each reason."""
    removed = pd.DataFrame({name: splits.removed for name, splits in sets.items()})
    return removed.rename_axis("reason").reset_index()


def monthly_shares(splits: Splits) -> pd.DataFrame:
    """Return the share of each taxon among the labelled images of each month.

    The images are those of home and of the first shifted part. Rows are months, columns taxa.
    """
    parts = ("train", "validation", "test", *splits.shifts[:1])
    rows = np.unique(np.concatenate([splits[part] for part in parts]))
    records = splits.collection.records.iloc[rows]
    month = records["time"].dt.to_period("M").rename("month")
    return pd.crosstab(month, records["taxon"], normalize="index")


def has_times(splits: Splits) -> bool:
    """Return whether any image of a set has a known time."""
    return bool(splits.collection.records["time"].notna().any())


def months_after_home(shares: pd.DataFrame, config: DataSet) -> list[pd.Period]:
    """Return the months of `monthly_shares` that come after the home part of a set."""
    until = config.split.home.until
    if until is None:
        return []
    last = pd.Period(until, "M")
    return [month for month in shares.index if month > last]


def leaks(splits: Splits, duplicate_correlation: float) -> dict[str, int]:
    """Return what training and held-out images have in common, which should be nothing.

    Args:
        splits: the splits of a set.
        duplicate_correlation: two images with a larger correlation are near copies.

    Returns:
        "groups" (days or samples) and "near copies" → number.
    """
    held_out = np.concatenate([splits[part] for part in ("validation", "test", *splits.shifts)])
    groups = 0
    if splits.clustered:
        shared = np.intersect1d(splits.groups(splits["pool"]), splits.groups(held_out))
        groups = shared.size
    images = splits.collection.images
    copies = near_duplicates(images, splits["pool"], held_out, duplicate_correlation)
    return {"groups": groups, "near copies": len(copies)}
