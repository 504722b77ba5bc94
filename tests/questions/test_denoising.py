"""What the denoiser cost, and how near images are to those it was trained on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from plankton_study.images.splits import make_splits
from plankton_study.models.diffusion.denoiser import initial_denoiser, trained_denoiser
from plankton_study.models.recipe import pixel_scale
from plankton_study.questions.training.denoising import (
    compare_with_linear_filter,
    denoiser_cost_table,
    draw_samples,
    largest_ratio,
    nearest_images,
)
from plankton_study.questions.training.variants import DenoisedSet
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
    read_on_gpu = DenoisedSet(replace(shared, device="cuda"), splits)
    table = denoiser_cost_table({"shapes": read_on_gpu}, {"shapes": folder})
    (line,) = table.to_dict("records")
    assert line["device"] == "cpu"
    assert line["images seen"] == read_json(folder / "cost.json")["images_seen"]


def test_a_denoiser_is_compared_with_the_linear_filter_at_ten_noise_levels(make_study):
    """Training brings it below the filter, where a filter cannot know the shapes."""
    tables = {}
    for images_seen in (32, 9600):
        study = make_study({"images_seen = 320": f"images_seen = {images_seen}"})
        splits = make_splits(study, "shapes")
        folder = trained_denoiser(study, splits)
        tables[images_seen] = compare_with_linear_filter(study, splits, folder)
    for table in tables.values():
        assert table["timestep"].tolist()[::9] == [5, 975] and len(table) == 10
        assert table["linear filter"].is_monotonic_increasing
        for _, row in table.iterrows():
            expected = row["denoiser"] / row["linear filter"]
            assert row["ratio"].value == pytest.approx(expected, rel=1e-5)
            assert row["ratio"].low < row["ratio"].value < row["ratio"].high
    early, late = (largest_ratio([table]).value for table in tables.values())
    assert early > 1
    assert late < 0.5 * early
    ratios = [ratio.value for ratio in tables[9600]["ratio"]]
    assert min(ratios) < 1


def test_the_error_of_a_denoiser_that_predicts_nothing_is_known(make_study, tmp_path):
    """Also if it reads squares of pixels."""
    study = make_study({"[unet]": "[unet]\nunshuffle = 2"})
    splits = make_splits(study, "shapes")
    scale = pixel_scale(study, splits)
    denoiser = initial_denoiser(study, scale)
    torch.nn.init.zeros_(denoiser.unet.conv_out.weight)
    torch.nn.init.zeros_(denoiser.unet.conv_out.bias)
    denoiser.save_pretrained(tmp_path / "silent")
    table = compare_with_linear_filter(study, splits, tmp_path / "silent")
    held_out = splits.collection.images[splits["validation"]].astype(float)
    variance = np.mean(((held_out - scale.mean) / scale.std) ** 2)
    signal = 1 - table["timestep"] / 1000
    expected = (1 - signal) ** 2 * variance + signal * (1 - signal)
    np.testing.assert_allclose(table["denoiser"], expected, rtol=0.05)


def test_samples_are_grey_images(shared):
    folder = trained_denoiser(shared, make_splits(shared, "shapes"))
    samples = draw_samples(shared, folder, number=3)
    assert samples.shape == (3, 16, 16) and samples.dtype == np.uint8
    assert np.array_equal(samples, draw_samples(shared, folder, number=3))
