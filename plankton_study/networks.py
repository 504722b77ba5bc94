"""The networks of the trained encoders: the U-Net's down path, ResNet and ViT, at sizes that suit small images."""

import math
from typing import Any

import torch
from diffusers import UNet2DModel
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from plankton_study.schema import Profile, ViT


class DownPath(torch.nn.Module):
    """The U-Net up to its middle, told timestep 0: the denoiser's own encoder, for learning from labels.

    Module paths stay those of the U-Net, so that taps have the same names.
    """

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.config = unet.config
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.conv_in, self.down_blocks, self.mid_block = unet.conv_in, unet.down_blocks, unet.mid_block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the middle map (B, C, r, r) of images (B, 1, R, R)."""
        embedding = self.time_embedding(self.time_proj(torch.zeros(len(x), device=x.device)).to(x.dtype))
        x = self.conv_in(x.expand(-1, self.conv_in.in_channels, -1, -1))
        for block in self.down_blocks:
            x, _ = block(x, embedding)
        return self.mid_block(x, embedding)


class WithHead(torch.nn.Module):
    """A network whose pooled last map enters a head: a classifier, or the projector of a contrastive loss."""

    def __init__(self, network: torch.nn.Module, width: int, outputs: int, hidden: int = 0) -> None:
        super().__init__()
        self.network = network
        layers = [torch.nn.Linear(width, hidden), torch.nn.BatchNorm1d(hidden), torch.nn.ReLU()] if hidden else []
        self.head = torch.nn.Sequential(*layers, torch.nn.Linear(hidden or width, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, outputs) for images (B, 1, R, R)."""
        return self.head(to_map(self.network(x)).mean(dim=(2, 3)))


def first(output: Any) -> torch.Tensor:
    """Return the tensor among what a block or model gives: it may be a tuple, or an output with several fields."""
    return output if isinstance(output, torch.Tensor) else output[0]


def to_map(output: Any) -> torch.Tensor:
    """Return what a block gives as (B, C, h, w): maps as they are, tokens (B, T, C) without leading special ones."""
    x = first(output)
    if x.ndim == 4:
        return x
    side = math.isqrt(x.shape[1])
    return x[:, x.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))


def build_resnet(profile: Profile) -> ResNetModel:
    """Return an untrained ResNet of basic blocks for one grey channel, its stem a 3 x 3 convolution of stride 1."""
    widths = profile.resnet.widths
    shape = {"embedding_size": widths[0], "hidden_sizes": list(widths), "depths": list(profile.resnet.depths)}
    resnet = ResNetModel(ResNetConfig(num_channels=1, layer_type="basic", downsample_in_first_stage=False, **shape))
    resnet.embedder.embedder.convolution = torch.nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
    torch.nn.init.kaiming_normal_(resnet.embedder.embedder.convolution.weight, mode="fan_out", nonlinearity="relu")
    resnet.embedder.pooler = torch.nn.Identity()
    resnet.pooler = torch.nn.Identity()  # the head pools
    return resnet


def build_vit(profile: Profile) -> ViTModel:
    """Return an untrained ViT with small patches; its weights have the names of `build_mae`'s encoder."""
    return ViTModel(ViTConfig(**_vit(profile.vit, profile.images.size)), add_pooling_layer=False)


def build_mae(profile: Profile, mask: float) -> ViTMAEForPreTraining:
    """Return an untrained masked autoencoder (He et al. 2022) that hides the share `mask` of the patches."""
    vit = profile.vit
    shape = _vit(vit, profile.images.size)
    shape |= {"decoder_hidden_size": vit.decoder_width, "decoder_num_hidden_layers": vit.decoder_depth}
    shape |= {"decoder_num_attention_heads": vit.heads, "decoder_intermediate_size": 4 * vit.decoder_width}
    mae = ViTMAEForPreTraining(ViTMAEConfig(**shape, mask_ratio=mask, norm_pix_loss=vit.normalise_patches))
    embeddings = mae.vit.embeddings
    # transformers 5.23 takes these for initialised and leaves every position at zero: nothing could be learnt from it
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.initialize_weights()
    mae.decoder.initialize_weights(embeddings.patch_embeddings.num_patches)
    return mae


def _vit(vit: ViT, size: int) -> dict[str, float]:
    shape = {"image_size": size, "patch_size": vit.patch, "num_channels": 1, "hidden_size": vit.width}
    shape |= {"num_hidden_layers": vit.depth, "num_attention_heads": vit.heads, "intermediate_size": 4 * vit.width}
    # the default, 0.02, is made for wider networks: narrow ones hardly start
    return shape | {"initializer_range": vit.width**-0.5}
