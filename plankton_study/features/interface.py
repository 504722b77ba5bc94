"""The interface of all encoders: everything that turns images into features."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd


class Cell(NamedTuple):
    """One candidate for the probe: a layer, and for a diffusion model a timestep."""

    layer: str
    timestep: int | None = None

    def __str__(self) -> str:
        if self.timestep is None:
            return self.layer
        return f"{self.layer}@t{self.timestep}"


#: a supervised network's own logits: not a candidate cell, but the head "end to end"
HEAD = Cell("head")
#: the layer of a cell that joins all layers that are read at its timestep
ALL_LAYERS = "all layers"


def joined_cells(cell: Cell, cells: list[Cell]) -> list[Cell]:
    """Return the cells whose features a cell has: itself, or all layers of its timestep.

    Args:
        cell: the cell.
        cells: all cells of the encoder.
    """
    if cell.layer != ALL_LAYERS:
        return [cell]
    return [own for own in cells if own.timestep == cell.timestep and own != HEAD]


class Encoder(Protocol):
    """Anything that turns images into features.

    Attributes:
        name: as shown in tables.
        cells: the candidates, ordered by timestep, then as in `layers`.
        predeclared: the cell that is fixed in advance, used where no data may select one.
        layers: index layer; columns stage, resolution (px), channels, order, as far as known.
        identity: JSON values that determine its features (weights, settings, code); part of the
            cache key.
        folder: its training folder, with curve.csv (see `Trainer`); None if not trained here.
        cost: parameters; and images_seen, flops (per image), seconds and first_loss (of the first
            batch) of its training, as far as known.
    """

    name: str
    cells: list[Cell]
    predeclared: Cell
    layers: pd.DataFrame
    identity: dict[str, Any]
    folder: Path | None
    cost: dict[str, float]

    def encode(
        self, images: np.ndarray, ids: list[str], cells: list[Cell]
    ) -> dict[Cell, np.ndarray]:
        """Return the features of a batch of images.

        Args:
            images: (B, R, R) uint8, dark on light.
            ids: ids of the images, which may seed the noise.
            cells: the cells to read; those of a diffusion model must have one timestep.

        Returns:
            Cell → (B, C) float32.
        """
        ...
