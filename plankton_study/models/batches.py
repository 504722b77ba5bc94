"""Batches: standardised pixels, the images of a step, their orientation, and random draws."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

#: images from which the scale of the pixels is measured
MAX_IMAGES_FOR_SCALE = 50_000
#: by quarter turns and flips
ORIENTATIONS = 8


class PixelScale(NamedTuple):
    """What standardises grey values: a pixel becomes (grey value - mean) / std."""

    mean: float
    std: float


#: the range that most published diffusion models expect
MINUS_ONE_TO_ONE = PixelScale(127.5, 127.5)


def measure_scale(images: np.ndarray, rows: np.ndarray) -> PixelScale:
    """Return mean and standard deviation of the pixels of some images.

    Args:
        images: (N, R, R) uint8.
        rows: the rows to measure, of which at most 50,000 are used.

    Returns:
        Numbers in grey values, rounded to 0.01; the standard deviation is at least 1.
    """
    sample = np.random.default_rng(0).permutation(rows)[:MAX_IMAGES_FOR_SCALE]
    counts = np.zeros(256, np.int64)
    for part in np.array_split(np.sort(sample), len(sample) // 1000 + 1):
        counts += np.bincount(images[part].ravel(), minlength=256)
    shares = counts / counts.sum()
    grey = np.arange(256)
    mean = (shares * grey).sum()
    variance = (shares * (grey - mean) ** 2).sum()
    std = max(float(np.sqrt(variance)), 1.0)
    return PixelScale(round(float(mean), 2), round(std, 2))


def to_input(
    images: np.ndarray, scale: PixelScale, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Return uint8 images (N, R, R) as standardised pixels, (N, 1, R, R) float32.

    This is the input of every network that is trained here.
    """
    x = torch.tensor(np.ascontiguousarray(images), device=device)
    return ((x.float() - scale.mean) / scale.std).unsqueeze(1)


def batch_rows(rows: np.ndarray, step: int, batch_size: int, seed: int) -> np.ndarray:
    """Return the rows of a training step.

    The rows are reshuffled for each epoch, so every image is seen once before any image is seen
    twice.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, within = np.divmod(positions, len(rows))
    parts = []
    for epoch in np.unique(epochs).tolist():
        order = _shuffled(len(rows), seed, epoch)
        parts.append(order[within[epochs == epoch]])
    return rows[np.concatenate(parts)]


@lru_cache(maxsize=2)  # otherwise every step would shuffle all rows
def _shuffled(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def flip_and_turn(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn each image of (N, C, R, R) to a random one of the 8 orientations, in place.

    Plankton has no preferred orientation.
    """
    drawn = torch.randint(ORIENTATIONS, (len(x),), generator=generator)
    for orientation in range(1, ORIENTATIONS):
        is_drawn = drawn == orientation
        x[is_drawn] = turned(x[is_drawn], orientation)
    return x


def turned(images: torch.Tensor, orientation: int) -> torch.Tensor:
    """Return images (…, R, R) in one of the 8 orientations; 0 leaves them as they are."""
    rotated = torch.rot90(images, orientation % 4, (-2, -1))
    return rotated.flip(-1) if orientation >= 4 else rotated


class StepRandomness(NamedTuple):
    """The random draws of one step.

    Every process draws for the whole batch and takes the part of its own images, so the result
    does not depend on the number of processes.
    """

    generator: torch.Generator
    batch_size: int
    own_share: slice

    def draw(self, sample: Callable[..., torch.Tensor], *shape: int) -> torch.Tensor:
        """Draw with e.g. `torch.randn`; return (images of this process, *shape)."""
        whole = sample((self.batch_size, *shape), generator=self.generator)
        return whole[self.own_share]
