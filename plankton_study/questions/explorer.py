"""What the explorer shows: every cell of every encoder, and what encoders call each test image."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import Cell
from plankton_study.images.splits import Splits
from plankton_study.probes.intervals import Estimate, Units, units_of
from plankton_study.probes.linear.lda import lda_grid
from plankton_study.probes.metrics import estimates
from plankton_study.probes.probe import read_features
from plankton_study.probes.result import ProbeResult
from plankton_study.probes.selection import JOINED, LDA_ONLY, candidate_cells, probed_parts
from plankton_study.questions.clusters import Clusters
from plankton_study.questions.compare import ProbeResults
from plankton_study.run.study import Study

#: bootstrap draws of an interval: there are many cells, and they are shown with one decimal
DRAWS = 200
CONFUSIONS_OF_A_CELL = 5
NEIGHBOURS = 4
#: test images of each taxon that can be looked at
IMAGES_OF_A_TAXON = 12


def cells_of_encoder(study: Study, splits: Splits, name: str) -> list[dict[str, Any]]:
    """Return the validation scores of an LDA probe on every cell of an encoder.

    Args:
        study, splits: the images; labels have their natural numbers.
        name: name of the encoder.

    Returns:
        A dictionary for each cell and, as the layer "all layers", for each timestep: layer and
        timestep; resolution (px), where known; accuracy and macro_f1, in percent, as [value, low,
        high]; and confusions, the commonest [true taxon, taken for, number of images].
    """
    encoder, bank = read_features(study, splits, name)
    parts = probed_parts(splits, "natural")
    rows = {part: parts[part] for part in ("train", "validation")}
    taxa = {part: splits.taxa(part_rows).astype(str) for part, part_rows in rows.items()}
    units = units_of(splits, rows["validation"])
    lines = []
    for search in (LDA_ONLY, JOINED):
        cells = candidate_cells(encoder, search)
        grid = lda_grid(bank, cells, rows, taxa, study.profile.probes)
        for cell, predicted in zip(cells, grid.predicted, strict=True):
            scores = _scores(taxa["validation"], predicted, units)
            confusions = _confusions(taxa["validation"], predicted)
            lines.append(_place(cell, bank) | scores | {"confusions": confusions})
    return lines


def _place(cell: Cell, bank: FeatureBank) -> dict[str, Any]:
    """Return layer, timestep and resolution of a cell."""
    sides = bank.layers.reindex(columns=["resolution"])["resolution"]
    side = sides.get(cell.layer)  # None for all layers together
    resolution = None if pd.isna(side) else int(side)
    return {"layer": cell.layer, "timestep": cell.timestep, "resolution": resolution}


def _scores(truth: np.ndarray, predicted: np.ndarray, units: Units) -> dict[str, list[float]]:
    scores = estimates(truth, predicted, units, DRAWS)
    return {metric: _percents(scores[metric]) for metric in ("accuracy", "macro_f1")}


def _percents(estimate: Estimate) -> list[float | None]:
    """Return value and interval in percent; None instead of an unknown bound."""
    numbers = (estimate.value, estimate.low, estimate.high)
    return [None if np.isnan(number) else round(100 * number, 1) for number in numbers]


def _confusions(truth: np.ndarray, predicted: np.ndarray) -> list[list[Any]]:
    is_wrong = truth != predicted
    pairs = zip(truth[is_wrong].tolist(), predicted[is_wrong].tolist(), strict=True)
    commonest = Counter(pairs).most_common(CONFUSIONS_OF_A_CELL)
    return [[true, taken_for, count] for (true, taken_for), count in commonest]


def positions_to_show(taxa: np.ndarray) -> np.ndarray:
    """Return the positions of at most 12 test images of each taxon, drawn at random, sorted."""
    shuffled = pd.Series(taxa).sample(frac=1, random_state=0)
    return np.sort(shuffled.groupby(shuffled).head(IMAGES_OF_A_TAXON).index.to_numpy())


def images_to_show(
    study: Study, splits: Splits, results: ProbeResults, clusters: Clusters
) -> dict[str, Any]:
    """Return what every encoder calls some test images, and the training images that resemble them.

    Args:
        study, splits: the images.
        results: encoder → its probe in the natural setting.
        clusters: the k-means clusters of diffusion's features.

    Returns:
        taxa: the classes;
        images: for each image its row, taxon, cluster, and the rows of the nearest training images
        in the features of diffusion's chosen cell;
        names: encoder → for each image [position of the taxon in `taxa`, probability in percent];
        training: row of each of these training images → its taxon.
    """
    diffusion = results["diffusion"]
    rows = diffusion.rows["test"]
    taxa = splits.taxa(rows).astype(str)
    shown = positions_to_show(taxa)
    cluster_of = dict(zip(clusters.rows.tolist(), clusters.labels[0].tolist(), strict=True))
    neighbours = _nearest_training_rows(study, splits, diffusion, rows[shown])
    images = [
        {
            "row": int(row),
            "taxon": str(taxon),
            "cluster": cluster_of.get(int(row)),
            "nearest": nearest.tolist(),
        }
        for row, taxon, nearest in zip(rows[shown], taxa[shown], neighbours, strict=True)
    ]
    training = np.unique(neighbours)
    taxa_of_training = splits.taxa(training).astype(str)
    return {
        "taxa": diffusion.classes.tolist(),
        "images": images,
        "names": {name: _names(result, shown) for name, result in results.items()},
        "training": dict(zip(map(str, training.tolist()), taxa_of_training.tolist(), strict=True)),
    }


def _names(result: ProbeResult, shown: np.ndarray) -> list[list[int]]:
    """Return [position of the class, probability in percent] of some test images."""
    probabilities = result.heads["linear"]["test"][shown]
    best = probabilities.argmax(axis=1)
    percents = 100 * probabilities[np.arange(len(best)), best]
    return [[int(taxon), round(float(percent))] for taxon, percent in zip(best, percents)]


def _nearest_training_rows(
    study: Study, splits: Splits, result: ProbeResult, rows: np.ndarray
) -> np.ndarray:
    """Return the rows of the training images whose features are nearest, (n, NEIGHBOURS)."""
    _, bank = read_features(study, splits, result.name)
    training = probed_parts(splits, "natural")["train"]
    known, own = result.features(bank, training), result.features(bank, rows)
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(training)), metric="cosine")
    search.fit(known.whole())
    positions = search.kneighbors(own.whole(), return_distance=False)
    return training[positions]
