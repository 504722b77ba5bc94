"""The linear filter: that no linear denoiser is better."""

import numpy as np
import pytest

from plankton_study.models.batches import PixelScale
from plankton_study.models.diffusion.linear_filter import LinearFilter, turned_sample

SCALE = PixelScale(120.0, 40.0)


def smooth_images(number: int, seed: int = 0) -> np.ndarray:
    """Return images (n, 8, 8) whose neighbouring pixels are alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(120, 40, (number, 2, 2))
    fine = np.kron(coarse, np.ones((4, 4))) + rng.normal(0, 5, (number, 8, 8))
    return fine.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("alpha_bar", [0.99, 0.5, 0.05])
def test_its_error_is_the_smallest_that_a_linear_map_reaches(alpha_bar):
    images = smooth_images(6000)
    linear = LinearFilter(images, np.arange(5000), SCALE)
    rng = np.random.default_rng(1)
    train = linear.standardised(turned_sample(images, np.arange(5000)))
    clean = linear.standardised(images[5000:])

    def add_noise(pixels):
        noise = rng.normal(size=pixels.shape)
        return alpha_bar**0.5 * pixels + (1 - alpha_bar) ** 0.5 * noise

    def with_constant(pixels):
        return np.column_stack([pixels, np.ones(len(pixels))])

    # least squares from noisy to clean pixels, on as many images
    fitted, *_ = np.linalg.lstsq(with_constant(add_noise(train)), train, rcond=None)
    noisy = add_noise(clean)
    of_least_squares = np.mean((with_constant(noisy) @ fitted - clean) ** 2)
    of_filter = np.mean((linear.denoise(noisy, alpha_bar) - clean) ** 2)
    assert of_filter == pytest.approx(of_least_squares, rel=0.03)
    of_doing_nothing = np.mean((noisy / alpha_bar**0.5 - clean) ** 2)
    assert of_filter < of_doing_nothing


def test_with_few_components_the_rest_shares_a_gain(monkeypatch):
    from plankton_study.models.diffusion import linear_filter

    images = smooth_images(3000)
    whole = LinearFilter(images, np.arange(3000), SCALE)
    monkeypatch.setattr(linear_filter, "MAX_PIXELS", 63)
    monkeypatch.setattr(linear_filter, "COMPONENTS", 4)
    short = LinearFilter(images, np.arange(3000), SCALE)
    assert short.components.shape == (4, 64)
    noisy = whole.standardised(images[:50])
    # four components hold the squares, the other ones only noise of equal strength
    np.testing.assert_allclose(short.denoise(noisy, 0.5), whole.denoise(noisy, 0.5), atol=0.05)


def test_it_is_fitted_to_all_orientations():
    images = np.zeros((30, 8, 8), np.uint8)
    images[:, 0] = 200
    sample = turned_sample(images, np.arange(30))
    assert len(sample) == 240
    edges = {"top": sample[:, 0], "bottom": sample[:, -1]}
    edges |= {"left": sample[:, :, 0], "right": sample[:, :, -1]}
    for name, edge in edges.items():
        assert (edge == 200).all(axis=1).sum() == 60, name
