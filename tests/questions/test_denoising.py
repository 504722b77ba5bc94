"""Does the denoiser only remember: how near images are to those it was trained on."""

import numpy as np

from plankton_study.questions.denoising import nearest_images


def test_the_nearest_image_may_be_a_turned_copy():
    rng = np.random.default_rng(0)
    others = rng.integers(0, 256, (20, 16, 16), dtype=np.uint8)
    images = np.stack([np.rot90(others[7]), others[3][:, ::-1], others[11]])
    rows, distances = nearest_images(images, others)
    assert rows.tolist() == [7, 3, 11]
    assert distances.max() < 0.5


def test_the_distance_is_the_root_mean_square_of_grey_values():
    image = np.random.default_rng(0).integers(0, 200, (1, 16, 16), dtype=np.uint8)
    rows, distances = nearest_images(image, image + 10)
    assert rows.tolist() == [0]
    np.testing.assert_allclose(distances, 10, rtol=1e-3)
