"""Probes by linear discriminant analysis, which rank all cells.

One eigendecomposition of a cell's features serves every penalty.

Both this and logistic regression are linear classifiers. Regression on one-hot targets, which is as
fast, would hardly ever predict rare classes, and so rank cells poorly by macro-F1.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from plankton_study.features.bank import FeatureBank
from plankton_study.features.interface import Cell
from plankton_study.probes import metrics
from plankton_study.probes.linear.scaling import ScaledFeatures, in_blocks, scaled_features
from plankton_study.run.progress import progress
from plankton_study.run.schema import Probes

#: share of the largest eigenvalue below which a component is only rounding (of float64)
SMALLEST_COMPONENT = 1e-10
#: range of the logarithm of the factor that makes logits as certain as they are right, if their
#: standard deviation is 1
LOG_SHARPNESS = (-7.0, 7.0)
NOT_SCORED_AWAY = ("train", "validation")


class LdaScorer(NamedTuple):
    """Logits of the classes for one penalty: features @ weights + bias.

    Attributes:
        weights: (C, K) float32.
        bias: (K,) float32; it holds the log shares.
        log_shares: (K,) float32, logarithms of the shares of the classes among training images.
    """

    weights: np.ndarray
    bias: np.ndarray
    log_shares: np.ndarray

    def logits(self, features: Iterable[np.ndarray]) -> np.ndarray:
        """Return the logits (n, K) for blocks of features."""
        return np.concatenate([block @ self.weights + self.bias for block in features])

    def predict(self, features: Iterable[np.ndarray]) -> np.ndarray:
        """Return the predicted class codes (n,) for blocks of features."""
        return self.logits(features).argmax(axis=1)


class LdaPath:
    """Linear discriminant analysis for every ridge penalty, from one eigendecomposition.

    The logit of a class with mean m is x'Wm - m'Wm / 2 + log share, where W = (S + penalty I)^-1
    and S is the covariance within classes (Friedman 1989). The class with the largest logit is
    predicted. Features are standardised, so penalties are comparable between cells.

    Args:
        features: blocks of standardised training features, (n, C) float32 in total; iterated
            over once.
        codes: (n,) int64 classes, each of 0 … K-1 present.
    """

    def __init__(self, features: Iterable[np.ndarray], codes: np.ndarray) -> None:
        counts = np.bincount(codes)
        self.log_shares = np.log(counts / len(codes)).astype(np.float32)
        sums, covariance = 0.0, _Covariance(len(codes))
        for block, own_codes in zip(features, in_blocks(codes), strict=True):
            one_hot = np.eye(len(counts), dtype=np.float32)[own_codes]
            sums = sums + (one_hot.T @ block).astype(np.float64)
            covariance.add(block)
        self.means = sums / counts[:, None]  # (K, C)
        self.values, self.vectors = covariance.eigenvectors_within(self.means, codes)

    def scorer(self, penalty: float) -> LdaScorer:
        """Return what scores features that are standardised like the training features.

        Args:
            penalty: relative to the variance of a feature.
        """
        # W is 1 / (value + penalty) along the eigenvectors, and 1 / penalty along all others
        along_vectors = 1 / (self.values + penalty) - 1 / penalty
        weights = (self.means @ self.vectors) * along_vectors @ self.vectors.T
        weights += self.means / penalty
        bias = self.log_shares - (weights * self.means).sum(axis=1) / 2
        return LdaScorer(weights.T.astype(np.float32), bias.astype(np.float32), self.log_shares)


class _Covariance:
    """The covariance of features of mean 0, from blocks.

    If there are fewer images than features, the images are kept, since their products are a
    smaller matrix with the same eigenvalues.

    Args:
        images: number of images in all blocks.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self.kept: list[np.ndarray] = []
        self.matrix: np.ndarray | float = 0.0

    def add(self, block: np.ndarray) -> None:
        """Add the features (n, C) of some images."""
        block = block.astype(np.float64)  # in float32, rounding would hide the small eigenvalues
        if self.images < block.shape[1]:
            self.kept.append(block)
        else:
            self.matrix = self.matrix + block.T @ block / self.images

    def eigenvectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the eigenvalues (r,), the largest first, and the eigenvectors (C, r)."""
        if self.kept:
            return _components_of_few_images(np.concatenate(self.kept))
        return _eigenvectors(self.matrix)

    def eigenvectors_within(
        self, means: np.ndarray, codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same of the covariance within classes.

        Args:
            means: (K, C) of the classes.
            codes: (n,) classes of the images.
        """
        if self.kept:
            return _components_of_few_images(np.concatenate(self.kept) - means[codes])
        shares = np.bincount(codes) / len(codes)
        return _eigenvectors(self.matrix - (means.T * shares) @ means)


