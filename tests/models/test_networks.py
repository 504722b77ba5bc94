"""The networks: what their settings change, and what they give."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plankton_study.models.networks.outputs import to_map
from plankton_study.models.networks.unet import build_unet
from plankton_study.models.networks.vit import build_mae
from plankton_study.run.schema import UNet

TINY = UNet(channels=(8, 16), attention=(8,), head_channels=8)
UNET_CHANGES = {
    "residual_blocks": "scale_shift",
    "resampling": "resnet",
    "time_conditioning": False,
    "attention": (),
    "layers_per_block": 2,
}


@pytest.mark.parametrize("key", UNET_CHANGES)
def test_every_key_of_the_unet_changes_it(key):
    changed = build_unet(TINY.model_copy(update={key: UNET_CHANGES[key]}), 16, 0).eval()
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert changed(x, 10).sample.shape == x.shape
    is_told_the_time = not torch.equal(changed(x, 10).sample, changed(x, 900).sample)
    if key == "time_conditioning":
        assert not is_told_the_time
    else:
        assert is_told_the_time
        assert changed.config != build_unet(TINY, 16, 0).config


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(3, 9), st.sampled_from([0, 1, 5]))
def test_tokens_are_laid_out_row_by_row_and_maps_stay_as_they_are(images, channels, side, special):
    numbers = torch.arange(images * channels * side * side).float()
    square = numbers.reshape(images, channels, side, side)
    places = [(row, column) for row in range(side) for column in range(side)]
    tokens = torch.stack([square[:, :, row, column] for row, column in places], dim=1)
    in_front = torch.full((images, special, channels), -1.0)
    tokens = torch.cat([in_front, tokens], dim=1)
    assert torch.equal(to_map(tokens), square)
    assert torch.equal(to_map((tokens, None)), square)
    assert to_map(square) is square


def test_the_autoencoder_knows_where_each_patch_lies(shared):
    torch.manual_seed(0)
    mae = build_mae(shared.profile.vit, 16, 0.5)
    patches = (16 // mae.config.patch_size) ** 2
    encoder_positions = mae.vit.embeddings.position_embeddings[0, 1:]
    decoder_positions = mae.decoder.decoder_pos_embed[0, 1:]
    for positions in (encoder_positions, decoder_positions):
        assert len(positions.unique(dim=0)) == patches
    # each patch has a grey of its own
    ramp = torch.linspace(-1, 1, 256).view(1, 1, 16, 16).expand(16, -1, -1, -1)
    optimiser = torch.optim.AdamW(mae.parameters(), lr=5e-3)
    for _ in range(100):
        optimiser.zero_grad()
        loss = mae(ramp).loss
        loss.backward()
        optimiser.step()
    # without positions the mean grey of all patches would be the best guess
    assert loss < 0.1 * ramp.var()
