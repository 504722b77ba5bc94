"""Training batches: the images of a step, their orientation, and random draws such as noise."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch


def to_input(images: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    """Return uint8 images (N, R, R) as the float32 tensor (N, 1, R, R) in [-1, 1].

    This is the input of every network that is trained here.
    """
    x = torch.tensor(np.ascontiguousarray(images), device=device)
    return (x.float() / 127.5 - 1).unsqueeze(1)


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
    """Apply one of the 8 flips and quarter turns to each image of (N, C, R, R), in place.

    Plankton has no preferred orientation.
    """
    kinds = torch.randint(8, (len(x),), generator=generator)
    for kind in range(1, 8):
        is_kind = kinds == kind
        turned = torch.rot90(x[is_kind], kind % 4, (2, 3))
        x[is_kind] = turned.flip(3) if kind >= 4 else turned
    return x


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
