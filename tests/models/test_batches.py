"""What a training step is shown: which images, how turned, with which noise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study.models.batches import (
    MINUS_ONE_TO_ONE,
    StepRandomness,
    batch_rows,
    flip_and_turn,
    measure_scale,
    to_input,
)


def test_models_from_elsewhere_read_numbers_between_minus_one_and_one():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    x = to_input(images, MINUS_ONE_TO_ONE)
    assert x.shape == (1, 1, 16, 16) and x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.allclose((x + 1) * 127.5, torch.from_numpy(images).float(), atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 200), st.integers(1, 55), st.integers(1, 40))
def test_pixels_are_standardised_over_the_rows_that_are_measured(low, spread, number):
    rng = np.random.default_rng(number)
    images = rng.integers(low, low + spread, (number, 8, 8), dtype=np.uint8)
    others = np.full((5, 8, 8), 255, np.uint8)
    scale = measure_scale(np.concatenate([images, others]), np.arange(number))
    assert scale.mean == pytest.approx(images.mean(), abs=0.006)
    assert scale.std == pytest.approx(max(images.std(), 1), abs=0.006)
    x = to_input(images, scale)
    assert abs(x.mean()) < 0.01
    assert x.std(correction=0) < 1.01


def test_images_of_one_grey_value_have_a_scale():
    blank = np.full((3, 8, 8), 240, np.uint8)
    scale = measure_scale(blank, np.arange(3))
    assert scale == (240, 1)
    assert not to_input(blank, scale).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 5))
def test_every_image_is_seen_once_before_any_is_seen_twice(images, batch_size, seed):
    rows = np.arange(images) * 3
    steps = range(4 * images // batch_size + 1)
    shown = np.concatenate([batch_rows(rows, step, batch_size, seed) for step in steps])
    for epoch in range(len(shown) // images):
        assert sorted(shown[epoch * images : (epoch + 1) * images]) == list(rows)


def test_flips_and_turns_keep_every_pixel_and_reach_all_eight():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    turned = flip_and_turn(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(0))
    assert len({tuple(x.flatten().tolist()) for x in turned}) == 8
    assert all(sorted(x.flatten().tolist()) == list(range(16)) for x in turned)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_draws_of_one(processes):
    def randomness(own_share: slice) -> StepRandomness:
        return StepRandomness(torch.Generator().manual_seed(0), 12, own_share)

    whole = randomness(slice(None)).draw(torch.randn, 4, 4)
    assert whole.shape == (12, 4, 4)
    for index in range(processes):
        own_share = slice(index, None, processes)
        assert torch.equal(randomness(own_share).draw(torch.randn, 4, 4), whole[own_share])
