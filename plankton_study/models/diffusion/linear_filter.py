"""The linear filter that every denoiser has to beat."""

import numpy as np
import torch
from sklearn.decomposition import PCA

from plankton_study.models.batches import ORIENTATIONS, PixelScale, to_input, turned

#: turned images from which the covariance is computed
MAX_SAMPLES = 20_000
#: for larger images, only as many principal components are told apart
MAX_PIXELS, COMPONENTS = 4096, 1024


class LinearFilter:
    """The Wiener filter: the best linear denoiser of images with a given covariance.

    On the principal components of the images it multiplies each component by a gain. (Beyond 64 px
    the smallest components share one gain.)

    Args:
        images: (N, R, R) uint8.
        rows: rows of the training images. They are seen in all 8 orientations, as in the training
            of the denoiser.
        scale: what standardises the pixels.
    """

    def __init__(self, images: np.ndarray, rows: np.ndarray, scale: PixelScale) -> None:
        self.scale = scale
        pixels = self.standardised(turned_sample(images, rows))
        is_small = pixels.shape[1] <= MAX_PIXELS
        pca = PCA(
            n_components=None if is_small else COMPONENTS,
            svd_solver="covariance_eigh" if is_small else "randomized",
            random_state=0,
        )
        pca.fit(pixels)
        self.mean = pca.mean_
        self.components = pca.components_
        self.variances = pca.explained_variance_
        self.other_variance = pca.noise_variance_

    def standardised(self, images: np.ndarray) -> np.ndarray:
        """Return images (B, R, R) uint8 as standardised pixels, (B, R²) float32."""
        return to_input(images, self.scale).flatten(1).numpy()

    def denoise(self, noisy: np.ndarray, alpha_bar: float) -> np.ndarray:
        """Return the estimates of clean images.

        Args:
            noisy: (B, R²), sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise.
            alpha_bar: share of the signal.

        Returns:
            (B, R²) standardised pixels.
        """
        centred = noisy - alpha_bar**0.5 * self.mean
        gains = _gain(self.variances, alpha_bar)
        other_gain = _gain(self.other_variance, alpha_bar)
        on_components = centred @ self.components.T
        changes = on_components * (gains - other_gain) @ self.components
        return self.mean + other_gain * centred + changes


def _gain(variance: np.ndarray | float, alpha_bar: float) -> np.ndarray | float:
    return alpha_bar**0.5 * variance / (alpha_bar * variance + 1 - alpha_bar)


def turned_sample(images: np.ndarray, rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return a random sample of all orientations of some images, (n, R, R) uint8."""
    pairs = np.random.default_rng(seed).permutation(ORIENTATIONS * len(rows))[:MAX_SAMPLES]
    positions, orientations = np.divmod(pairs, ORIENTATIONS)
    sample = torch.from_numpy(images[rows[positions]])
    for orientation in range(ORIENTATIONS):
        is_own = torch.from_numpy(orientations == orientation)
        sample[is_own] = turned(sample[is_own], orientation)
    return sample.numpy()
