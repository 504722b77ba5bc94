"""Scores over all training seeds, from the stored tables of each run."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from plankton_study.probes.intervals import Estimate, mean_of_seeds
from plankton_study.questions.training.budgets import MACRO_F1

ENCODER, LEARNT_FROM, READ_OUT = "encoder", "learnt from", "read-out"
SETTINGS = ("balanced", "natural")
ONE_CELL, ALL_LAYERS, AS_TRAINED = "one cell", "all layers", "as trained"
#: head in the stored table of a setting → read-out
HEADS = {"linear": ONE_CELL, "end to end": AS_TRAINED}
#: setting → the stored table with all layers of one timestep
ALL_LAYERS_TABLES = {"balanced": "read_outs", "natural": "natural_read_outs"}
#: the stored tables that `main_scores` needs
MAIN_TABLES = (*SETTINGS, *ALL_LAYERS_TABLES.values())


def estimates_over_seeds(
    tables: Mapping[int, pd.DataFrame], keys: Sequence[str], in_all: bool = True
) -> pd.DataFrame:
    """Return the mean over training seeds of every estimate in a stored table.

    Args:
        tables: training seed → the table as numbers, see `report.tidy`.
        keys: the columns that together identify an estimate.
        in_all: whether estimates that some seeds lack are left out.

    Returns:
        The keys; estimate, of which n is the smallest number of images; and seeds, their number.
    """
    table = pd.concat(tables.values(), ignore_index=True)
    table = table[table["kind"] == "estimate"]
    lines = []
    for values, rows in table.groupby(list(keys), sort=False):
        if len(rows) == len(tables) or not in_all:
            lines.append([*values, _mean_estimate(rows), len(rows)])
    return pd.DataFrame(lines, columns=[*keys, "estimate", "seeds"])


def _mean_estimate(rows: pd.DataFrame) -> Estimate:
    """Return the mean of one estimate, given one row for each seed."""
    numbers = rows[["value", "low", "high"]].to_numpy(dtype=float)
    value, low, high, *_ = mean_of_seeds(*numbers.T)
    images = rows["n"].min()
    return Estimate(value, low, high, 0 if np.isnan(images) else int(images))


def main_scores(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the macro-F1 of every encoder in one run.

    Args:
        tables: name of each of MAIN_TABLES → the table as numbers.

    Returns:
        The rows of these tables with two more columns: setting, and read-out ("one cell",
        "all layers", or "as trained" for networks with a classifier of their own).
    """
    parts = []
    for setting in SETTINGS:
        heads = tables[setting]
        heads = heads[heads["quantity"] == MACRO_F1]
        parts.append(heads.assign(**{"setting": setting, READ_OUT: heads["head"].map(HEADS)}))
        joined = tables[ALL_LAYERS_TABLES[setting]]
        joined = joined[joined["quantity"] == f"{ALL_LAYERS} (%)"]
        parts.append(joined.assign(**{"setting": setting, READ_OUT: ALL_LAYERS}))
    scores = pd.concat(parts, ignore_index=True)
    return scores.dropna(subset=[READ_OUT])


def families(natural: pd.DataFrame) -> dict[str, str]:
    """Return encoder → what it learnt from, as the stored table of the natural setting says."""
    stated = natural[natural["quantity"] == LEARNT_FROM]
    return dict(zip(stated[ENCODER], stated["text"], strict=True))


def main_table(scores: pd.DataFrame, learnt_from: Mapping[str, str]) -> pd.DataFrame:
    """Return the main comparison: one line for each encoder, one column for each way to read it.

    Args:
        scores: `estimates_over_seeds` of `main_scores`.
        learnt_from: of `families`.

    Returns:
        Columns encoder, learnt from, then e.g. "balanced, one cell (%)"; estimates, or "" where an
        encoder has no such score.
    """
    read_outs = (ONE_CELL, ALL_LAYERS, AS_TRAINED)
    columns = [(setting, read_out) for setting in SETTINGS for read_out in read_outs]
    lines = []
    for encoder, rows in scores.groupby(ENCODER, sort=False):
        places = zip(rows["setting"], rows[READ_OUT], strict=True)
        own = dict(zip(places, rows["estimate"], strict=True))
        lines.append([encoder, learnt_from[encoder], *(own.get(place, "") for place in columns)])
    titles = [f"{setting}, {read_out} (%)" for setting, read_out in columns]
    return pd.DataFrame(lines, columns=[ENCODER, LEARNT_FROM, *titles])