def _eigenvectors(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues of a symmetric matrix, the largest first, and its eigenvectors."""
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1].clip(min=0), vectors[:, ::-1]


def _components_of_few_images(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvectors of the covariance, from the products of the images."""
    values, vectors = _eigenvectors(features @ features.T / len(features))
    is_component = values > values[0] * SMALLEST_COMPONENT
    values, vectors = values[is_component], vectors[:, is_component]
    return values, features.T @ (vectors / np.sqrt(values * len(features)))


def principal_components(features: Iterable[np.ndarray], images: int, width: int) -> np.ndarray:
    """Return the first principal components of standardised features, (C, width) float32.

    Args:
        features: blocks of training features, (n, C) float32 in total; iterated over once.
        images: their number n.
        width: number of components; fewer images than that give fewer.
    """
    covariance = _Covariance(images)
    for block in features:
        covariance.add(block)
    _, vectors = covariance.eigenvectors()
    return vectors[:, :width].astype(np.float32)


def sharpness(logits: np.ndarray, codes: np.ndarray) -> float:
    """Return the factor of the logits that makes the classes most likely (Guo et al. 2017).

    Logits are too certain where the covariance comes from few images, and too uncertain where the
    penalty is large.

    Args:
        logits: (n, K) of images that the probe was not fitted to.
        codes: (n,) int64, the classes of the images.
    """
    unit = logits / spread(logits)

    def loss(log_factor: float) -> float:
        scaled = np.exp(log_factor) * unit
        own = scaled[np.arange(len(codes)), codes]
        return float((logsumexp(scaled, axis=1) - own).mean())

    log_factor = minimize_scalar(loss, bounds=LOG_SHARPNESS, method="bounded").x
    return float(np.exp(log_factor)) / spread(logits)


def spread(logits: np.ndarray) -> float:
    """Return the standard deviation of all finite logits (n, K); 1 if they are all equal."""
    return float(logits[np.isfinite(logits)].std(dtype=np.float64)) or 1.0


class LdaGrid(NamedTuple):
    """The results of the LDA probes of every cell.

    Attributes:
        table: a row for each cell: layer, timestep, accuracy and macro_f1 on validation images,
            penalty, equal_width (the score at the common width), and the score on each further
            part. The score is the profile's metric.
        predicted: (cells, n validation) taxa, with all features.
        predicted_at_equal_width: the same at the common width.
        width: the common width, the smallest number of features among the cells.
        scorers: one for each cell, with its selected penalty and all features.
    """

    table: pd.DataFrame
    predicted: np.ndarray
    predicted_at_equal_width: np.ndarray
    width: int
    scorers: list[LdaScorer]


def lda_grid(
    bank: FeatureBank,
    cells: list[Cell],
    rows: dict[str, np.ndarray],
    taxa: dict[str, np.ndarray],
    config: Probes,
) -> LdaGrid:
    """Fit LDA probes for every cell and penalty, and select each cell's penalty.

    Args:
        bank: the features.
        cells: the candidates.
        rows: "train", "validation" and further parts → rows.
        taxa: the same keys → taxon names of these rows.
        config: provides the penalties, and the metric that selects.
    """
    width = min(bank.width(cell) for cell in cells)
    probed = [
        _probe_cell(bank, cell, rows, taxa, config, width)
        for cell in progress(f"LDA probes of {len(cells)} cells", cells)
    ]
    return LdaGrid(
        table=pd.DataFrame([cell.line for cell in probed]).astype({"timestep": "Int64"}),
        predicted=np.array([cell.predicted for cell in probed]),
        predicted_at_equal_width=np.array([cell.predicted_at_equal_width for cell in probed]),
        width=width,
        scorers=[cell.scorer for cell in probed],
    )


class _ProbedCell(NamedTuple):
    """One cell's line of the table, and its parts of the other attributes of an `LdaGrid`."""

    line: dict[str, Any]
    predicted: np.ndarray
    predicted_at_equal_width: np.ndarray
    scorer: LdaScorer


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
    path = LdaPath(train, codes)
    truth = taxa["validation"]
    penalty, scorer, predicted = _select(path, features["validation"], classes, truth, config)
    predicted_at_equal_width = predicted
    if bank.width(cell) > width:
        components = principal_components(train, len(codes), width)
        narrow_path = LdaPath(_Projected(train, components), codes)
        narrow = _Projected(features["validation"], components)
        _, _, predicted_at_equal_width = _select(narrow_path, narrow, classes, truth, config)

    validation = metrics.scores(truth, predicted)
    line = {
        "layer": cell.layer,
        "timestep": cell.timestep,
        "accuracy": validation["accuracy"][0],
        "macro_f1": validation["macro_f1"][0],
        "penalty": penalty,
        "equal_width": metrics.scores(truth, predicted_at_equal_width)[config.metric][0],
    }
    for part in others:
        if part not in NOT_SCORED_AWAY:
            away = classes[scorer.predict(features[part])]
            line[part] = metrics.scores(taxa[part], away)[config.metric][0]
    return _ProbedCell(line, predicted, predicted_at_equal_width, scorer)


class _Projected:
    """The principal components of features, in the same blocks."""

    def __init__(self, features: ScaledFeatures, components: np.ndarray) -> None:
        self.features = features
        self.components = components

    def __iter__(self) -> Iterator[np.ndarray]:
        return (block @ self.components for block in self.features)


def _select(
    path: LdaPath,
    validation: Iterable[np.ndarray],
    classes: np.ndarray,
    truth: np.ndarray,
    config: Probes,
) -> tuple[float, LdaScorer, np.ndarray]:
    """Return the penalty that is best on validation images, its scorer, and the predicted taxa.

    Of equally good penalties it is the largest.
    """
    penalties = sorted(config.penalties, reverse=True)
    scorers = {penalty: path.scorer(penalty) for penalty in penalties}
    predicted = {
        penalty: classes[scorer.predict(validation)] for penalty, scorer in scorers.items()
    }
    penalty = best_penalty(predicted, truth, config.metric)
    return penalty, scorers[penalty], predicted[penalty]


def best_penalty(predicted: dict[float, np.ndarray], truth: np.ndarray, metric: str) -> float:
    """Return the first penalty whose predictions have the best score."""
    scores = {
        penalty: metrics.scores(truth, taxa)[metric][0] for penalty, taxa in predicted.items()
    }
    return max(scores, key=scores.__getitem__)
