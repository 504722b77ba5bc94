"""What the denoiser cost, and how near images are to those it was trained on."""

from dataclasses import replace

import numpy as np

from plankton_study.images.splits import make_splits
from plankton_study.models.denoiser import trained_denoiser
from plankton_study.questions.denoising import denoiser_cost_table, nearest_images
from plankton_study.run.files import read_json


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


def test_the_cost_names_the_device_that_trained_not_the_one_that_reads(shared):
    splits = make_splits(shared, "shapes")
    folder = trained_denoiser(shared, splits)
    table = denoiser_cost_table(replace(shared, device="cuda"), {"shapes": folder})
    (line,) = table.to_dict("records")
    assert line["device"] == "cpu"
    assert line["images seen"] == read_json(folder / "cost.json")["images_seen"]
