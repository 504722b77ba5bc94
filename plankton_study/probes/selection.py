"""Selecting a cell: the candidates, the parts, and how certain the selection is."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from plankton_study.features.interface import ALL_LAYERS, HEAD, Cell, Encoder
from plankton_study.images.splits import Splits
from plankton_study.probes import intervals, metrics

SETTINGS = ("natural", "balanced")
#: the search over timesteps of all layers together; the other ones choose a single layer
JOINED = "all layers"
#: the search over all cells without logistic regression, which takes most of the time
LDA_ONLY = "all by LDA"
SEARCHES = ("all", "equal", "predeclared", JOINED, LDA_ONLY)


def candidate_cells(encoder: Encoder, search: str, number: int = 0) -> list[Cell]:
    """Return the cells that a search may choose from.

    Args:
        encoder: the encoder that has the cells.
        search: "all" cells; "equal": `number` of them, evenly spaced over the layers at the
            predeclared timestep, including the last layer; only the "predeclared" one; with "all
            layers", for each timestep the cell that joins all of its layers; or "all by LDA": all
            cells, of which no logistic regression is fitted.
        number: number of cells in the search "equal".
    """
    cells = [cell for cell in encoder.cells if cell != HEAD]
    if search == "predeclared":
        return [encoder.predeclared]
    if search in ("all", LDA_ONLY):
        return cells
    if search == JOINED:
        timesteps = dict.fromkeys(cell.timestep for cell in cells)
        return [Cell(ALL_LAYERS, timestep) for timestep in timesteps]
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
        shifted_images: images that a taxon needs in the test part and in a shifted part; other
            taxa are left out of the shifted part, so that home and away are scored over the same
            taxa. A shifted part with fewer than two such taxa is left out.
    """
    classes = setting_classes(splits, setting)
    train_part = "train" if setting == "natural" else "balanced"
    parts = {
        "train": splits[train_part],
        "validation": splits.restrict("validation", classes),
        "test": splits.restrict("test", classes),
    }
    at_home = _frequent_taxa(splits, "test", shifted_images)
    for shift in splits.shifts:
        shared = at_home & _frequent_taxa(splits, shift, shifted_images) & set(classes)
        if len(shared) > 1:
            parts[shift] = splits.restrict(shift, tuple(sorted(shared)))
    return parts


def _frequent_taxa(splits: Splits, part: str, images: int) -> set[str]:
    """Return the taxa that have at least so many images in a part."""
    counts = pd.Series(splits.taxa(splits[part])).value_counts()
    return set(counts.index[counts >= images])


class NearBest(NamedTuple):
    """How certain the selection of a cell is.

    Attributes:
        standard_error: standard error of the best cell's score.
        is_near: (cells,) bool, whether the 95 % interval of the paired difference between the best
            cell and this one includes zero.
        share: (cells,) share of bootstrap draws in which the cell is the best.
    """

    standard_error: float
    is_near: np.ndarray
    share: np.ndarray


def near_best(
    truth: np.ndarray, predicted: np.ndarray, units: intervals.Units, draws: int, metric: str
) -> NearBest:
    """Return which cells the validation data cannot distinguish from the best one.

    Args:
        truth: (n,) taxa of the validation images.
        predicted: (cells, n) taxa that each cell's probe predicts.
        units: what a bootstrap draw resamples.
        draws: number of bootstrap draws.
        metric: a key of `metrics.scores`.
    """
    weights = intervals.draw_weights(units, draws, seed=1)
    scores = np.array([metrics.scores(truth, taxa, weights)[metric] for taxa in predicted])
    drawn = scores[:, 1:]
    if not drawn.size:  # a single day or sample: nothing can be distinguished
        return NearBest(np.nan, np.ones(len(scores), bool), np.full(len(scores), np.nan))
    best = scores[:, 0].argmax()
    lead = drawn[best] - drawn
    is_near = np.percentile(lead, 2.5, axis=1) <= 0
    share = np.bincount(drawn.argmax(axis=0), minlength=len(scores)) / drawn.shape[1]
    return NearBest(float(drawn[best].std()), is_near, share)
