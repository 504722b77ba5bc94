"""What features encode besides the taxon (size, day, place), and whether selected cells survive."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeClassifier, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from plankton_study.probes import intervals
from plankton_study.probes.intervals import Estimate
from plankton_study.probes.linear.lda import lda_grid
from plankton_study.probes.probe import read_features
from plankton_study.probes.selection import cell_of, cells_of, probed_parts
from plankton_study.questions.shift.shifted_parts import ShiftedPart
from plankton_study.run.study import Study

#: bootstrap draws over cells
CELL_DRAWS = 200
RIDGE_PENALTIES = np.logspace(0, 6, 7)
CLASSIFIER_PENALTY = 100.0


def cells_at_home_and_away(study: Study, parts: list[ShiftedPart]) -> dict[str, pd.DataFrame]:
    """Return for each set the scores of every diffusion cell's LDA probe, at home and away.

    Each probe is fitted at home, with the penalty selected there.

    Returns:
        Set → table: layer, timestep, accuracy and macro_f1 (on validation images); for each
        shifted part the score (the profile's metric) on its images, and in "home of <part>" on
        the test images of the same taxa; and stage, resolution, channels and order of the layer.
    """
    grids: dict[str, pd.DataFrame] = {}
    for shifted in parts:
        if shifted.set in grids:
            continue
        splits = shifted.splits
        result = shifted.comparison.results["diffusion"]
        encoder, bank = read_features(study, splits, "diffusion")
        rows = {"train": probed_parts(splits, "natural")["train"]}
        rows |= {part: index for part, index in result.rows.items() if part != "test"}
        for other in parts:
            if other.set == shifted.set:
                rows[_home_of(other.part)] = other.at_home(result).rows["test"]
        taxa = {part: splits.taxa(index).astype(str) for part, index in rows.items()}
        grid = lda_grid(bank, encoder.cells, rows, taxa, study.profile.probes)
        grids[shifted.set] = grid.table.join(bank.layers, on="layer")
    return grids


def _home_of(part: str) -> str:
    """Return the column of the scores at home over the taxa of a shifted part."""
    return f"home of {part}"


def survival_table(
    study: Study, parts: list[ShiftedPart], grids: dict[str, pd.DataFrame]
) -> pd.DataFrame:
    """Return how the cells that are best at home, on validation images, perform away.

    Returns:
        Columns set, part, cells, rank correlation, best at home, away (%), best away (%),
        best cell away.
    """
    lines = []
    metric = study.profile.probes.metric
    rng = np.random.default_rng(0)
    for shifted in parts:
        grid = grids[shifted.set]
        best_home, best_away = grid[metric].idxmax(), grid[shifted.part].idxmax()
        lines.append(
            {
                "set": shifted.set,
                "part": shifted.part,
                "cells": len(grid),
                "rank correlation": rank_correlation(grid, metric, shifted.part, rng),
                "best at home, away (%)": 100 * grid[shifted.part][best_home],
                "best away (%)": 100 * grid[shifted.part][best_away],
                "best cell away": str(cell_of(grid.loc[best_away])),
            }
        )
    return pd.DataFrame(lines)


def rank_correlation(
    table: pd.DataFrame, first: str, second: str, rng: np.random.Generator
) -> Estimate:
    """Return Spearman's correlation of two columns, with an interval over the rows (cells).

    Cells are not independent, so the interval is only a rough guide.
    """
    values = [_spearman(table, first, second)]
    for _ in range(CELL_DRAWS):
        drawn = table.iloc[rng.integers(len(table), size=len(table))]
        values.append(_spearman(drawn, first, second))
    return intervals.percentiles(np.array(values), len(table))


def _spearman(table: pd.DataFrame, first: str, second: str) -> float:
    """Return Spearman's correlation; NaN if a column is constant, as in a draw of few cells."""
    if table[first].nunique() < 2 or table[second].nunique() < 2:
        return np.nan
    return spearmanr(table[first], table[second]).statistic


# --- nuisances


def nuisance_columns(
    study: Study, parts: list[ShiftedPart], grids: dict[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Return the grids with columns for the nuisances that each cell encodes.

    The columns "size" and "day" are the R² of `readable_variance`, if size or day is known for all
    images. The column "home or away: <part>" is the AUROC of `home_away_auroc`.
    """
    grids = {name: grid.copy() for name, grid in grids.items()}
    finished_sets = set()
    for shifted in parts:
        grid = grids[shifted.set]
        if shifted.set not in finished_sets:
            _add_size_and_day(study, shifted, grid)
            finished_sets.add(shifted.set)
        _add_home_away_auroc(study, shifted, grid)
    return grids


def _add_size_and_day(study: Study, shifted: ShiftedPart, grid: pd.DataFrame) -> None:
    splits = shifted.splits
    _, bank = read_features(study, splits, "diffusion")
    records = splits.collection.records
    train = probed_parts(splits, "natural")["train"]
    test = shifted.comparison.results["diffusion"].rows["test"]
    both = np.append(train, test)
    nuisances = {
        "size": np.log(records[["width", "height"]].max(axis=1)),
        "day": records["time"].dt.day_of_year,
    }
    for name, values in nuisances.items():
        if values.iloc[both].isna().any():
            continue
        numbers = values.to_numpy(float)
        column = []
        for cell in cells_of(grid):
            train_features, test_features = bank.take(cell, train), bank.take(cell, test)
            column.append(
                readable_variance(
                    train_features,
                    test_features,
                    numbers[train],
                    numbers[test],
                    splits.taxa(both),
                )
            )
        grid[name] = column


def _add_home_away_auroc(study: Study, shifted: ShiftedPart, grid: pd.DataFrame) -> None:
    splits = shifted.splits
    _, bank = read_features(study, splits, "diffusion")
    away = shifted.rows
    rows = np.append(splits.restrict("test", shifted.taxa), away)
    is_away = np.isin(rows, away)
    taxa, groups = splits.taxa(rows).astype(str), splits.groups(rows)
    grid[f"home or away: {shifted.part}"] = [
        home_away_auroc(bank.take(cell, rows), is_away, taxa, groups) for cell in cells_of(grid)
    ]


def readable_variance(
    train_features: np.ndarray,
    test_features: np.ndarray,
    train_values: np.ndarray,
    test_values: np.ndarray,
    taxa: np.ndarray,
) -> float:
    """Return the share of a nuisance's within-taxon variance that ridge predicts from features.

    First, the mean over the training images of the same taxon is subtracted from the features and
    from the nuisance.

    Args:
        train_features, test_features: (n, C) and (m, C).
        train_values, test_values: (n,) and (m,), such as the size or the day.
        taxa: (n + m,) taxa, all of which must occur among the training images.

    Returns:
        R² on the test images, at most 1; at or below 0 the features contain no such information.
    """
    n = len(train_features)
    values = np.column_stack(
        [
            np.concatenate([train_features, test_features]),
            np.concatenate([train_values, test_values]),
        ]
    )
    means = pd.DataFrame(values[:n]).groupby(taxa[:n]).mean()
    within = values - means.loc[taxa].to_numpy()
    train, test = within[:n], within[n:]
    model = make_pipeline(StandardScaler(), RidgeCV(RIDGE_PENALTIES))
    model.fit(train[:, :-1], train[:, -1])
    return float(r2_score(test[:, -1], model.predict(test[:, :-1])))


def home_away_auroc(
    features: np.ndarray,
    is_away: np.ndarray,
    taxa: np.ndarray,
    groups: np.ndarray,
    seed: int = 0,
) -> float:
    """Return how well ridge classification separates away from home at an equal class mix.

    The same number of home and away images is drawn for each taxon.

    Args:
        features: (n, C).
        is_away: (n,) bool.
        taxa: (n,).
        groups: (n,) codes of the groups that must stay in one fold.
        seed: seed of the draw and the folds.

    Returns:
        AUROC; 0.5 if they cannot be separated, NaN if a side has fewer than two groups.
    """
    rows = _equal_mix(is_away, taxa, np.random.default_rng(seed))
    for side in (False, True):
        if len(np.unique(groups[rows][is_away[rows] == side])) < 2:
            return float("nan")
    folds = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), RidgeClassifier(CLASSIFIER_PENALTY))
    score = cross_val_predict(
        model,
        features[rows],
        is_away[rows],
        groups=groups[rows],
        cv=folds,
        method="decision_function",
    )
    return float(roc_auc_score(is_away[rows], score))


def _equal_mix(is_away: np.ndarray, taxa: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the same number of home and away rows for every taxon."""
    drawn = []
    for taxon in np.unique(taxa):
        home = np.flatnonzero((taxa == taxon) & ~is_away)
        away = np.flatnonzero((taxa == taxon) & is_away)
        count = min(len(home), len(away))
        drawn.append(rng.permutation(home)[:count])
        drawn.append(rng.permutation(away)[:count])
    return np.concatenate(drawn)


def nuisances_table(parts: list[ShiftedPart], grids: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the nuisances that cells encode, and their correlation with the score lost away.

    Args:
        parts: the shifted parts.
        grids: from `nuisance_columns`.

    Returns:
        Columns set, part, nuisance, measure, least, median, most (over cells), and correlation
        with loss (over cells; "none" if no cell encodes the nuisance).
    """
    lines: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    for shifted in parts:
        grid = grids[shifted.set]
        grid = grid.assign(loss=grid[_home_of(shifted.part)] - grid[shifted.part])
        home_or_away = f"home or away: {shifted.part}"
        measures = {"size": "R²", "day": "R²", home_or_away: "AUROC"}
        for column, measure in measures.items():
            if column in grid:
                least, median, most = grid[column].quantile([0, 0.5, 1])
                is_encoded = most > (0 if measure == "R²" else 0.5)
                correlation = rank_correlation(grid, column, "loss", rng) if is_encoded else "none"
                lines.append(
                    {
                        "set": shifted.set,
                        "part": shifted.part,
                        "nuisance": column.partition(":")[0],
                        "measure": measure,
                        "least": least,
                        "median": median,
                        "most": most,
                        "correlation with loss": correlation,
                    }
                )
    return pd.DataFrame(lines)
