"""Copies: rows that name the same thing, and images that are equal but for noise."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

#: side at which images are compared, px
COMPARED_SIDE = 32
#: dimensions of the space in which candidates are searched
SEARCH_AXES = 12
ROWS_FOR_AXES = 1024
BLOCK = 256


def further_rows(rows: pd.DataFrame, identity: list[str], rank: pd.Series) -> pd.Series:
    """Return which rows have the identity of another one of lower rank, (N,) bool.

    Of equal ranks, the first row is the one that stays.

    Args:
        rows: a table.
        identity: the columns that together identify a thing.
        rank: a number, or a Boolean, for each row.
    """
    in_order = rows.loc[rank.sort_values(kind="stable").index]
    return in_order.duplicated(identity).reindex(rows.index)


def near_duplicates(
    images: np.ndarray, rows: np.ndarray, others: np.ndarray, correlation: float
) -> np.ndarray:
    """Return the rows whose image is nearly equal to an image of `others`.

    Highly correlated unit vectors are close to each other, and so are their projections onto any
    axes. So only pairs that are close in a few dimensions are compared in full. For diverse images
    these are few pairs; in the worst case all of them.

    Args:
        images: (N, R, R) uint8.
        rows: the images to check.
        others: the images that they are compared with.
        correlation: two images with a larger Pearson correlation are near duplicates.

    Returns:
        A subset of `rows`, in their order.
    """
    from torch import pca_lowrank, zeros

    if not len(rows) or not len(others):
        return rows[:0]
    sample = _unit_vectors(images, others[:ROWS_FOR_AXES])
    axes = pca_lowrank(sample, min(SEARCH_AXES, *sample.shape))[2]
    # allocated at once, since many small tensors would fragment the memory
    positions = zeros(len(rows), axes.shape[1])
    other_positions = zeros(len(others), axes.shape[1])
    _project(images, rows, axes, positions)
    _project(images, others, axes, other_positions)

    reach = (2 - 2 * correlation) ** 0.5 + 1e-4
    tree = KDTree(other_positions)
    is_near = np.zeros(len(rows), bool)
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        neighbours = tree.query_ball_point(positions[block], reach)
        candidates = np.unique(np.concatenate(neighbours)).astype(int)
        if len(candidates):
            vectors = _unit_vectors(images, rows[block])
            correlations = vectors @ _unit_vectors(images, others[candidates]).T
            is_near[block] = (correlations > correlation).any(dim=1).numpy()
    return rows[is_near]


def _unit_vectors(images: np.ndarray, rows: np.ndarray) -> Any:
    """Return images as centred vectors of length 1, whose products are Pearson correlations."""
    from torch import from_numpy
    from torch.nn.functional import adaptive_avg_pool2d, normalize

    side = min(images.shape[1], COMPARED_SIDE)
    pixels = from_numpy(images[rows]).float()[:, None]
    vectors = adaptive_avg_pool2d(pixels, side).flatten(1)
    return normalize(vectors - vectors.mean(dim=1, keepdim=True), eps=1e-6)


def _project(images: np.ndarray, rows: np.ndarray, axes: Any, positions: Any) -> None:
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        positions[block] = _unit_vectors(images, rows[block]) @ axes
