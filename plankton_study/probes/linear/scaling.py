"""Features standardised with the training statistics, in blocks that fit into memory."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from sklearn.preprocessing import StandardScaler

from plankton_study.features.bank import AnyBank
from plankton_study.features.interface import Cell

#: largest number of rows whose features are in memory at the same time
BLOCK_ROWS = 65_536


def in_blocks(rows: np.ndarray, most: int | None = None) -> list[np.ndarray]:
    """Split rows into parts of nearly equal size, at most `most` each; None: `BLOCK_ROWS`."""
    parts = -(-len(rows) // (most or BLOCK_ROWS)) or 1
    return np.array_split(rows, parts)


class Scaler(NamedTuple):
    """The mean and the scale of each feature."""

    mean: np.ndarray  # (C,) float64
    scale: np.ndarray  # (C,) float64, the standard deviation; 1 for a constant feature

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Return standardised features, (n, C) float32."""
        centred = features - self.mean.astype(features.dtype)
        return centred / self.scale.astype(features.dtype)


def fit_scaler(bank: AnyBank, cell: Cell, rows: np.ndarray) -> Scaler:
    """Return the statistics of a cell's features over some rows."""
    scaler = StandardScaler()
    for block in in_blocks(rows):
        scaler.partial_fit(bank.take(cell, block))
    return Scaler(scaler.mean_, scaler.scale_)


class ScaledFeatures:
    """The standardised features of some rows, iterated over in blocks.

    A single block is read once and kept; several blocks are read again in each iteration.
    """

    def __init__(
        self,
        bank: AnyBank,
        cell: Cell,
        rows: np.ndarray,
        scaler: Scaler,
        rows_at_once: int | None = None,
    ) -> None:
        self.bank = bank
        self.cell = cell
        self.scaler = scaler
        self.parts = in_blocks(rows, rows_at_once)
        self._kept = [self._read(rows)] if len(self.parts) == 1 else None

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return self.scaler.transform(self.bank.take(self.cell, rows))

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._kept is not None:
            return iter(self._kept)
        return map(self._read, self.parts)

    def whole(self) -> np.ndarray:
        """Return all blocks as one array, (n, C) float32."""
        return np.concatenate(list(self))


def scaled_features(
    bank: AnyBank, cell: Cell, train: np.ndarray, *others: np.ndarray
) -> list[ScaledFeatures]:
    """Return a cell's features of several parts, scaled by the statistics of the training rows.

    Args:
        bank, cell: the features to read.
        train: the training rows; their features come first.
        others: the rows of other parts.
    """
    scaler = fit_scaler(bank, cell, train)
    return [ScaledFeatures(bank, cell, rows, scaler) for rows in (train, *others)]
