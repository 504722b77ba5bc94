"""Random images, which cost as much to read and to learn from as real ones."""

from types import SimpleNamespace

import numpy as np
import pandas as pd


def random_images(number: int, size: int) -> np.ndarray:
    """Return images of uniform noise, (number, size, size) uint8; always the same ones."""
    return np.random.default_rng(0).integers(0, 256, (number, size, size), dtype=np.uint8)


def as_collection(images: np.ndarray) -> SimpleNamespace:
    """Return what extraction reads of a collection that holds these images."""
    ids = [f"{row:06d}" for row in range(len(images))]
    return SimpleNamespace(name="bench", images=images, records=pd.DataFrame({"id": ids}))
