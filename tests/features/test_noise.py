"""Noise under control: the same for all images, or from each image's id alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study.features.noise import add_noise
from plankton_study.models.diffusion.noise_schedule import build_scheduler
from plankton_study.run.schema import Noise

SCHEDULER = build_scheduler(Noise())


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 5), st.integers(0, 999))
def test_noise_by_image_depends_on_the_id_alone(order, batch_size, timestep):
    x = torch.linspace(-1, 1, 6 * 64).reshape(6, 1, 8, 8)
    ids = [f"image {number}" for number in range(6)]
    whole = add_noise(x, SCHEDULER, timestep, "by_image", ids, seed=0)
    for start in range(0, 6, batch_size):
        rows = order[start : start + batch_size]
        own_ids = [ids[row] for row in rows]
        batch = add_noise(x[rows], SCHEDULER, timestep, "by_image", own_ids, seed=0)
        assert torch.equal(batch, whole[rows])
    other_seed = add_noise(x, SCHEDULER, timestep, "by_image", ids, seed=1)
    assert not torch.equal(whole, other_seed)


def test_noise_is_added_as_the_scheduler_does():
    blank, x = torch.zeros(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    added = add_noise(blank, SCHEDULER, 999, "shared", ["a", "b"], seed=0)
    noise = added / (1 - SCHEDULER.alphas_cumprod[999]) ** 0.5
    assert torch.equal(noise[0], noise[1])
    noisy = add_noise(x, SCHEDULER, 300, "shared", ["a", "b"], seed=0)
    expected = SCHEDULER.add_noise(x, noise, torch.tensor([300, 300]))
    assert torch.allclose(noisy, expected, atol=1e-5)


def test_a_clean_image_stays_as_it_is():
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(add_noise(x, SCHEDULER, 300, "clean", ["a", "b"], seed=0), x)


@pytest.mark.parametrize("mode", ["shared", "mean", "by_image"])
def test_another_draw_is_another_noise(mode):
    x = torch.zeros(2, 1, 8, 8)
    first, second = (
        add_noise(x, SCHEDULER, 300, mode, ["a", "b"], seed=0, draw=draw) for draw in (0, 1)
    )
    assert not torch.equal(first, second)
