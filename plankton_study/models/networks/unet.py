"""The denoiser's network, and its down path."""

import torch
from diffusers import UNet2DModel

from plankton_study.run.schema import UNet


def build_unet(config: UNet, size: int, seed: int) -> UNet2DModel:
    """Return an untrained U-Net.

    Args:
        config: the keys of [unet]. Without `time_conditioning` the time embedding is frozen at
            zero, so the saved folder needs no special handling.
        size: side of the images, px.
        seed: seed of the initial weights.
    """
    torch.manual_seed(seed)
    sides = config.map_sides(size)
    has_attention = [side in config.attention for side in sides]
    down_types = ["AttnDownBlock2D" if attends else "DownBlock2D" for attends in has_attention]
    up_types = ["AttnUpBlock2D" if attends else "UpBlock2D" for attends in has_attention]
    unet = UNet2DModel(
        sample_size=sides[0],
        in_channels=config.unshuffle**2,
        out_channels=config.unshuffle**2,
        layers_per_block=config.layers_per_block,
        block_out_channels=config.channels,
        down_block_types=tuple(down_types),
        up_block_types=tuple(reversed(up_types)),
        norm_num_groups=config.groups,
        attention_head_dim=config.head_channels,
        add_attention=has_attention[-1],
        resnet_time_scale_shift=config.residual_blocks,
        downsample_type=config.resampling,
        upsample_type=config.resampling,
        dropout=config.dropout,
    )
    if not config.time_conditioning:
        for parameter in unet.time_embedding.linear_2.parameters():
            torch.nn.init.zeros_(parameter)
            parameter.requires_grad_(False)
    return unet


def to_unet(x: torch.Tensor, channels: int, unshuffle: int) -> torch.Tensor:
    """Return grey images (B, 1, R, R) with the channels that a U-Net expects.

    Args:
        x: the images.
        channels: of the U-Net's input. A U-Net for colour images gets the grey value in each.
        unshuffle: side of the squares of pixels that become the channels of one position (space to
            depth); 1: none.

    Returns:
        (B, channels, R / unshuffle, R / unshuffle).
    """
    squares = torch.nn.functional.pixel_unshuffle(x, unshuffle)
    return squares.expand(-1, channels, -1, -1)


def from_unet(x: torch.Tensor, unshuffle: int) -> torch.Tensor:
    """Return the output of a U-Net as grey images (B, R, R); colours are averaged."""
    return torch.nn.functional.pixel_shuffle(x, unshuffle).mean(dim=1)


class DownPath(torch.nn.Module):
    """The U-Net up to its middle block, at timestep 0: the encoder half of the denoiser.

    Its modules have the same paths as in the U-Net, so taps have the same names.

    Args:
        unet: the U-Net whose modules are used.
        unshuffle: see `to_unet`.
    """

    def __init__(self, unet: UNet2DModel, unshuffle: int = 1) -> None:
        super().__init__()
        self.config = unet.config
        self.unshuffle = unshuffle
        self.time_proj = unet.time_proj
        self.time_embedding = unet.time_embedding
        self.conv_in = unet.conv_in
        self.down_blocks = unet.down_blocks
        self.mid_block = unet.mid_block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map (B, C, r, r) of the middle block for images (B, 1, R, R)."""
        timesteps = torch.zeros(len(x), device=x.device)
        embedding = self.time_embedding(self.time_proj(timesteps).to(x.dtype))
        x = self.conv_in(to_unet(x, self.conv_in.in_channels, self.unshuffle))
        for block in self.down_blocks:
            x, _ = block(x, embedding)
        return self.mid_block(x, embedding)
