"""The features of a denoiser as a step of a scikit-learn pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from plankton_study import diffusion
from plankton_study.encoders import DiffusionEncoder
from plankton_study.profile import StudyError
from plankton_study.schema import Features


class DiffusionFeatures(TransformerMixin, BaseEstimator):
    """scikit-learn transformer from images to the features of one cell of a denoiser.

    Holds settings only: it clones and pickles without weights, which are read from the folder when needed.

    Args:
        folder: a diffusers folder of an unconditional model.
        layer, timestep: a tap's name, such as "up16.resnet0" (of a pattern the last match), and the noise level.
        pooling, noise: "mean", "mean_std" or "grid"; "clean", "shared" or "mean", with `seed`.
        batch_size, device: images a pass; a torch device.
    """

    def __init__(
        self,
        folder: str | Path,
        layer: str = "mid*",
        timestep: int = 50,
        pooling: str = "mean_std",
        noise: str = "shared",
        seed: int = 0,
        batch_size: int = 32,
        device: str = "cpu",
    ) -> None:
        self.folder, self.layer, self.timestep, self.pooling = folder, layer, timestep, pooling
        self.noise, self.seed, self.batch_size, self.device = noise, seed, batch_size, device

    def fit(self, X: np.ndarray, y: Any = None) -> "DiffusionFeatures":
        """Check images (N, R, R) uint8 and the folder; nothing is learnt."""
        if self.noise == "by_image":
            raise StudyError('noise = "by_image" needs the images\' ids, which an array does not hold: use "shared"')
        self.size_ = self._checked(X).shape[1]
        self.n_features_out_ = self._encode(X[:1]).shape[1]
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return (N, C) float32 for images (N, R, R) uint8."""
        check_is_fitted(self, "size_")
        return self._encode(self._checked(X))

    def _encode(self, images: np.ndarray) -> np.ndarray:
        unet, scheduler = diffusion.load(Path(self.folder), self.size_, self.device)
        settings = Features(taps=(self.layer,), pooling=self.pooling, noise=self.noise, precision="float32")
        encoder = DiffusionEncoder("diffusion", unet, scheduler, self.size_, settings, [self.timestep], self.seed)
        batches = [images[i : i + self.batch_size] for i in range(0, len(images), self.batch_size)]
        return np.concatenate([encoder.encode(b, [""] * len(b), encoder.cells)[encoder.cells[-1]] for b in batches])

    @staticmethod
    def _checked(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.ndim != 3 or images.dtype != np.uint8 or images.shape[1] != images.shape[2]:
            raise StudyError(f"images must be a uint8 array (N, R, R), not {images.dtype} {images.shape}")
        return images
