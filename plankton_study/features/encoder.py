"""The one interface behind which everything lies that turns images into features."""

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


#: a supervised network's own logits: never a candidate, but the head "end to end"
HEAD = Cell("head")


class Encoder(Protocol):
    """Whatever turns images into features.

    Attributes:
        name: as tables show it.
        cells: the candidates, ordered by timestep, then as in `layers`.
        predeclared: the cell to read when no data may choose.
        layers: index layer; columns stage, resolution (px), channels, order; as far as they are
            known.
        identity: JSON values that determine its numbers (weights, settings, code); part of the
            cache's key.
        folder: of its training, with curve.csv (see `Trainer`); None if it was not trained here.
        cost: parameters; and of its training images_seen, flops (an image) and seconds, as far
            as they are known.
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
            ids: of the images; noise may be seeded by them.
            cells: the wanted ones, all of one timestep.

        Returns:
            Cell → (B, C) float32.
        """
        ...
