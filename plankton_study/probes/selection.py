"""Selecting a cell: the candidates, the parts, and how certain the selection is."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from plankton_study.features.interface import HEAD, Cell, Encoder
from plankton_study.images.splits import Splits
from plankton_study.probes import intervals

SETTINGS = ("natural", "balanced")
SEARCHES = ("all", "equal", "predeclared")


def candidate_cells(encoder: Encoder, search: str, number: int = 0) -> list[Cell]:
    """Return the cells that a search may choose from.

    Args:
        encoder: the encoder that has the cells.
        search: "all" cells; "equal": `number` of them, evenly spaced over the layers at the
            predeclared timestep, including the last layer; or only the "predeclared" one.
        number: number of cells in the search "equal".
    """
    cells = [cell for cell in encoder.cells if cell != HEAD]
    if search == "predeclared":
        return [encoder.predeclared]
    if search == "all":
        return cells
    cells = [cell for cell in cells if cell.timestep == encoder.predeclared.timestep]
    positions = np.linspace(len(cells) - 1, 0, min(number, len(cells))).round().astype(int)
    return [cells[position] for position in sorted(positions)]


def cells_of(table: pd.DataFrame) -> list[Cell]:
    """Return the cells of a table's rows, from its columns layer and timestep."""
    return [cell_of(row) for _, row in table.iterrows()]


def cell_of(row: pd.Series) -> Cell:
    """Return the cell of one row of a table, from its columns layer and timestep."""
    timestep = row["timestep"]
    return Cell(row["layer"], None if pd.isna(timestep) else int(timestep))


def setting_classes(splits: Splits, setting: str) -> tuple[str, ...]:
    """Return the taxa of a setting, "natural" or "balanced"."""
    return splits.classes if setting == "natural" else splits.balanced_classes


def probed_parts(splits: Splits, setting: str, shifted_images: int = 1) -> dict[str, np.ndarray]:
    """Return the rows that a setting trains, selects and tests on.

    Args:
        splits: the splits of a set.
        setting: "natural" or "balanced".
        shifted_images: images that a taxon needs in a shifted part; other taxa are left out of it.
    """
    classes = setting_classes(splits, setting)
    train_part = "train" if setting == "natural" else "balanced"
    parts = {
        "train": splits[train_part],
        "validation": splits.restrict("validation", classes),
        "test": splits.restrict("test", classes),
    }
    for shift in splits.shifts:
        counts = pd.Series(splits.taxa(splits[shift])).value_counts()
        frequent = tuple(taxon for taxon in classes if counts.get(taxon, 0) >= shifted_images)
        if frequent:
            parts[shift] = splits.restrict(shift, frequent)
    return parts


class NearBest(NamedTuple):
    """How certain the selection of a cell is.

    Attributes:
        standard_error: standard error of the best cell's accuracy.
        is_near: (cells,) bool, within one standard error of the best.
        share: (cells,) share of bootstrap draws in which the cell is the best.
    """

    standard_error: float
    is_near: np.ndarray
    share: np.ndarray


def near_best(is_right: np.ndarray, groups: np.ndarray, draws: int) -> NearBest:
    """Return which cells the validation data cannot distinguish from the best one.

    Args:
        is_right: (cells, n) bool, whether each validation image is predicted correctly.
        groups: (n,) codes of the groups that are resampled as a whole.
        draws: number of bootstrap draws.
    """
    weights = intervals.resample(groups, draws, seed=1)
    drawn = weights @ is_right.T.astype(float) / weights.sum(axis=1, keepdims=True)
    accuracy = is_right.mean(axis=1)
    best = accuracy.argmax()
    standard_error = float(drawn[:, best].std())
    is_near = accuracy >= accuracy[best] - standard_error
    share = np.bincount(drawn.argmax(axis=1), minlength=len(is_right)) / draws
    return NearBest(standard_error, is_near, share)
