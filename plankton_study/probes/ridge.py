"""Ridge probes, which rank all cells with one eigendecomposition per cell."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import Cell
from plankton_study.probes import metrics
from plankton_study.probes.scaling import in_blocks, scaled_features
from plankton_study.run.progress import progress
from plankton_study.run.schema import Probes

#: share of the largest eigenvalue below which a component is only rounding
SMALLEST_COMPONENT = 1e-6
#: range of the logarithm of the factor that turns scores into logits
LOG_SHARPNESS = (-2.0, 6.0)
NOT_SCORED_AWAY = ("train", "validation")


class RidgePath:
    """One-vs-rest ridge regression for every penalty, from one eigendecomposition.

    The covariance S of standardised features has a mean eigenvalue of 1, so penalties are
    comparable between cells: W = (S + penalty I)^-1 X'Y / n. Keeping only the first eigenvectors
    gives the same probe on that many principal components.

    Args:
        features: blocks of standardised training features, (n, C) float32 in total.
        codes: (n,) int64 classes, each of 0 … K-1 present.
    """

    def __init__(self, features: Iterable[np.ndarray], codes: np.ndarray) -> None:
        classes = int(codes.max()) + 1
        self.shares = (np.bincount(codes) / len(codes)).astype(np.float32)
        covariance, targets = 0.0, 0.0
        for block, own_codes in zip(features, in_blocks(codes), strict=True):
            one_hot = np.eye(classes, dtype=np.float32)[own_codes]
            targets = targets + block.T @ (one_hot - self.shares) / len(codes)
            if len(codes) >= block.shape[1]:
                covariance = covariance + (block.T @ block).astype(np.float64) / len(codes)
        if len(codes) >= block.shape[1]:
            self.values, self.vectors = _eigenvectors(covariance)
        else:  # few images are a single block
            self.values, self.vectors = _components_of_few_images(block)
        self.targets = self.vectors.T @ targets

    def predict(
        self, features: Iterable[np.ndarray], penalty: float, width: int | None = None
    ) -> np.ndarray:
        """Return the predicted class codes (n,) for blocks of features.

        Args:
            features: standardised like the training features.
            penalty: relative to the mean eigenvalue.
            width: number of principal components; None: all.
        """
        weights = self.weights(penalty, width)
        return np.concatenate(
            [(block @ weights + self.shares).argmax(axis=1) for block in features]
        )

    def weights(self, penalty: float, width: int | None = None) -> np.ndarray:
        """Return the weights of standardised features, (C, K) float32; see `predict`."""
        scale = (1 / (self.values + penalty)).astype(np.float32)[:width]
        return self.vectors[:, :width] * scale @ self.targets[:width]


def _eigenvectors(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues of a symmetric matrix, the largest first, and its eigenvectors."""
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1].clip(min=0), vectors[:, ::-1].astype(np.float32)


def _components_of_few_images(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvectors of the covariance, from the products of the images.

    With fewer images than features, these are the smaller matrix.
    """
    products = (features @ features.T).astype(np.float64) / len(features)
    values, vectors = _eigenvectors(products)
    is_component = values > values[0] * SMALLEST_COMPONENT
    values, vectors = values[is_component], vectors[:, is_component]
    lengths = np.sqrt(values * len(features)).astype(np.float32)
    return values, features.T @ (vectors / lengths)


def sharpness(scores: np.ndarray, codes: np.ndarray) -> float:
    """Return the factor that makes the softmax of ridge scores most likely.

    Args:
        scores: (n, K) scores of images that the probe was not fitted to.
        codes: (n,) int64, their classes.
    """

    def loss(log_factor: float) -> float:
        logits = np.exp(log_factor) * scores
        own = logits[np.arange(len(codes)), codes]
        return float((logsumexp(logits, axis=1) - own).mean())

    return float(np.exp(minimize_scalar(loss, bounds=LOG_SHARPNESS, method="bounded").x))


class RidgeGrid(NamedTuple):
    """The results of the ridge probes of every cell.

    Attributes:
        table: a row for each cell: layer, timestep, accuracy and macro_f1 on validation images,
            penalty, equal_width (the score at the common width), and the score on each further
            part. The score is the profile's metric.
        predicted: (cells, n validation) taxa, with all features.
        predicted_at_equal_width: the same at the common width.
        width: the common width, the smallest number of features among the cells.
    """

    table: pd.DataFrame
    predicted: np.ndarray
    predicted_at_equal_width: np.ndarray
    width: int


def ridge_grid(
    bank: FeatureBank,
    cells: list[Cell],
    rows: dict[str, np.ndarray],
    taxa: dict[str, np.ndarray],
    config: Probes,
) -> RidgeGrid:
    """Fit ridge probes for every cell and penalty, and select each cell's penalty.

    Args:
        bank: the features.
        cells: the candidates.
        rows: "train", "validation" and further parts → rows.
        taxa: the same keys → taxon names of these rows.
        config: provides the penalties, and the metric that selects.
    """
    width = min(bank.width(cell) for cell in cells)
    lines, predicted, narrow = [], [], []
    for cell in progress(f"ridge probes of {len(cells)} cells", cells):
        probed = _probe_cell(bank, cell, rows, taxa, config, width)
        lines.append(probed.line)
        predicted.append(probed.predicted)
        narrow.append(probed.predicted_at_equal_width)
    table = pd.DataFrame(lines).astype({"timestep": "Int64"})
    return RidgeGrid(table, np.array(predicted), np.array(narrow), width)


class _ProbedCell(NamedTuple):
    """One cell's line of the table, and the taxa that its probes predict on validation images."""

    line: dict[str, Any]
    predicted: np.ndarray
    predicted_at_equal_width: np.ndarray


def _probe_cell(
    bank: FeatureBank,
    cell: Cell,
    rows: dict[str, np.ndarray],
    taxa: dict[str, np.ndarray],
    config: Probes,
    width: int,
) -> _ProbedCell:
    classes, codes = np.unique(taxa["train"], return_inverse=True)
    others = [part for part in rows if part != "train"]
    train, *scaled = scaled_features(bank, cell, rows["train"], *(rows[part] for part in others))
    features = dict(zip(others, scaled, strict=True))
    path = RidgePath(train, codes)

    def predicted(part: str, penalty: float, width: int | None = None) -> np.ndarray:
        return classes[path.predict(features[part], penalty, width)]

    truth = taxa["validation"]
    wide, narrow = {}, {}  # penalty → predicted taxa of the validation images
    for penalty in config.ridge:
        wide[penalty] = predicted("validation", penalty)
        narrow[penalty] = predicted("validation", penalty, width)
    penalty = best_penalty(wide, truth, config.metric)
    at_equal_width = narrow[best_penalty(narrow, truth, config.metric)]

    validation = metrics.scores(truth, wide[penalty])
    line = {
        "layer": cell.layer,
        "timestep": cell.timestep,
        "accuracy": validation["accuracy"][0],
        "macro_f1": validation["macro_f1"][0],
        "penalty": penalty,
        "equal_width": metrics.scores(truth, at_equal_width)[config.metric][0],
    }
    for part in others:
        if part not in NOT_SCORED_AWAY:
            away = metrics.scores(taxa[part], predicted(part, penalty))
            line[part] = away[config.metric][0]
    return _ProbedCell(line, wide[penalty], at_equal_width)


def best_penalty(predicted: dict[float, np.ndarray], truth: np.ndarray, metric: str) -> float:
    """Return the penalty whose predictions have the best score."""
    scores = {
        penalty: metrics.scores(truth, taxa)[metric][0] for penalty, taxa in predicted.items()
    }
    return max(scores, key=scores.__getitem__)
