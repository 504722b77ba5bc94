"""Formatting: how values are shown in tables, in prose and on pages."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from plankton_study.probes.intervals import (
    MINUS,
    Estimate,
    MeanWithError,
    Spread,
    number_text,
)

#: text for an infinite number of labels
NOT_REACHED = "not reached"
MILLION = 1_000_000
#: longer durations are shown in hours
LONG_MINUTES = 120

#: keys of [features] in the words of the manuscript
POOLING_IN_WORDS = {
    "mean": "the mean",
    "mean_std": "the mean and the standard deviation",
    "grid": "2 × 2 local means",
}
NOISE_IN_WORDS = {
    "shared": "One noise tensor is shared by all images",
    "by_image": "Noise is seeded by each image's id",
    "mean": "Features are the mean over several noise tensors",
    "clean": "No noise is added to the image",
}


def csv_text(table: pd.DataFrame, separator: str = ",") -> str:
    """Return a table as the text of a CSV file, with the same bytes on every system."""
    return table.to_csv(index=False, sep=separator, lineterminator="\n")


def shown_name(taxon: str) -> str:
    """Return the name of a taxon as it is shown in figures and in prose."""
    return taxon.replace("_", " ")


def is_percent(name: str) -> bool:
    """Return whether the name of a column or unit means percent or percentage points."""
    return "%" in name or "points" in name


def cell_text(value: Any, column: str, digits: int | None = None) -> str:
    """Return the text of a value in a table.

    Args:
        value: an estimate, a number, a text or a missing value.
        column: name of its column; with "%" or "points" an estimate is shown in percent.
        digits: number of decimals; None: one for percentages, two for other estimates, and three
            significant digits for plain numbers.
    """
    if isinstance(value, Estimate | MeanWithError | Spread):
        if is_percent(column):
            return value.text(100, 1 if digits is None else digits)
        return value.text(1, 2 if digits is None else digits)
    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int | np.integer):
        return whole_text(int(value))
    if isinstance(value, float | np.floating):
        return _float_text(float(value), column, digits)
    return str(value)


def _float_text(value: float, column: str, digits: int | None) -> str:
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return NOT_REACHED
    if digits is None and is_percent(column):
        digits = 1
    if digits is None:
        return three_digits_text(value)
    return number_text(value, digits)


def three_digits_text(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.3g}".replace("-", MINUS)


def estimate_of(entry: Mapping[str, Any]) -> Estimate:
    """Return the estimate whose fields a stored number, or a row of `values/`, holds."""
    return Estimate(*(entry[field] for field in Estimate._fields))


def whole_text(value: int) -> str:
    """Return a whole number with thousands separators."""
    return f"{value:,}".replace("-", MINUS)


def stored_text(entry: dict[str, Any]) -> str:
    """Return the text of a stored number in prose.

    Args:
        entry: content of numbers/<name>.json: value, low, high, n, p, unit and kind.
    """
    value, unit = entry["value"], entry["unit"]
    if isinstance(value, str):
        return value
    if entry["low"] is not None:
        estimate = estimate_of(entry)
        return estimate.text() if is_percent(unit) else estimate.text(1, 3)
    if unit == "minutes":
        return minutes_text(value)
    if isinstance(value, int) and unit == "parameters" and value >= MILLION:
        return f"{value / MILLION:.2f} million"
    if isinstance(value, int):
        return whole_text(value)
    return three_digits_text(value)


def minutes_text(minutes: float) -> str:
    """Return a duration as text."""
    if minutes > LONG_MINUTES:
        return f"{minutes / 60:.1f} hours"
    return f"{minutes:.0f} minutes"


def with_unit(entry: dict[str, Any]) -> str:
    """Return a stored number with its unit, for pages and cards."""
    text = stored_text(entry)
    if isinstance(entry["value"], str) or entry["unit"] == "minutes":
        return text
    return f"{text} {entry['unit']}".strip()


def text_table(table: pd.DataFrame, digits: dict[str, int] | None = None) -> pd.DataFrame:
    """Return a table for readers, with all values as text.

    Args:
        table: a table of estimates, numbers and texts.
        digits: column → number of decimals.
    """
    digits = digits or {}
    texts = {
        column: [cell_text(value, column, digits.get(column)) for value in table[column]]
        for column in table
    }
    return pd.DataFrame(texts, columns=table.columns, index=table.index, dtype=object)
