"""Tables as numbers, in tidy form: one line for each value, with its interval."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plankton_study.probes.intervals import Estimate, MeanWithError, Spread

#: columns after those that identify the row
VALUE_COLUMNS = ["quantity", "kind", "value", "low", "high", "error", "n", "p", "text"]
NUMERIC_COLUMNS = ["value", "low", "high", "error", "n", "p"]

# kinds of values
ESTIMATE = "estimate"  # value with low and high
MEAN = "mean"  # value with its standard error
SPREAD = "spread"  # mean, minimum (low) and maximum (high) over training seeds
COUNT = "count"  # a whole number that must be the same in every run of a profile
NUMBER = "number"  # a number without an interval
CHOICE = "choice"  # a text, or what a run selected among nearly equal candidates
MEASURED = "measured"  # depends on the machine, such as seconds


def tidy_table(
    table: pd.DataFrame, keys: list[str], measured: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Return a table in tidy form, with one line for each value.

    Args:
        table: a table of estimates, numbers and texts.
        keys: the columns that together identify a row.
        measured: columns that depend on the machine, such as seconds.

    Returns:
        The keys, then `VALUE_COLUMNS`. Empty cells are left out. A table without rows keeps its
        columns, so that programs need not handle it separately.

    Raises:
        ValueError: two rows have the same keys.
    """
    if table.empty:
        return pd.DataFrame(columns=[*keys, *VALUE_COLUMNS])
    if table.duplicated(keys).any():
        raise ValueError(f"rows of the table share the keys {keys}: name more columns")
    lines = []
    for row in table.to_dict("records"):
        names = {key: row[key] for key in keys}
        for column, value in row.items():
            if column not in keys and not _is_empty(value):
                kind = MEASURED if column in measured else kind_of(value)
                lines.append(names | {"quantity": column} | _numbers(value) | {"kind": kind})
    return pd.DataFrame(lines, columns=[*keys, *VALUE_COLUMNS], dtype=object)


def kind_of(value: Any) -> str:
    """Return the kind of a value."""
    if isinstance(value, Estimate):
        return ESTIMATE
    if isinstance(value, MeanWithError):
        return MEAN
    if isinstance(value, Spread):
        return SPREAD
    if isinstance(value, str | bool | np.bool_):
        return CHOICE
    if isinstance(value, int | np.integer):
        return COUNT
    return NUMBER


def _is_empty(value: Any) -> bool:
    if value is None or value is pd.NA or value is pd.NaT or value == "":
        return True
    return isinstance(value, float | np.floating) and math.isnan(value)


def _numbers(value: Any) -> dict[str, Any]:
    if isinstance(value, Estimate | MeanWithError | Spread):
        return value._asdict()
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        return {"value": value}
    return {"text": str(value)}


def read_tidy(path: Path) -> pd.DataFrame:
    """Read a table that was stored as numbers; keys and texts are kept unchanged, also "NA"."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column in NUMERIC_COLUMNS:
        table[column] = pd.to_numeric(table[column].replace("", np.nan))
    return table
