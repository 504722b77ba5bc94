"""Reading taps: the same numbers as a plain full pass, and hooks that vanish."""

from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
import torch

from plankton_study.features.hooks import tapped
from plankton_study.features.pooling import pool
from plankton_study.features.taps import find_taps
from plankton_study.models.batches import MINUS_ONE_TO_ONE, to_input
from plankton_study.models.networks.unet import build_unet
from plankton_study.models.networks.vit import build_vit
from plankton_study.run.schema import UNet

BLANK = torch.zeros(1, 1, 16, 16)
POOLINGS = ["mean", "mean_std", "grid"]


@pytest.fixture(scope="module")
def unet():
    return build_unet(UNet(channels=(8, 16), attention=(8,), head_channels=8), 16, 0).eval()


@pytest.fixture(scope="module")
def x():
    """Ten images, as networks read them."""
    images = np.random.default_rng(0).integers(0, 256, (10, 16, 16), dtype=np.uint8)
    return to_input(images, MINUS_ONE_TO_ONE)


def number_of_hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def full_maps(model, taps, *inputs) -> dict[str, torch.Tensor]:
    """Return tap name → whole map, of a pass that runs to the end."""
    maps = {}

    def record(name, module, arguments, output):
        maps[name] = output

    with torch.no_grad(), ExitStack() as hooks:
        for tap in taps:
            module = model.get_submodule(tap.path)
            hooks.enter_context(module.register_forward_hook(partial(record, tap.name)))
        model(*inputs)
    return maps


def expected_pooling(full: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return what pooling gives for a map (B, C, H, W), by its definition."""
    images, channels, height, _ = full.shape
    if pooling == "grid":
        quarters = full.reshape(images, channels, 2, height // 2, 2, -1)
        return quarters.mean((3, 5)).flatten(1)
    moments = [full.mean((2, 3))]
    if pooling == "mean_std":
        moments.append(full.std((2, 3), correction=0))
    return torch.cat(moments, dim=1)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_features_equal_those_of_a_full_pass_with_full_maps(unet, x, pooling):
    taps = find_taps(unet, BLANK, 0)
    maps = full_maps(unet, taps, x, 50)
    with tapped(unet, taps, pooling) as read:
        features = read(x, 50)
    assert set(features) == set(maps) == {tap.name for tap in taps}
    for name, full in maps.items():
        assert torch.allclose(features[name], expected_pooling(full, pooling), atol=1e-5)


def test_features_of_a_transformer_are_its_hidden_states(shared):
    vit = build_vit(shared.profile.vit, 16).eval()
    taps = find_taps(vit, BLANK)
    x = to_input(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), MINUS_ONE_TO_ONE)
    with tapped(vit, taps, "mean") as read:
        features = read(x)
    with torch.no_grad():
        states = vit(x, output_hidden_states=True).hidden_states
    for tap, state in zip(taps, states[1:], strict=True):
        class_token, patches = state[:, 0], state[:, 1:]
        expected = torch.cat([patches.mean(1), class_token], dim=1)
        assert torch.allclose(features[tap.name], expected, atol=1e-5)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="'std' is not one of mean, mean_std, grid"):
        pool(torch.zeros(1, 2, 4, 4), "std")


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("class_tokens", [0, 1])
def test_tokens_are_pooled_as_the_square_they_lie_on(pooling, class_tokens):
    """A class token in front of them comes last; vectors stay as they are."""
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(3, 5, 4, 4, generator=generator)
    in_front = torch.randn(3, class_tokens, 5, generator=generator)
    tokens = torch.cat([in_front, square.flatten(2).transpose(1, 2)], dim=1)
    expected = torch.cat([pool(square, pooling), in_front.flatten(1)], dim=1)
    assert torch.allclose(pool((tokens, "what else a block gives"), pooling), expected)
    vectors = tokens[:, 0]
    assert torch.equal(pool(vectors, pooling), vectors)


def test_the_pass_ends_at_the_deepest_tap(unet, x):
    last_block, has_run = unet.up_blocks[-1].resnets[-1], []

    def record(*arguments):
        has_run.append(True)

    taps = find_taps(unet, BLANK, 0, patterns=("mid*",))
    with last_block.register_forward_hook(record), tapped(unet, taps) as read:
        read(x, 5)
    assert not has_run


def test_hooks_vanish_also_after_an_error(unet, x):
    taps = find_taps(unet, BLANK, 0)
    wrong_channels = torch.zeros(1, 3, 16, 16)
    with pytest.raises(RuntimeError), tapped(unet, taps) as read:
        assert number_of_hooks(unet) > 0
        read(wrong_channels, 5)
    assert number_of_hooks(unet) == 0
    with torch.no_grad():
        assert unet(x, 5).sample.shape == (10, 1, 16, 16)
